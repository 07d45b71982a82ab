//! Who ends a box, and what is left when something goes wrong.
#![cfg(target_os = "linux")]
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test that cannot go on fails"
)]

mod world;

use std::time::Duration;

use crabbox_core::machine::{MachineState, Observed, Outcome};
use crabbox_core::remote::ExecRequest;
use rustix::process::{Pid, Signal, kill_process};
use world::{Wish, World, alive, eventually};

fn kill(pid: i32) {
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
}

fn lasting(ttl: u64, idle: u64) -> Wish {
    Wish {
        ttl: Duration::from_secs(ttl),
        idle: Duration::from_secs(idle),
        ..Wish::default()
    }
}

#[test]
fn everything_holds_for_an_ordinary_user() {
    world::again_as_ordinary_user();
}

#[tokio::test]
async fn time_ends_a_box_without_any_client() {
    let world = World::new(&[]);
    let machine = world.create_with(lasting(2, 600)).await.unwrap();
    let (supervisor, first) = world.processes(&machine);
    let request = ExecRequest::script("setsid sleep 300 >/dev/null 2>&1 & echo $!", [""; 0]);
    world.exec(&machine, request).await.unwrap();
    let directory = world.directory(&machine);
    assert!(eventually(|| !directory.exists() && !alive(first) && !alive(supervisor)).await);
    assert!(matches!(world.inspect(&machine).await, Observed::Absent(_)));
}

#[tokio::test]
async fn use_keeps_a_box_and_idleness_ends_it() {
    let world = World::new(&[]);
    let machine = world.create_with(lasting(600, 2)).await.unwrap();
    let (code, text) = world.sh(&machine, "sleep 4; echo used").await;
    assert_eq!((code, text.as_str()), (0, "used\n"), "a running command is use");
    let mut labels = machine.labels.clone();
    labels.touch(jiff::Timestamp::now(), Some(Duration::from_secs(4)));
    world
        .backend
        .delegated()
        .unwrap()
        .update_labels(&machine, &labels)
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(2700)).await;
    assert!(
        world.directory(&machine).exists(),
        "a touch with a longer timeout counts"
    );
    let directory = world.directory(&machine);
    assert!(eventually(|| !directory.exists()).await);
}

#[tokio::test]
async fn the_death_of_the_supervisor_ends_the_box() {
    let world = World::new(&[]);
    let machine = world.create().await;
    let request = ExecRequest::script("setsid sleep 300 >/dev/null 2>&1 &", [""; 0]);
    world.exec(&machine, request).await.unwrap();
    let (supervisor, first) = world.processes(&machine);
    kill(supervisor);
    assert!(eventually(|| !alive(first)).await);
    let listed = world.list().await;
    assert_eq!((listed.len(), listed[0].state), (1, MachineState::Failed));
    assert_eq!(listed[0].lease(), machine.lease());
    let error = world.exec(&machine, ExecRequest::new(["true"])).await.unwrap_err();
    assert!(error.hint().is_some(), "{error}");
    assert_eq!(world.destroy(&machine).await, Outcome::Deleted);
    assert!(world.list().await.is_empty());
    let groups = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    for line in groups.lines().filter(|line| line.contains(" - cgroup")) {
        let mount = line.split(' ').nth(4).unwrap();
        let group = format!("{mount}/crabbox-{}", machine.resource.id);
        assert!(!std::path::Path::new(&group).exists(), "{group}");
    }
}

#[tokio::test]
async fn the_death_of_the_first_process_is_noticed() {
    let world = World::new(&[]);
    let machine = world.create().await;
    let (supervisor, first) = world.processes(&machine);
    kill(first);
    let state = world.directory(&machine).join("run.json");
    assert!(eventually(|| std::fs::read_to_string(&state).unwrap().contains("\"broken\":true")).await);
    assert_eq!(world.list().await[0].state, MachineState::Failed);
    assert_eq!(world.destroy(&machine).await, Outcome::Deleted);
    assert!(!alive(supervisor));
}

#[tokio::test]
async fn a_box_whose_directory_is_removed_ends() {
    let world = World::new(&[]);
    let machine = world.create().await;
    let (supervisor, first) = world.processes(&machine);
    std::fs::remove_file(world.directory(&machine).join("box.json")).unwrap();
    assert!(eventually(|| !alive(first) && !alive(supervisor)).await);
}

#[tokio::test]
async fn a_hung_supervisor_does_not_hold_up_the_end() {
    let world = World::new(&[]);
    let machine = world.create().await;
    let (supervisor, first) = world.processes(&machine);
    kill_process(Pid::from_raw(supervisor).unwrap(), Signal::STOP).unwrap();
    assert_eq!(world.destroy(&machine).await, Outcome::Deleted);
    assert!(!alive(first) && !alive(supervisor));
}

#[tokio::test]
async fn a_damaged_record_hides_no_box() {
    let world = World::new(&[]);
    let machine = world.create().await;
    let path = world.directory(&machine).join("box.json");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, &text[..text.len() - 20]).unwrap();
    let listed = world.list().await;
    assert_eq!((listed.len(), listed[0].state), (1, MachineState::Failed));
    assert_eq!(listed[0].lease(), machine.lease());
    assert_eq!(world.destroy(&listed[0]).await, Outcome::Deleted);
}

#[tokio::test]
async fn a_supervisor_that_cannot_be_started_leaves_nothing() {
    let root = tempfile::tempdir().unwrap();
    let directories = crabbox_core::runtime::Directories {
        config: root.path().join("config"),
        state: root.path().join("state"),
        cache: root.path().join("cache"),
    };
    let runtime = crabbox_core::Runtime::new(
        directories,
        "/bin/false".into(),
        crabbox_core::runtime::Environment::default(),
    );
    let backend = crabbox_core::backend::open(
        &crabbox_provider_local::LocalProvider,
        crabbox_core::Settings::default(),
        std::sync::Arc::new(runtime),
    )
    .unwrap();
    let mut journal = world::Noted::default();
    let request = world::request(Wish::default());
    assert!(
        backend
            .delegated()
            .unwrap()
            .create(&request, &mut journal)
            .await
            .is_err()
    );
    let left = std::fs::read_dir(root.path().join("state/local/boxes")).map_or(0, Iterator::count);
    assert_eq!(left, 0);
}

#[tokio::test]
async fn two_hundred_commands_run_at_once() {
    let world = World::new(&[]);
    let machine = world.create().await;
    let commands = (0..200).map(|number| {
        let (world, machine) = (&world, &machine);
        async move {
            world
                .sh(machine, &format!("sleep 0.2; echo {number}; exit {}", number % 7))
                .await
        }
    });
    let results = futures_util::future::join_all(commands).await;
    for (number, (code, text)) in results.into_iter().enumerate() {
        assert_eq!(
            (code, text),
            (i32::try_from(number % 7).unwrap(), format!("{number}\n"))
        );
    }
    world.destroy(&machine).await;
}

#[tokio::test]
async fn a_box_is_not_gone_as_long_as_something_of_it_remains() {
    let world = World::new(&[]);
    let machine = world.create().await;
    let boxes = world.state().join("local/boxes");
    assert_eq!(world.destroy(&machine).await, Outcome::Deleted);
    // What a client leaves that is killed while it makes a box, removes one, or asks the host what it allows.
    let id = &machine.resource.id;
    for name in [format!(".new-{id}"), format!(".gone-{id}"), ".new-probe-1".to_owned()] {
        std::fs::create_dir_all(boxes.join(&name).join("upper-0/directory")).unwrap();
        std::fs::write(boxes.join(&name).join("upper-0/directory/file"), "x").unwrap();
    }
    assert!(matches!(world.inspect(&machine).await, Observed::Absent(_)));
    assert_eq!(std::fs::read_dir(&boxes).unwrap().count(), 0);
}

#[tokio::test]
async fn a_draft_that_somebody_is_making_is_left_alone() {
    let world = World::new(&[]);
    let machine = world.create().await;
    assert_eq!(world.destroy(&machine).await, Outcome::Deleted);
    let draft = world.state().join(format!("local/boxes/.new-{}", machine.resource.id));
    std::fs::create_dir(&draft).unwrap();
    let maker = std::fs::File::open(world.state().join("local/drafts.lock")).unwrap();
    maker.lock_shared().unwrap();
    let look = tokio::time::timeout(Duration::from_millis(200), world.inspect(&machine)).await;
    assert!(look.is_err() && draft.is_dir());
    // Its maker finishes: the box is there now, and that is what the waiting look sees.
    let directory = world.directory(&machine);
    std::fs::rename(&draft, &directory).unwrap();
    drop(maker);
    assert!(matches!(world.inspect(&machine).await, Observed::Present(_)));
    assert!(directory.is_dir());
}

#[tokio::test]
async fn a_box_whose_supervisor_is_just_starting_can_be_destroyed() {
    let world = World::new(&[]);
    let machine = world.create().await;
    let (supervisor, _) = world.processes(&machine);
    kill(supervisor);
    assert!(eventually(|| !alive(supervisor)).await);
    let directory = world.directory(&machine);
    std::fs::remove_file(directory.join("run.json")).unwrap();
    std::fs::remove_file(directory.join("control")).unwrap();
    // It has taken the lock, and nothing else yet.
    let starting = std::fs::File::open(directory.join("lock")).unwrap();
    starting.lock().unwrap();
    let end = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        drop(starting);
    };
    let (outcome, ()) = tokio::join!(world.destroy(&machine), end);
    assert_eq!(outcome, Outcome::Deleted);
}

#[tokio::test]
async fn a_command_learns_that_its_box_was_stopped() {
    let world = World::new(&[]);
    let machine = world.create().await;
    let stop = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        world.destroy(&machine).await
    };
    let command = world.exec(&machine, ExecRequest::script("sleep 30", [""; 0]));
    let (outcome, stopped) = tokio::join!(command, stop);
    assert_eq!(stopped, Outcome::Deleted);
    assert_eq!(outcome.unwrap_err().to_string(), "the box is gone");
}
