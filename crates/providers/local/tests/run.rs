//! A box from its making to its end, and what its walls hold.
#![cfg(target_os = "linux")]
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test that cannot go on fails"
)]

mod world;

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};

use crabbox_core::machine::{MachineState, Observed, Outcome};
use crabbox_core::remote::{ExecRequest, RemotePath, Upload};
use crabbox_core::request::Requirements;
use crabbox_core::runtime::Environment;
use crabbox_core::spec::{Egress, IsolationLevel};
use world::{Wish, World};

#[test]
fn everything_holds_for_an_ordinary_user() {
    world::again_as_ordinary_user();
}

#[tokio::test]
async fn a_box_is_made_used_and_leaves_nothing() {
    let world = World::new(&[]);
    let machine = world.create().await;
    assert_eq!(machine.state, MachineState::Ready);
    assert_eq!(machine.isolation, IsolationLevel::Container);
    assert_eq!(machine.work_root, "/work/crabbox");
    let (code, text) = world.sh(&machine, "echo out; echo err >&2; exit 3").await;
    assert_eq!((code, text.as_str()), (3, "out\nerr\n"));
    assert!(matches!(world.inspect(&machine).await, Observed::Present(_)));
    assert_eq!(world.list().await.len(), 1);
    let (supervisor, first) = world.processes(&machine);
    assert_eq!(world.destroy(&machine).await, Outcome::Deleted);
    assert!(!world::alive(first) && !world::alive(supervisor));
    assert!(matches!(world.inspect(&machine).await, Observed::Absent(_)));
    assert_eq!(world.destroy(&machine).await, Outcome::AlreadyGone);
    assert!(world.list().await.is_empty());
    let left: Vec<_> = std::fs::read_dir(world.state().join("local/boxes")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&machine.resource.id));
}

#[tokio::test]
async fn homes_and_secrets_of_the_host_are_out_of_sight() {
    let home = tempfile::tempdir().unwrap();
    for file in [
        ".ssh/id_ed25519",
        ".cargo/credentials.toml",
        ".cargo/bin/tool",
        ".rustup/settings.toml",
    ] {
        let path = home.path().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, "#!/bin/sh\necho tool runs").unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    let place = home.path().to_str().unwrap();
    let environment = Environment::new([
        ("PATH", format!("{place}/.cargo/bin:/usr/bin:/bin")),
        ("HOME", place.to_owned()),
        ("SECRET", "hunter2".to_owned()),
    ]);
    let world = World::with_environment(&[], environment);
    let machine = world.create().await;
    let script = format!(
        "cat {place}/.ssh/id_ed25519 {place}/.cargo/credentials.toml && exit 10
         cat /root/.ssh/id_ed25519 && exit 11
         [ \"$(ls /home)\" = crabbox ] || exit 12
         [ -z \"$(cat /etc/shadow 2>/dev/null)\" ] || exit 13
         ls {} && exit 14
         [ -z \"$SECRET\" ] || exit 15
         [ \"$(tool)\" = 'tool runs' ] || exit 16
         [ \"$RUSTUP_HOME\" = {place}/.rustup ] || exit 17
         touch {place}/.cargo/bin/x && exit 18
         [ \"$HOME\" = /home/crabbox ] && touch $HOME/x || exit 19
         [ \"$(id -un)\" = crabbox ] || exit 20
         exit 0",
        world.state().display()
    );
    let (code, text) = world.sh(&machine, &script).await;
    assert_eq!(code, 0, "{text}");
    world.destroy(&machine).await;
}

#[tokio::test]
async fn nothing_outside_the_box_can_be_changed() {
    let world = World::new(&[]);
    let machine = world.create().await;
    let script = "
        for place in / /etc /usr/bin /usr/local /opt /home /root /sys /proc/sys/kernel /mnt /work /var/lib; do
            (: > $place/crabbox-was-here) 2>/dev/null && { echo wrote to $place; exit 1; }
        done
        for place in /work/crabbox /home/crabbox /tmp /var/tmp /dev/shm /run; do
            (: > $place/file) || { echo cannot write to $place; exit 2; }
        done
        mount -t tmpfs none /tmp && exit 3
        unshare -Ur true && exit 4
        chroot / true && exit 5
        cat /proc/1/environ && exit 6
        ls /proc/1/fd && exit 7
        kill -9 1
        grep -q '^CapEff:.0000000000000000$' /proc/self/status || exit 8
        grep -q '^NoNewPrivs:.1$' /proc/self/status || exit 9
        grep -q '^Seccomp:.2$' /proc/self/status || exit 10
        [ $(ulimit -c) = 0 ] || exit 11
        exit 0";
    let (code, text) = world.sh(&machine, script).await;
    assert_eq!(code, 0, "{text}");
    assert!(!std::path::Path::new("/tmp/file").exists());
    let (code, _) = world.sh(&machine, "kill -9 -1; exit 0").await;
    assert_eq!(
        code, 137,
        "a box may end its own processes, and this one was among them"
    );
    let (code, text) = world.sh(&machine, "echo still here").await;
    assert_eq!((code, text.as_str()), (0, "still here\n"));
    world.destroy(&machine).await;
}

/// Connects from inside to something that listens on the host.
async fn reaches(world: &World, machine: &crabbox_core::machine::Machine, perl: &str) -> bool {
    let request = ExecRequest::new(["perl", "-MSocket", "-e", perl]);
    let (status, _, stderr) = world.exec(machine, request).await.unwrap();
    assert!(matches!(status.code, 0 | 7), "{stderr}");
    status.success()
}

#[tokio::test]
async fn a_box_without_network_reaches_nothing() {
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let name = format!("crabbox-test-{}", tcp.local_addr().unwrap().port());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let _abstract_socket = UnixListener::bind_addr(&address).unwrap();
    let to_tcp = format!(
        "socket(S,PF_INET,SOCK_STREAM,0); connect(S,sockaddr_in({},inet_aton('127.0.0.1'))) or exit 7",
        tcp.local_addr().unwrap().port()
    );
    let to_abstract = format!("socket(S,PF_UNIX,SOCK_STREAM,0); connect(S,sockaddr_un(\"\\0{name}\")) or exit 7");
    let to_hypervisor = "socket(S,40,SOCK_STREAM,0) or exit 7";

    let mut requirements = Requirements::default();
    requirements.egress = Some(Egress::None);
    let closed = World::new(&[]);
    let wish = Wish {
        requirements,
        ..Wish::default()
    };
    let machine = closed.create_with(wish).await.unwrap();
    assert_eq!(machine.metadata.get("network").map(String::as_str), Some("none"));
    for attempt in [to_tcp.as_str(), &to_abstract, to_hypervisor] {
        assert!(!reaches(&closed, &machine, attempt).await, "{attempt}");
    }
    let own = "socket(L,PF_INET,SOCK_STREAM,0); bind(L,sockaddr_in(7,inet_aton('127.0.0.1'))); \
               socket(L,PF_INET,SOCK_STREAM,0); bind(L,sockaddr_in(7777,inet_aton('127.0.0.1'))) or exit 7; listen(L,1); \
               socket(S,PF_INET,SOCK_STREAM,0); connect(S,sockaddr_in(7777,inet_aton('127.0.0.1'))) or exit 7";
    assert!(reaches(&closed, &machine, own).await, "its own loopback works");
    closed.destroy(&machine).await;

    let open = World::new(&[("network", "host")]);
    let machine = open.create().await;
    assert!(
        reaches(&open, &machine, &to_tcp).await,
        "the listener was there all the time"
    );
    let abi = open
        .backend
        .doctor(crabbox_core::request::Probe::default())
        .await
        .unwrap();
    let landlock = abi.checks.iter().find(|check| check.check == "landlock").unwrap();
    let fenced = landlock.details.get("abi").unwrap().parse::<i32>().unwrap() >= 6;
    assert_eq!(reaches(&open, &machine, &to_abstract).await, !fenced);
    open.destroy(&machine).await;
}

#[tokio::test]
async fn exhausting_processes_stays_in_the_box() {
    let world = World::new(&[("pids", "48")]);
    let (greedy, other) = (world.create().await, world.create().await);
    let script = "i=0; while [ $i -lt 300 ]; do sleep 100 & i=$((i+1)); echo $i; done";
    let (code, text) = world.sh(&greedy, script).await;
    assert_ne!(code, 0, "{text}");
    let started = text.lines().filter_map(|line| line.parse::<u32>().ok()).max().unwrap();
    assert!(started < 48, "{started}");
    let (code, text) = world.sh(&other, "(sleep 0; echo fine)").await;
    assert_eq!((code, text.as_str()), (0, "fine\n"));
    assert_eq!(world.destroy(&greedy).await, Outcome::Deleted);
    world.destroy(&other).await;
}

#[tokio::test]
async fn what_this_machine_cannot_honour_is_refused() {
    let world = World::new(&[]);
    let refuse = |change: &dyn Fn(&mut Requirements)| {
        let mut requirements = Requirements::default();
        change(&mut requirements);
        world.backend.admit(&requirements).unwrap_err().to_string()
    };
    let text = refuse(&|requirements| requirements.isolation = Some(IsolationLevel::VirtualMachine));
    assert_eq!(
        text,
        "provider local isolates by container at most, but the profile demands: vm"
    );
    let text = refuse(&|requirements| requirements.egress = Some(Egress::Allowlist));
    assert_eq!(text, "provider local cannot filter egress by an allowlist");
    let bare = World::new(&[("isolation", "none")]);
    let mut requirements = Requirements::default();
    requirements.isolation = Some(IsolationLevel::Container);
    let error = bare.backend.admit(&requirements).unwrap_err();
    assert_eq!(
        error.to_string(),
        "boxes on this machine are not isolated, so this cannot be had: isolation"
    );
    assert_eq!(
        error.hint(),
        Some("set local.isolation to auto, or choose another provider with --provider")
    );
}

#[tokio::test]
async fn files_are_opened_with_the_rights_of_the_box() {
    let world = World::new(&[]);
    let machine = world.create().await;
    let files = world.backend.files().unwrap();
    let script =
        "cd /work/crabbox; ln -s /etc/ssl/private/secret one; ln -s /proc/1/environ two; ln -s /etc three; mkfifo four";
    assert_eq!(world.sh(&machine, script).await.0, 0);
    for name in ["one", "two", "three", "four"] {
        let path: RemotePath = format!("/work/crabbox/{name}").parse().unwrap();
        assert!(
            files.download(&machine, &path, &mut Vec::new()).await.is_err(),
            "{name}"
        );
    }
    let delegated = world.backend.delegated().unwrap();
    let into_link: RemotePath = "/work/crabbox/three/crabbox-was-here".parse().unwrap();
    let upload = delegated
        .upload(&machine, &into_link, Upload::from_bytes("x", 0o644))
        .await;
    assert!(upload.is_err());
    assert!(!std::path::Path::new("/etc/crabbox-was-here").exists());
    let workspaces = world.backend.host_workspace().unwrap();
    for bad in ["/work/crabbox/three", "/proc/sys/kernel", "/etc"] {
        assert!(
            workspaces.directory(&machine, &bad.parse().unwrap()).await.is_err(),
            "{bad}"
        );
    }
    world.destroy(&machine).await;
}

#[tokio::test]
async fn ten_gigabytes_would_pass_in_constant_memory() {
    struct Count(u64);
    #[async_trait::async_trait]
    impl crabbox_core::remote::OutputSink for Count {
        async fn write(
            &mut self,
            _: crabbox_core::remote::OutputStream,
            chunk: bytes::Bytes,
        ) -> crabbox_core::Result<()> {
            assert!(chunk.len() <= 512 * 1024);
            self.0 += chunk.len() as u64;
            Ok(())
        }
    }
    let world = World::new(&[]);
    let machine = world.create().await;
    let mut count = Count(0);
    let request = ExecRequest::new(["head", "-c", "300000000", "/dev/zero"]);
    let status = world
        .backend
        .delegated()
        .unwrap()
        .exec(&machine, request, &mut count)
        .await
        .unwrap();
    assert!(status.success());
    assert_eq!(count.0, 300_000_000);
    world.destroy(&machine).await;
}

#[tokio::test]
async fn without_isolation_a_box_still_works_and_says_so() {
    let world = World::new(&[("isolation", "none")]);
    let machine = world.create().await;
    assert_eq!(machine.isolation, IsolationLevel::None);
    let (code, text) = world.sh(&machine, "pwd; echo err >&2; exit 4").await;
    assert_eq!(code, 4);
    assert!(
        text.starts_with(world.directory(&machine).join("home").to_str().unwrap()),
        "{text}"
    );
    let path: RemotePath = format!("{}/a/b", machine.work_root).parse().unwrap();
    let delegated = world.backend.delegated().unwrap();
    delegated
        .upload(&machine, &path, Upload::from_bytes("content", 0o600))
        .await
        .unwrap();
    let mut content = Vec::new();
    world
        .backend
        .files()
        .unwrap()
        .download(&machine, &path, &mut content)
        .await
        .unwrap();
    assert_eq!(content, b"content");
    let request =
        ExecRequest::script("sleep 100 & sleep 100", [""; 0]).with_timeout(Some(std::time::Duration::from_millis(200)));
    assert!(world.exec(&machine, request).await.unwrap_err().is_cancelled());
    assert_eq!(world.destroy(&machine).await, Outcome::Deleted);
}
