//! What a hostile command tries against the machine around its box, beyond its plain files.
#![cfg(target_os = "linux")]
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test that cannot go on fails"
)]

mod world;

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;

use crabbox_core::machine::Outcome;
use crabbox_core::remote::ExecRequest;
use crabbox_core::runtime::Environment;
use world::{Heard, World};

/// The names of a box's root that are its own, and those that software of a machine has.
const TOP: &[&str] = &[
    "bin", "dev", "etc", "gnu", "home", "media", "mnt", "nix", "opt", "proc", "root", "run", "sbin", "snap", "sys",
    "tmp", "usr", "var", "work",
];

#[test]
fn everything_holds_for_an_ordinary_user() {
    world::again_as_ordinary_user();
}

#[tokio::test]
async fn only_software_of_the_host_is_visible() {
    let world = World::new(&[]);
    let machine = world.create().await;
    let (code, text) = world.sh(&machine, "ls -A /").await;
    assert_eq!(code, 0, "{text}");
    let other: Vec<&str> = text
        .lines()
        .filter(|name| !name.starts_with("lib") && !TOP.contains(name))
        .collect();
    assert!(other.is_empty(), "{other:?}");
    world.destroy(&machine).await;
}

#[tokio::test]
async fn what_is_exposed_shows_neither_sockets_nor_what_is_hidden() {
    let root = tempfile::tempdir().unwrap();
    // On some machines the way to temporary files leads through a link.
    let place = root.path().canonicalize().unwrap();
    let shared = place.join("shared");
    std::fs::create_dir(&shared).unwrap();
    std::fs::set_permissions(&shared, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::set_permissions(&place, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::write(shared.join("file"), "shown").unwrap();
    let door = shared.join("door");
    let _listener = UnixListener::bind(&door).unwrap();
    std::fs::set_permissions(&door, std::fs::Permissions::from_mode(0o777)).unwrap();
    let environment = Environment::new([("PATH", "/usr/local/bin:/usr/bin:/bin"), ("HOME", "/root")]);
    let notices = Arc::new(Heard::default());
    let exposed = [("expose", place.to_str().unwrap()), ("network", "none")];
    let backend = world::connect(&place, &exposed, environment, notices.clone());
    let world = World { root, backend, notices };
    let machine = world.create().await;
    let script = format!(
        "cd {0}/shared && [ $(cat file) = shown ] || exit 1
         perl -MSocket -e 'socket(S,PF_UNIX,SOCK_STREAM,0); exit(connect(S,sockaddr_un(\"door\")) ? 7 : 0)' || exit 2
         [ -z \"$(ls -A {0}/state)\" ] || exit 3
         (: > {0}/state/x) 2>/dev/null && exit 4
         exit 0",
        place.display()
    );
    assert_eq!(world.sh(&machine, &script).await, (0, String::new()));
    assert_eq!(world.destroy(&machine).await, Outcome::Deleted);
}

#[tokio::test]
async fn calls_that_reach_past_a_box_are_denied() {
    let world = World::new(&[]);
    let machine = world.create().await;
    // X.25, PPPoX, Qualcomm's router and SMC: none is on a list of bad ones, all are not on the list of good ones.
    let families = "for $family (9, 24, 42, 43) { socket(S,$family,1,0) and exit 1; $! == 1 or exit 2 }";
    let request = ExecRequest::new(["perl", "-e", families]);
    assert_eq!(world.exec(&machine, request).await.unwrap().0.code, 0);
    if cfg!(target_arch = "x86_64") {
        let other_numbering = "syscall(0x40000000 + 39) == -1 or exit 1; exit($! == 1 ? 0 : 2)";
        let request = ExecRequest::new(["perl", "-e", other_numbering]);
        assert_eq!(world.exec(&machine, request).await.unwrap().0.code, 0);
    }
    world.destroy(&machine).await;
}

#[tokio::test]
async fn what_the_kernel_counts_per_user_is_not_used_up() {
    let number = |path: &str| -> u64 { std::fs::read_to_string(path).unwrap().trim().parse().unwrap() };
    let whole = number("/proc/sys/fs/inotify/max_user_instances");
    let world = World::new(&[]);
    let machine = world.create().await;
    let call = if cfg!(target_arch = "x86_64") { 294 } else { 26 };
    let take = format!("$n = 0; $n++ while $n < {whole} && syscall({call}, 0) >= 0; print $n");
    let (status, stdout, stderr) = world
        .exec(&machine, ExecRequest::new(["perl", "-e", &take]))
        .await
        .unwrap();
    assert!(status.success(), "{stderr}");
    let taken: u64 = stdout.parse().unwrap();
    assert!((1..=(whole / 4).max(1)).contains(&taken), "{taken} of {whole}");
    let (_, text) = world.sh(&machine, "cat /proc/sys/user/max_user_namespaces").await;
    assert_eq!(text, "0\n");
    world.destroy(&machine).await;
}

#[tokio::test]
async fn memory_of_the_host_outlasts_a_box() {
    let world = World::new(&[]);
    let machine = world.create().await;
    let script = "df -kP /tmp /var/tmp /run /dev/shm | awk 'NR > 1 { print $2 }'
                  awk '/MemTotal/ { print $2 }' /proc/meminfo; cat /proc/self/oom_score_adj";
    let (code, text) = world.sh(&machine, script).await;
    assert_eq!(code, 0, "{text}");
    let numbers: Vec<u64> = text.lines().map(|line| line.parse().unwrap()).collect();
    let [places @ .., memory, score] = numbers.as_slice() else {
        panic!("{text}")
    };
    assert_eq!(places.len(), 4);
    assert!(places.iter().sum::<u64>() < *memory, "{text}");
    assert!(*score >= 500, "{score}");
    world.destroy(&machine).await;
}

#[tokio::test]
async fn a_command_that_stops_its_keeper_can_be_ended() {
    let world = World::new(&[]);
    let machine = world.create().await;
    let request =
        ExecRequest::script("kill -STOP $PPID; exec sleep 600", [""; 0]).with_timeout(Some(Duration::from_millis(200)));
    let ended = tokio::time::timeout(Duration::from_secs(30), world.exec(&machine, request)).await;
    assert!(ended.expect("it hangs").unwrap_err().is_cancelled());
    let (code, text) = world.sh(&machine, "echo fine").await;
    assert_eq!((code, text.as_str()), (0, "fine\n"));
    world.destroy(&machine).await;
}
