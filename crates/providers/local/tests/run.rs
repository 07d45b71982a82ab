//! What running commands in a box promises.
#![cfg(target_os = "linux")]

mod world;

use std::time::{Duration, Instant};

use crabbox_core::error::ErrorKind;
use crabbox_core::machine::{MachineState, Observed, Outcome};
use crabbox_core::remote::{ExecRequest, ExecStatus, Stdin, Upload};
use world::World;

#[tokio::test]
async fn a_box_is_made_used_and_leaves_nothing() {
    let world = World::new(&[]);
    let machine = world.create().await;
    assert_eq!(machine.state, MachineState::Ready);
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
