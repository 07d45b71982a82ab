//! Commands and files.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use crabbox_core::remote::{ExecRequest, OutputSink, OutputStream, Stdin, Upload};
use crabbox_core::{Error, ErrorKind, Remote as _, Result};
use crabbox_ssh::{Pty, PtyEvent, SshRemote, TerminalSize};

use crate::support::{Count, Sshd, output, run, running, sh};

#[tokio::test]
async fn statuses_signals_and_streams() {
    let sshd = Sshd::start();
    let (_, remote) = sshd.remote().await;
    for code in [0, 1, 7, 125, 126, 127, 254, 255] {
        let (status, _, _) = run(&remote, ExecRequest::script::<&str>(&format!("exit {code}"), []))
            .await
            .unwrap();
        assert_eq!((status.code, status.signal), (code, None));
    }
    let (status, out, err) = run(
        &remote,
        ExecRequest::script::<&str>("echo out; echo err >&2; printf no-newline", []),
    )
    .await
    .unwrap();
    assert_eq!(
        (status.code, out.as_str(), err.as_str()),
        (0, "out\nno-newline", "err\n")
    );
    let (status, _, _) = run(&remote, ExecRequest::script::<&str>("kill -TERM $$", []))
        .await
        .unwrap();
    assert_eq!((status.code, status.signal), (143, Some(15)));
    let (status, _, _) = run(&remote, ExecRequest::script::<&str>("kill -KILL $$", []))
        .await
        .unwrap();
    assert_eq!((status.code, status.signal), (137, Some(9)));
    let (status, _, err) = run(&remote, ExecRequest::new(["no-such-program"])).await.unwrap();
    assert_eq!(status.code, 127);
    assert!(err.contains("no-such-program"), "{err}");
    assert_eq!(
        run(&remote, ExecRequest::new(["/etc/passwd"])).await.unwrap().0.code,
        126
    );
}

#[tokio::test]
async fn arguments_and_variables_arrive_as_they_are() {
    let sshd = Sshd::start();
    let (_, remote) = sshd.remote().await;
    let odd = [
        "",
        " ",
        "it's",
        "\"q\"",
        "a\nb",
        "$HOME `id` \\",
        "*",
        "-n",
        "ä€",
        "a\tb\r",
        "!x",
        "~",
        "#",
    ];
    let mut argv = vec!["printf", "[%s]"];
    argv.extend(odd);
    let (_, out, _) = run(&remote, ExecRequest::new(argv)).await.unwrap();
    assert_eq!(out, odd.map(|word| format!("[{word}]")).concat());

    let env: BTreeMap<String, String> = odd
        .iter()
        .enumerate()
        .map(|(index, value)| (format!("V{index}"), (*value).to_owned()))
        .collect();
    let script = "for n in 0 1 2 3 4 5 6 7 8 9 10 11 12; do eval \"printf '[%s]' \\\"\\$V$n\\\"\"; done";
    let (_, out, _) = run(&remote, ExecRequest::script::<&str>(script, []).with_env(env))
        .await
        .unwrap();
    assert_eq!(out, odd.map(|word| format!("[{word}]")).concat());

    // Longer than any argument list or request may be.
    let long = "x".repeat(100_000);
    let env = BTreeMap::from([("LONG".to_owned(), long.clone())]);
    let request = ExecRequest::script("printf '%s %s' ${#LONG} ${#1}", [long]).with_env(env);
    assert_eq!(run(&remote, request).await.unwrap().1, "100000 100000");
}

#[tokio::test]
async fn nothing_secret_stands_in_an_argument_list() {
    let sshd = Sshd::start();
    let (_, remote) = sshd.remote().await;
    let env = BTreeMap::from([("TOKEN".to_owned(), "hunter2-secret".to_owned())]);
    let request = ExecRequest::script::<&str>(
        "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '; echo $TOKEN >&2",
        [],
    )
    .with_env(env);
    let (_, out, err) = run(&remote, request).await.unwrap();
    assert_eq!(err, "hunter2-secret\n");
    assert!(
        out.contains("/proc/[0-9]*/cmdline"),
        "the arguments themselves are there"
    );
    assert!(!out.contains("hunter2-secret"));
    let leaked = sh(&remote, "set | grep _cb_ || true").await;
    assert_eq!(leaked, "");
}

#[tokio::test]
async fn directories_and_refusals() {
    let sshd = Sshd::start();
    let (_, remote) = sshd.remote().await;
    let request = || ExecRequest::script::<&str>("pwd; echo $PWD", []);
    let (_, out, _) = run(&remote, request().in_dir("/usr/lib".parse().unwrap()))
        .await
        .unwrap();
    assert_eq!(out, "/usr/lib\n/usr/lib\n");
    let error = run(&remote, request().in_dir("/no/such dir".parse().unwrap()))
        .await
        .unwrap_err();
    assert_eq!(error.message(), "no such directory on the box: `/no/such dir`");
    assert_eq!(
        run(&remote, ExecRequest::default()).await.unwrap_err().kind(),
        ErrorKind::Usage
    );
}

#[tokio::test]
async fn input_streams_while_output_does() {
    let sshd = Sshd::start();
    let (_, remote) = sshd.remote().await;
    let size = 20 << 20;
    let stream = || Stdin::Stream(Box::pin(tokio::io::AsyncReadExt::take(tokio::io::repeat(7), size)));
    let mut count = Count::default();
    let status = remote
        .exec(ExecRequest::new(["cat"]).with_stdin(stream()), &mut count)
        .await
        .unwrap();
    assert!(status.success());
    assert_eq!((count.bytes, count.sum), (size, size * 7));

    // A command that reads nothing is not kept waiting by its input, and its status counts.
    let (status, _, _) = run(&remote, ExecRequest::script::<&str>("exit 3", []).with_stdin(stream()))
        .await
        .unwrap();
    assert_eq!(status.code, 3);
    let (_, out, _) = run(
        &remote,
        ExecRequest::new(["cat"]).with_stdin(Stdin::Bytes(Bytes::from_static(b"a\0b"))),
    )
    .await
    .unwrap();
    assert_eq!(out, "a\0b");
    assert_eq!(run(&remote, ExecRequest::new(["cat"])).await.unwrap().1, "");
}

/// A reader that fails after some bytes.
struct Broken(usize);

impl tokio::io::AsyncRead for Broken {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        _context: &mut std::task::Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        if self.0 == 0 {
            return std::task::Poll::Ready(Err(std::io::Error::other("disk gone")));
        }
        let length = self.0.min(buffer.remaining());
        buffer.put_slice(&vec![b'x'; length]);
        self.0 -= length;
        std::task::Poll::Ready(Ok(()))
    }
}

/// A sink that refuses after some bytes.
struct Full(u64);

#[async_trait]
impl OutputSink for Full {
    async fn write(&mut self, _stream: OutputStream, chunk: Bytes) -> Result<()> {
        self.0 = self
            .0
            .checked_sub(chunk.len() as u64)
            .ok_or_else(|| Error::other("sink is full"))?;
        Ok(())
    }
}

#[tokio::test]
async fn a_failing_input_or_sink_ends_the_command() {
    let sshd = Sshd::start();
    let (_, remote) = sshd.remote().await;
    let remote = remote.with_grace(Duration::from_millis(200));
    let request =
        ExecRequest::new(["sh", "-c", "cat >/dev/null; sleep 991"]).with_stdin(Stdin::Stream(Box::pin(Broken(1000))));
    let error = run(&remote, request).await.unwrap_err();
    assert!(error.to_string().contains("disk gone"), "{error}");
    let error = remote
        .exec(ExecRequest::new(["yes", "marker-992"]), &mut Full(1 << 20))
        .await
        .unwrap_err();
    assert_eq!(error.message(), "sink is full");
    assert_eq!(running("sleep 991"), Vec::<String>::new());
    assert_eq!(running("marker-992"), Vec::<String>::new());
}

/// A sink that is slow at first and never asks for more than it was given.
#[derive(Default)]
struct Slow {
    count: Count,
    most: u64,
}

#[async_trait]
impl OutputSink for Slow {
    async fn write(&mut self, stream: OutputStream, chunk: Bytes) -> Result<()> {
        if self.count.bytes < 4 << 20 {
            tokio::time::sleep(Duration::from_millis(10)).await;
            self.most = self.most.max(resident());
        }
        self.count.write(stream, chunk).await
    }
}

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

#[tokio::test]
async fn a_large_output_takes_bounded_memory() {
    let sshd = Sshd::start();
    let (_, remote) = sshd.remote().await;
    let size: u64 = if cfg!(debug_assertions) { 128 << 20 } else { 1 << 30 };
    let before = resident();
    let mut slow = Slow::default();
    let request = ExecRequest::new(["head", "-c", &size.to_string(), "/dev/zero"]);
    assert!(remote.exec(request, &mut slow).await.unwrap().success());
    assert_eq!(slow.count.bytes, size);
    let grown = slow.most.max(resident()).saturating_sub(before);
    assert!(grown < 48 << 20, "grew by {grown} bytes");
}

#[tokio::test]
async fn files_go_up_and_come_down() {
    let sshd = Sshd::start();
    let (_, remote) = sshd.remote().await;
    let base: crabbox_core::remote::RemotePath = sshd.directory.path().to_str().unwrap().parse().unwrap();
    let file = base.join("new dir/it's").unwrap();
    let content = Bytes::from((0..3_000_000_u32).map(|n| (n % 251) as u8).collect::<Vec<u8>>());
    remote
        .upload(&file, Upload::from_bytes(content.clone(), 0o751))
        .await
        .unwrap();
    let mut back = Vec::new();
    assert_eq!(remote.download(&file, &mut back).await.unwrap(), content.len() as u64);
    assert_eq!(back, content);
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(file.as_str()).unwrap().permissions());
    assert_eq!(mode & 0o7777, 0o751);

    // Unknown length, an empty file, and replacing a link rather than what it leads to.
    let mut unknown = Upload::from_bytes("second", 0o600);
    unknown.length = None;
    std::os::unix::fs::symlink("it's", sshd.path("new dir/link")).unwrap();
    let link = base.join("new dir/link").unwrap();
    remote.upload(&link, unknown).await.unwrap();
    assert_eq!(std::fs::read(sshd.path("new dir/link")).unwrap(), b"second");
    assert_eq!(std::fs::read(file.as_str()).unwrap(), content);
    remote.upload(&link, Upload::from_bytes("", 0o600)).await.unwrap();
    assert_eq!(remote.download(&link, &mut Vec::new()).await.unwrap(), 0);

    // What is short, broken or in the way changes nothing.
    let mut short = Upload::from_bytes("short", 0o600);
    short.length = Some(100);
    let error = remote.upload(&file, short).await.unwrap_err();
    assert!(
        error.message().starts_with("upload incomplete after 5 of 100 bytes"),
        "{error}"
    );
    let broken = || {
        let mut upload = Upload::from_bytes("", 0o600);
        upload.content = Box::pin(Broken(70_000));
        upload
    };
    let mut unknown = broken();
    unknown.length = None;
    for upload in [broken(), unknown] {
        assert!(remote.upload(&file, upload).await.is_err());
    }
    assert!(
        remote
            .upload(&base, Upload::from_bytes("x", 0o600))
            .await
            .unwrap_err()
            .message()
            .contains("directory")
    );
    assert_eq!(std::fs::read(file.as_str()).unwrap(), content);
    let left: Vec<_> = std::fs::read_dir(sshd.path("new dir"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left.len(), 2, "{left:?}");

    for bad in ["missing", "new dir"] {
        let error = remote
            .download(&base.join(bad).unwrap(), &mut Vec::new())
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Remote);
        assert!(error.message().starts_with("no such regular file"), "{error}");
    }
}

async fn read_until(pty: &mut Pty, text: &str) -> String {
    let mut seen = String::new();
    loop {
        match tokio::time::timeout(crate::support::SOON, pty.next())
            .await
            .expect(&seen)
            .unwrap()
        {
            PtyEvent::Output(data) => seen.push_str(&String::from_utf8_lossy(&data)),
            other => panic!("{other:?} after {seen}"),
        }
        if seen.contains(text) {
            return seen;
        }
    }
}

#[tokio::test]
async fn a_terminal_has_a_size_that_changes() {
    let sshd = Sshd::start();
    let (session, _) = sshd.remote().await;
    let size = TerminalSize { columns: 132, rows: 43 };
    let script = "stty size; echo $TERM; read a; stty size; exit 9";
    let pty = session.pty(Some(script), "vt100", size).await;
    if output(Command::new("id").arg("-u")) != "0" {
        // A server that is not the superuser's cannot hand out terminals, and says so.
        assert_eq!(pty.unwrap_err().message(), "the box refuses a terminal");
        return;
    }
    let mut pty = pty.unwrap();
    assert!(read_until(&mut pty, "vt100").await.contains("43 132"));
    pty.resize(TerminalSize { columns: 99, rows: 11 }).await.unwrap();
    pty.write("go\n").await.unwrap();
    read_until(&mut pty, "11 99").await;
    loop {
        if let PtyEvent::Ended(status) = pty.next().await.unwrap() {
            assert_eq!(status.code, 9);
            break;
        }
    }
}

#[tokio::test]
async fn login_shells_of_other_kinds_and_noisy_ones() {
    // A profile that talks, on both streams.
    let sshd = Sshd::start();
    std::fs::write(sshd.path("home/.bashrc"), "echo noise >&2\n").unwrap();
    let (_, remote) = sshd.remote().await;
    let (status, out, err) = run(
        &remote,
        ExecRequest::script::<&str>("echo out; echo err >&2; exit 4", []),
    )
    .await
    .unwrap();
    assert_eq!((status.code, out.as_str()), (4, "out\n"));
    assert!(err.ends_with("err\n"), "{err}");

    // A forced command that does not run ours.
    let forced = Sshd::with(1, "ForceCommand echo go away >&2; exit 1");
    let (_, remote) = forced.remote().await;
    let error = run(&remote, ExecRequest::new(["true"])).await.unwrap_err();
    assert!(
        error
            .message()
            .ends_with("ended with 1 before the command started: go away"),
        "{error}"
    );
    let _: SshRemote = remote;
}
