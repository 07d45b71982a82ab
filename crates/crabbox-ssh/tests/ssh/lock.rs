//! The workspace lock: every reply, and what it is for.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crabbox_core::remote::{Discard, ExecRequest, Upload};
use crabbox_core::runtime::SystemClock;
use crabbox_core::{Remote, Result};
use crabbox_ssh::workspace_lock::{LockOptions, Reply, WorkspaceLock, lock_key};
use tokio_util::sync::CancellationToken;

use crate::support::{Said, Sshd, end, pid_of, run, running, sh, until};

const LEASE: &str = "cbx_abcdef123456";

fn options() -> LockOptions {
    let mut options = LockOptions::default();
    options.wait = Duration::from_millis(300);
    options.poll = Duration::from_millis(50);
    options
}

struct World {
    sshd: Sshd,
    remote: Arc<dyn Remote>,
}

impl World {
    async fn new() -> Self {
        let sshd = Sshd::start();
        let (_, remote) = sshd.remote().await;
        Self {
            sshd,
            remote: Arc::new(remote),
        }
    }

    async fn acquire(&self, options: LockOptions) -> Result<WorkspaceLock> {
        let (clock, said, cancel) = (Arc::new(SystemClock), Said::default(), CancellationToken::new());
        WorkspaceLock::acquire(Arc::clone(&self.remote), LEASE, options, clock, &said, &cancel).await
    }

    fn file(&self, suffix: &str) -> PathBuf {
        self.sshd
            .path(&format!("home/.crabbox/workspace-owners/{}.{suffix}", lock_key(LEASE)))
    }

    fn write(&self, suffix: &str, text: &str) {
        std::fs::create_dir_all(self.file(suffix).parent().unwrap()).unwrap();
        std::fs::write(self.file(suffix), text).unwrap();
    }

    fn owner(&self, token: char, expiry: i64) {
        let expiry = jiff::Timestamp::now().as_second() + expiry;
        self.write("owner", &format!("v1\n{}\n{expiry}\n", token.to_string().repeat(64)));
    }

    /// A process that lives and its identity.
    async fn child(&self, mark: u32) {
        let task = Arc::clone(&self.remote);
        let name = mark.to_string();
        tokio::spawn(async move { task.exec(ExecRequest::new(["sleep", &name]), &mut Discard).await });
        let line = format!("sleep {mark}");
        until("child", || pid_of(&line).is_some()).await;
        let pid = pid_of(&line).unwrap();
        let born = sh(&*self.remote, &format!("LC_ALL=C ps -o lstart= -p {pid}")).await;
        self.write("child", &format!("{pid}\n{}\n", born.trim()));
    }
}

fn message<T: std::fmt::Debug>(result: Result<T>) -> String {
    result.unwrap_err().message().to_owned()
}

#[tokio::test]
async fn taken_inspected_renewed_and_given_back() {
    let world = World::new().await;
    let lock = world.acquire(options()).await.unwrap();
    assert!(!lock.recovered());
    let text = std::fs::read_to_string(world.file("owner")).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!((lines.len(), lines[0], lines[1]), (3, "v1", lock.token()));
    let left = lines[2].parse::<i64>().unwrap() - jiff::Timestamp::now().as_second();
    assert!((40..=45).contains(&left), "{left}");
    assert_eq!(lock.inspect().await.unwrap(), Reply::Owned);
    lock.renew().await.unwrap();
    for path in [world.file("owner"), world.file("gate")] {
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(path).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
    }
    lock.release().await.unwrap();
    assert!(!world.file("owner").exists());
    assert!(!world.acquire(options()).await.unwrap().recovered());
}

#[tokio::test]
async fn a_second_client_waits_and_then_takes_its_turn() {
    let world = World::new().await;
    let lock = world.acquire(options()).await.unwrap();
    assert_eq!(
        message(world.acquire(options()).await),
        "the workspace is in use after 0 s: busy"
    );
    let mut patient = options();
    patient.wait = Duration::from_secs(20);
    let releasing = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        lock.release().await.unwrap();
    };
    let (second, ()) = tokio::join!(world.acquire(patient), releasing);
    second.unwrap();
}

#[tokio::test]
async fn the_gate_of_another_client_means_busy() {
    let world = World::new().await;
    world.write("gate", "");
    let gate = world.file("gate").display().to_string();
    let remote = Arc::clone(&world.remote);
    let holder = tokio::spawn(async move {
        remote
            .exec(ExecRequest::new(["flock", "-x", &gate, "sleep", "9301"]), &mut Discard)
            .await
    });
    until("held", || pid_of("sleep 9301").is_some()).await;
    assert!(message(world.acquire(options()).await).ends_with("busy"));
    end("sleep 9301").await;
    holder.await.unwrap().unwrap();
    world.acquire(options()).await.unwrap();
}

#[tokio::test]
async fn an_expired_lock_is_recovered_unless_its_child_lives() {
    let world = World::new().await;
    world.owner('a', -5);
    world.child(9401).await;
    assert!(message(world.acquire(options()).await).ends_with("child"));
    end("sleep 9401").await;
    let lock = world.acquire(options()).await.unwrap();
    assert!(lock.recovered());
    assert!(!world.file("child").exists());
}

#[tokio::test]
async fn a_process_id_that_was_used_again_is_not_the_child() {
    let world = World::new().await;
    world.owner('a', -5);
    world.write("child", "1\nMon Jan  1 00:00:00 1990\n");
    assert!(world.acquire(options()).await.unwrap().recovered());
}

#[tokio::test]
async fn state_that_makes_no_sense_is_never_taken_over() {
    let world = World::new().await;
    let token = "a".repeat(64);
    let owners = [
        String::new(),
        "v2\n".to_owned(),
        format!("v1\n{token}\n"),
        format!("v1\n{token}\nsoon\n"),
        format!("v1\n{}\n1\n", "A".repeat(64)),
        format!("v1\n{}\n1\n", "a".repeat(63)),
        format!("v1\n{token}\n1\nmore\n"),
    ];
    for text in owners {
        world.write("owner", &text);
        assert_eq!(
            message(world.acquire(options()).await),
            "take the workspace: AMBIGUOUS",
            "{text:?}"
        );
        assert_eq!(std::fs::read_to_string(world.file("owner")).unwrap(), text);
    }
    std::fs::remove_file(world.file("owner")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", world.file("owner")).unwrap();
    assert_eq!(message(world.acquire(options()).await), "take the workspace: AMBIGUOUS");
    std::fs::remove_file(world.file("owner")).unwrap();
    for text in ["", "x\ny\n", "12\n", "12\na\nb\n", "012\na\n"] {
        world.owner('a', -5);
        world.write("child", text);
        assert_eq!(
            message(world.acquire(options()).await),
            "take the workspace: AMBIGUOUS",
            "{text:?}"
        );
    }
}

#[tokio::test]
async fn a_lost_lock_can_neither_be_renewed_nor_used_nor_given_back() {
    let world = World::new().await;
    let lock = world.acquire(options()).await.unwrap();
    let remote = lock.remote();
    world.owner('b', 100);
    assert_eq!(message(lock.renew().await), "renew the workspace lock: MISMATCH");
    assert_eq!(message(lock.inspect().await), "inspect the workspace lock: MISMATCH");
    let touched = world.sshd.path("touched");
    let request = || ExecRequest::new(["touch", touched.to_str().unwrap()]);
    assert_eq!(
        message(run(&remote, request()).await),
        "start a command under the workspace lock: MISMATCH"
    );
    assert_eq!(message(lock.release().await), "release the workspace: MISMATCH");
    assert!(std::fs::read_to_string(world.file("owner")).unwrap().contains("bbbb"));

    std::fs::remove_file(world.file("owner")).unwrap();
    let lock = world.acquire(options()).await.unwrap();
    let text = std::fs::read_to_string(world.file("owner")).unwrap();
    let mut lines: Vec<&str> = text.lines().collect();
    lines[2] = "1000";
    world.write("owner", &format!("{}\n", lines.join("\n")));
    assert_eq!(message(lock.renew().await), "renew the workspace lock: EXPIRED");
    assert_eq!(
        message(run(&lock.remote(), request()).await),
        "start a command under the workspace lock: EXPIRED"
    );
    assert_eq!(message(lock.release().await), "release the workspace: EXPIRED");
    assert!(!touched.exists());
}

/// A box whose search path has a few programs only.
async fn bare(world: &World, lockf: Option<&str>) -> World {
    use std::os::unix::fs::PermissionsExt as _;
    let bin = world.sshd.path("bin");
    let _ = std::fs::create_dir(&bin);
    for name in ["sh", "mkdir", "ps", "date", "mv", "rm", "sleep", "true"] {
        let real = sh(&*world.remote, &format!("command -v {name}")).await;
        // `true` is a builtin of the shell that answers.
        let real = if real.trim() == name {
            format!("/bin/{name}")
        } else {
            real.trim().to_owned()
        };
        let _ = std::os::unix::fs::symlink(real, bin.join(name));
    }
    if let Some(text) = lockf {
        std::fs::write(bin.join("lockf"), text).unwrap();
        std::fs::set_permissions(bin.join("lockf"), std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let home = world.sshd.path("home");
    let sshd = Sshd::with(1, &format!("SetEnv PATH={} HOME={}", bin.display(), home.display()));
    let (_, remote) = sshd.remote().await;
    World {
        sshd,
        remote: Arc::new(remote),
    }
}

#[tokio::test]
async fn a_box_that_cannot_lock_says_so() {
    let world = World::new().await;
    assert_eq!(
        message(bare(&world, None).await.acquire(options()).await),
        "take the workspace: UNLOCKABLE"
    );
}

#[tokio::test]
async fn a_box_with_the_other_locking_tool() {
    // The tool of macOS and the BSDs, as far as we use it: `lockf -s -k -t <seconds> <file> <command>…`, 75 when held.
    let lockf = "#!/bin/sh\n[ \"$1 $2 $3\" = '-s -k -t' ] || exit 64\nwait=$4; shift 4\n\
                 exec /usr/bin/flock -x -w \"$wait\" -E 75 \"$@\"\n";
    let world = World::new().await;
    let other = bare(&world, Some(lockf)).await;
    let lock = other.acquire(options()).await.unwrap();
    assert!(message(world.acquire(options()).await).ends_with("busy"));
    let (status, _, _) = run(&lock.remote(), ExecRequest::new(["true"])).await.unwrap();
    assert!(status.success());
    lock.renew().await.unwrap();
    lock.release().await.unwrap();

    let gate = world.file("gate").display().to_string();
    let remote = Arc::clone(&world.remote);
    let holder = tokio::spawn(async move {
        remote
            .exec(ExecRequest::new(["flock", "-x", &gate, "sleep", "9701"]), &mut Discard)
            .await
    });
    until("held", || pid_of("sleep 9701").is_some()).await;
    assert!(message(other.acquire(options()).await).ends_with("busy"));
    end("sleep 9701").await;
    holder.await.unwrap().unwrap();
}

#[tokio::test]
async fn commands_run_recorded_one_at_a_time() {
    let world = World::new().await;
    let lock = world.acquire(options()).await.unwrap();
    let remote = lock.remote();
    let script = "cat; echo err >&2; echo $$; umask; exit 7";
    let request = ExecRequest::script::<&str>(script, [])
        .with_stdin(crabbox_core::remote::Stdin::Bytes("in\n".into()))
        .in_dir("/usr".parse().unwrap());
    let (status, out, err) = run(&remote, request).await.unwrap();
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(
        (status.code, lines[0], lines[2], err.as_str()),
        (7, "in", "0022", "err\n")
    );
    let child = std::fs::read_to_string(world.file("child")).unwrap();
    assert_eq!(
        child.lines().next().unwrap(),
        lines[1],
        "the recorded process is the command"
    );

    let base: crabbox_core::remote::RemotePath = world.sshd.directory.path().to_str().unwrap().parse().unwrap();
    let file = base.join("put").unwrap();
    remote.upload(&file, Upload::from_bytes("x", 0o644)).await.unwrap();
    let mut back = Vec::new();
    assert_eq!(remote.download(&file, &mut back).await.unwrap(), 1);

    // Two at once take turns.
    let log = world.sshd.path("turns");
    let one = |name: &str| {
        ExecRequest::script::<&str>(
            &format!(
                "echo {name} >>{log}; sleep 0.2; echo {name} >>{log}",
                log = log.display()
            ),
            [],
        )
    };
    let (first, second) = tokio::join!(run(&remote, one("a")), run(&remote, one("b")));
    first.unwrap();
    second.unwrap();
    let turns = std::fs::read_to_string(&log).unwrap();
    assert!(["a\na\nb\nb\n", "b\nb\na\na\n"].contains(&turns.as_str()), "{turns}");
    lock.release().await.unwrap();
}

#[tokio::test]
async fn a_living_child_keeps_the_lock() {
    let world = World::new().await;
    let lock = world.acquire(options()).await.unwrap();
    let remote = lock.remote();
    let cancel = CancellationToken::new();
    let task = {
        let request = ExecRequest::new(["sleep", "9501"]).with_cancel(cancel.clone());
        tokio::spawn(async move { remote.exec(request, &mut Discard).await })
    };
    until("child", || pid_of("sleep 9501").is_some()).await;
    assert_eq!(lock.inspect().await.unwrap(), Reply::Child);
    let other = lock.remote();
    let refused = run(&other, ExecRequest::new(["true"])).await;
    assert_eq!(message(refused), "start a command under the workspace lock: CHILD");
    assert_eq!(message(lock.release().await), "release the workspace: CHILD");
    cancel.cancel();
    assert!(task.await.unwrap().unwrap_err().is_cancelled());
}

#[tokio::test]
async fn losing_the_lock_ends_the_command() {
    let world = World::new().await;
    let mut quick = options();
    quick.renew = Duration::from_millis(200);
    let lock = world.acquire(quick).await.unwrap();
    let remote = lock.remote();
    let steal = async {
        until("child", || pid_of("sleep 9601").is_some()).await;
        world.owner('c', 100);
    };
    let request = ExecRequest::new(["sleep", "9601"]);
    let (result, ()) = tokio::join!(run(&remote, request), steal);
    assert_eq!(message(result), "the workspace lock is lost");
    assert_eq!(running("sleep 9601"), Vec::<String>::new());
    assert_eq!(
        lock.loss().unwrap().message(),
        "remote workspace owner renewal failed closed: MISMATCH"
    );
}
