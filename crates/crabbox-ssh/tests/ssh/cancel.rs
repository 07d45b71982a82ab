//! Ending commands, and losing them.

use std::time::{Duration, Instant};

use crabbox_core::Remote as _;
use crabbox_core::remote::{Discard, ExecRequest, OutputSink, OutputStream, Upload};
use crabbox_ssh::{Session, SshRemote};
use tokio_util::sync::CancellationToken;

use crate::support::{SOON, Sshd, end, pid_of, run, running, sh, until};

/// A shell with a child, one in the background, one that left the group, and one that left the session and its parents.
fn tree(mark: u32) -> String {
    format!(
        "sleep {mark}01 & (sleep {mark}02 &) ; setsid sleep {mark}03 & setsid sh -c 'sleep {mark}04 & sleep {mark}05' \
         </dev/null >/dev/null 2>&1 & env -i sleep {mark}06 & sleep {mark}07"
    )
}

async fn started(mark: u32) {
    until("the tree runs", || {
        running(&format!("sleep {mark}0"))
            .iter()
            .filter(|line| line.starts_with("sleep"))
            .count()
            == 7
    })
    .await;
}

fn left(mark: u32) -> Vec<String> {
    running(&format!("sleep {mark}0"))
}

#[tokio::test]
async fn cancelling_ends_the_whole_tree() {
    let sshd = Sshd::start();
    let (_, remote) = sshd.remote().await;
    let cancel = CancellationToken::new();
    let request = ExecRequest::script::<&str>(&tree(71), []).with_cancel(cancel.clone());
    let ending = async {
        started(71).await;
        cancel.cancel();
    };
    let (result, ()) = tokio::join!(run(&remote, request), ending);
    let error = result.unwrap_err();
    assert!(error.is_cancelled() && !error.facts().outcome_unknown, "{error:?}");
    assert_eq!(left(71), Vec::<String>::new());
    // The session goes on.
    assert_eq!(sh(&remote, "echo on").await, "on\n");
}

#[tokio::test]
async fn a_program_may_say_goodbye_and_a_stubborn_one_is_killed() {
    let sshd = Sshd::start();
    let (_, remote) = sshd.remote().await;
    let remote = remote.with_grace(Duration::from_secs(1));
    let script = "trap 'echo goodbye; exit 0' TERM; echo ready; while :; do sleep 0.05; done";
    let mut sink = Lines::default();
    let error = remote
        .exec(
            ExecRequest::script::<&str>(script, []).with_timeout(Some(Duration::from_millis(700))),
            &mut sink,
        )
        .await
        .unwrap_err();
    assert!(error.is_cancelled());
    assert_eq!(error.message(), "command took longer than 0.7 s");
    assert_eq!(sink.0, b"ready\ngoodbye\n");

    let start = Instant::now();
    let stubborn = "trap '' TERM HUP INT; while :; do sleep 0.1 # stubborn-72\ndone";
    let request = ExecRequest::script::<&str>(stubborn, []).with_timeout(Some(Duration::from_millis(500)));
    assert!(remote.exec(request, &mut Discard).await.unwrap_err().is_cancelled());
    assert!(start.elapsed() < SOON);
    assert_eq!(running("stubborn-72"), Vec::<String>::new());
}

#[derive(Default)]
struct Lines(Vec<u8>);

#[async_trait::async_trait]
impl OutputSink for Lines {
    async fn write(&mut self, stream: OutputStream, chunk: bytes::Bytes) -> crabbox_core::Result<()> {
        // Some shells tell on standard error that their child was ended.
        if stream == OutputStream::Stdout {
            self.0.extend_from_slice(&chunk);
        }
        Ok(())
    }
}

/// A sink that never takes anything.
struct Stuck;

#[async_trait::async_trait]
impl OutputSink for Stuck {
    async fn write(&mut self, _stream: OutputStream, _chunk: bytes::Bytes) -> crabbox_core::Result<()> {
        std::future::pending().await
    }
}

#[tokio::test]
async fn a_stuck_reader_holds_up_neither_others_nor_its_own_end() {
    let sshd = Sshd::start();
    let (session, remote) = sshd.remote().await;
    let remote = remote.with_grace(Duration::from_millis(500));
    let cancel = CancellationToken::new();
    let request = ExecRequest::new(["yes", "marker-73"]).with_cancel(cancel.clone());
    let others = async {
        until("the connection is full", || !running("marker-73").is_empty()).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(sh(&remote, "echo on").await, "on\n");
        assert_eq!(session.connections(), 2);
        cancel.cancel();
    };
    let mut stuck = Stuck;
    let (result, ()) = tokio::time::timeout(SOON, async { tokio::join!(remote.exec(request, &mut stuck), others) })
        .await
        .expect("no deadlock");
    assert!(result.unwrap_err().is_cancelled());
    assert_eq!(running("marker-73"), Vec::<String>::new());
}

#[tokio::test]
async fn dropping_a_command_ends_it() {
    let sshd = Sshd::start();
    let (_, remote) = sshd.remote().await;
    let task = {
        let remote = remote.clone();
        tokio::spawn(async move {
            remote
                .exec(ExecRequest::script::<&str>(&tree(74), []), &mut Discard)
                .await
        })
    };
    started(74).await;
    task.abort();
    until("the tree is gone", || left(74).is_empty()).await;

    for delay in [0, 1, 2, 3, 4, 6, 8, 12, 16, 24] {
        let task = {
            let remote = remote.clone();
            tokio::spawn(async move { remote.exec(ExecRequest::new(["sleep", "7900"]), &mut Discard).await })
        };
        tokio::time::sleep(Duration::from_millis(delay)).await;
        task.abort();
    }
    // Every one has been started and ended, or was never started: give the last a moment to do either.
    tokio::time::sleep(Duration::from_secs(2)).await;
    until("none is left", || running("sleep 7900").is_empty()).await;
}

#[tokio::test]
async fn cancelling_at_any_moment_leaves_nothing() {
    let sshd = Sshd::start();
    let (session, remote) = sshd.remote().await;
    for delay in [0, 1, 2, 4, 8, 16, 32, 64] {
        let cancel = CancellationToken::new();
        let request = ExecRequest::new(["sleep", "7500"]).with_cancel(cancel.clone());
        let later = async {
            tokio::time::sleep(Duration::from_millis(delay)).await;
            cancel.cancel();
        };
        let (result, ()) = tokio::join!(run(&remote, request), later);
        assert!(result.unwrap_err().is_cancelled());
        until("gone", || running("sleep 7500").is_empty()).await;
    }
    // No session was leaked on the box: all ten of one connection are free.
    let all = (0..10).map(|_| sh(&remote, "sleep 0.2"));
    futures_util::future::join_all(all).await;
    assert!(session.connections() <= 2, "{}", session.connections());
}

#[tokio::test]
async fn a_lost_connection_is_an_error_and_never_a_status() {
    let sshd = Sshd::start();
    let (session, remote) = sshd.remote().await;
    let script = format!(
        "echo x >>{}/ran; echo started; sleep 7600",
        sshd.directory.path().display()
    );
    let killing = async {
        until("started", || pid_of("sleep 7600").is_some()).await;
        sshd.kill_connections();
    };
    let (result, ()) = tokio::join!(run(&remote, ExecRequest::script::<&str>(&script, [])), killing);
    let error = result.unwrap_err();
    assert!(
        error.facts().outcome_unknown && !error.is_retryable() && !error.is_cancelled(),
        "{error:?}"
    );
    assert!(error.message().contains("lost while the command ran"), "{error}");
    // Not run again, and the next command connects anew.
    assert_eq!(std::fs::read_to_string(sshd.path("ran")).unwrap(), "x\n");
    assert_eq!(sh(&remote, "echo again").await, "again\n");
    assert_eq!(session.connections(), 1);
    end("sleep 7600").await;
}

#[tokio::test]
async fn a_silent_connection_counts_as_lost() {
    let sshd = Sshd::start();
    // A relay that stops relaying, as a network that was cut does.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut destination = sshd.destination();
    destination.ports = vec![listener.local_addr().unwrap().port()];
    destination.keepalive = Duration::from_millis(300);
    let cut = CancellationToken::new();
    let (stop, port) = (cut.clone(), sshd.ports[0]);
    tokio::spawn(async move {
        let (mut near, _) = listener.accept().await.unwrap();
        let mut far = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        tokio::select! {
            _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
            () = stop.cancelled() => std::future::pending::<()>().await,
        }
    });
    let remote = SshRemote::new(Session::connect(destination).await.unwrap()).unwrap();
    let cutting = async {
        until("started", || pid_of("sleep 7700").is_some()).await;
        cut.cancel();
    };
    let (result, ()) = tokio::time::timeout(SOON, async {
        tokio::join!(run(&remote, ExecRequest::new(["sleep", "7700"])), cutting)
    })
    .await
    .unwrap();
    let error = result.unwrap_err();
    assert!(error.to_string().contains("stopped answering"), "{error}");
    end("sleep 7700").await;
}

#[tokio::test]
async fn a_command_can_be_ended_when_every_place_is_taken() {
    for sessions in [1, 10] {
        let sshd = Sshd::with(1, &format!("MaxSessions {sessions}"));
        let mut destination = sshd.destination();
        destination.max_connections = 1;
        let remote = SshRemote::new(Session::connect(destination).await.unwrap()).unwrap();
        let cancel = CancellationToken::new();
        let all: Vec<_> = (0..sessions)
            .map(|_| {
                let request = ExecRequest::new(["sleep", "7800"]).with_cancel(cancel.clone());
                let remote = remote.clone();
                tokio::spawn(async move { remote.exec(request, &mut Discard).await })
            })
            .collect();
        until("started", || running("sleep 7800").len() >= sessions).await;
        cancel.cancel();
        for task in all {
            let error = tokio::time::timeout(SOON, task)
                .await
                .expect("no deadlock")
                .unwrap()
                .unwrap_err();
            assert!(error.is_cancelled() && !error.facts().outcome_unknown, "{error}");
        }
        assert_eq!(running("sleep 7800"), Vec::<String>::new());
    }
}

/// Gives some bytes and then nothing for ever.
struct Stalled(usize);

impl tokio::io::AsyncRead for Stalled {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        _context: &mut std::task::Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        if self.0 == 0 {
            return std::task::Poll::Pending;
        }
        let length = self.0.min(buffer.remaining());
        buffer.put_slice(&vec![b'x'; length]);
        self.0 -= length;
        std::task::Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn an_upload_that_is_cut_off_is_never_taken_for_the_whole() {
    let sshd = Sshd::start();
    let (_, remote) = sshd.remote().await;
    let directory = sshd.path("up");
    std::fs::create_dir(&directory).unwrap();
    std::fs::write(directory.join("file"), "before").unwrap();
    let destination = format!("{}/file", directory.display()).parse().unwrap();
    let entries = || std::fs::read_dir(&directory).unwrap().count();
    for length in [Some(2 << 20), None] {
        let mut upload = Upload::from_bytes("", 0o600);
        upload.content = Box::pin(Stalled(1 << 20));
        upload.length = length;
        let cutting = async {
            until("arriving", || entries() == 2).await;
            sshd.kill_connections();
        };
        let (result, ()) = tokio::join!(remote.upload(&destination, upload), cutting);
        assert!(result.unwrap_err().facts().outcome_unknown);
        assert_eq!(std::fs::read_to_string(directory.join("file")).unwrap(), "before");
        if length.is_some() {
            until("cleaned up", || entries() == 1).await;
        }
    }
}
