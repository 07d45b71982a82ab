//! Checkpoints, forks and restores.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod world;

use crabbox_core::error::Result;
use crabbox_core::id::CheckpointId;
use crabbox_core::machine::Machine;
use crabbox_core::remote::ExecRequest;
use crabbox_core::request::{CheckpointObserved, CreateCheckpoint, NativeCheckpoint};
use world::{Wish, World};

#[test]
fn everything_holds_for_an_ordinary_user() {
    world::again_as_ordinary_user();
}

async fn take(world: &World, machine: &Machine) -> NativeCheckpoint {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).unwrap();
    let request = CreateCheckpoint::new(
        CheckpointId::from_random(bytes),
        "test",
        "/work/crabbox".parse().unwrap(),
    );
    world
        .backend
        .checkpoints()
        .unwrap()
        .create(machine, &request)
        .await
        .unwrap()
}

async fn fork(world: &World, checkpoint: &NativeCheckpoint) -> Result<Machine> {
    let wish = Wish {
        restore_from: Some(checkpoint.clone()),
        ..Wish::default()
    };
    world.create_with(wish).await
}

async fn ok(world: &World, machine: &Machine, script: &str) -> String {
    let (code, text) = world.sh(machine, script).await;
    assert_eq!(code, 0, "{script}: {text}");
    text
}

fn layers(world: &World) -> usize {
    std::fs::read_dir(world.state().join("local/layers")).unwrap().count()
}

#[tokio::test]
async fn a_quiet_box_is_frozen_without_a_copy_and_goes_on() {
    let world = World::new(&[]);
    let machine = world.create().await;
    ok(
        &world,
        &machine,
        "mkdir /work/crabbox/repo; echo 1 > /work/crabbox/repo/file; echo t > /tmp/t; echo h > ~/h",
    )
    .await;
    let checkpoint = take(&world, &machine).await;
    assert_eq!(checkpoint.metadata.get("method").map(String::as_str), Some("layer"));
    let text = ok(
        &world,
        &machine,
        "cat /work/crabbox/repo/file /tmp/t ~/h; rm /work/crabbox/repo/file; echo 2 > /work/crabbox/repo/new",
    )
    .await;
    assert_eq!(text, "1\nt\nh\n", "nothing is lost by taking it");
    let copy = fork(&world, &checkpoint).await.unwrap();
    assert_eq!(
        ok(&world, &copy, "cd /work/crabbox/repo; ls; cat file").await,
        "file\n1\n"
    );
    world.destroy(&copy).await;
    world.destroy(&machine).await;
}

#[tokio::test]
async fn a_busy_box_is_copied_and_goes_on() {
    let world = World::new(&[]);
    let machine = world.create().await;
    let busy = "cd /work/crabbox; echo 1 > file; mkfifo wake; echo started; cat wake; echo done";
    let request = ExecRequest::script(busy, [""; 0]);
    let running = world.exec(&machine, request);
    let checkpoint = async {
        let ready = world.directory(&machine).join("upper-0/wake");
        assert!(world::eventually(|| ready.exists()).await);
        let checkpoint = take(&world, &machine).await;
        ok(
            &world,
            &machine,
            "echo 2 > /work/crabbox/file; echo woken > /work/crabbox/wake",
        )
        .await;
        checkpoint
    };
    let (ran, checkpoint) = tokio::join!(running, checkpoint);
    assert_eq!(ran.unwrap().1, "started\nwoken\ndone\n");
    assert_ne!(checkpoint.metadata.get("method").map(String::as_str), Some("layer"));
    let copy = fork(&world, &checkpoint).await.unwrap();
    assert_eq!(
        ok(&world, &copy, "cat /work/crabbox/file; echo 3 > /work/crabbox/file").await,
        "1\n"
    );
    assert_eq!(ok(&world, &machine, "cat /work/crabbox/file").await, "2\n");
    world.destroy(&copy).await;
    world.destroy(&machine).await;
}

#[tokio::test]
async fn ten_forks_see_nothing_of_each_other() {
    let world = World::new(&[]);
    let machine = world.create().await;
    ok(
        &world,
        &machine,
        "cd /work/crabbox; mkdir d; echo base > d/file; echo gone > d/gone",
    )
    .await;
    let checkpoint = take(&world, &machine).await;
    let forks = (0..10).map(|number| {
        let (world, checkpoint) = (&world, &checkpoint);
        async move {
            let fork = fork(world, checkpoint).await.unwrap();
            let script = format!(
                "cd /work/crabbox/d; rm gone; echo {number} >> file; echo x > own-{number}; sleep 0.3; cat file; ls"
            );
            (number, ok(world, &fork, &script).await, fork)
        }
    });
    for (number, text, fork) in futures_util::future::join_all(forks).await {
        assert_eq!(text, format!("base\n{number}\nfile\nown-{number}\n"));
        world.destroy(&fork).await;
    }
    assert_eq!(
        ok(&world, &machine, "cd /work/crabbox/d; cat file; ls").await,
        "base\nfile\ngone\n"
    );
    world.destroy(&machine).await;
}

#[tokio::test]
async fn a_restore_discards_what_came_after_and_ends_what_ran() {
    let world = World::new(&[]);
    let machine = world.create().await;
    ok(&world, &machine, "echo 1 > /work/crabbox/file").await;
    let checkpoint = take(&world, &machine).await;
    ok(
        &world,
        &machine,
        "echo 2 > /work/crabbox/file; echo n > /work/crabbox/new; setsid sleep 300 >/dev/null 2>&1 &",
    )
    .await;
    let checkpoints = world.backend.checkpoints().unwrap();
    checkpoints.restore(&machine, &checkpoint).await.unwrap();
    assert_eq!(
        ok(&world, &machine, "cat /work/crabbox/*; ls /work/crabbox").await,
        "1\nfile\n"
    );
    assert_eq!(ok(&world, &machine, "pgrep sleep || echo none").await, "none\n");
    world.destroy(&machine).await;
}

#[tokio::test]
async fn a_long_chain_starts_over() {
    let world = World::new(&[]);
    let machine = world.create().await;
    let mut last = None;
    for number in 0..24 {
        ok(&world, &machine, &format!("echo {number} > /work/crabbox/{number}")).await;
        last = Some(take(&world, &machine).await);
    }
    let last = last.unwrap();
    assert!(
        last.metadata.get("layers").unwrap().parse::<usize>().unwrap() <= 21,
        "{last:?}"
    );
    let fork = fork(&world, &last).await.unwrap();
    assert_eq!(
        ok(
            &world,
            &fork,
            "ls /work/crabbox | wc -l; cat /work/crabbox/0 /work/crabbox/23"
        )
        .await
        .trim(),
        "24\n0\n23"
    );
    world.destroy(&fork).await;
    world.destroy(&machine).await;
}

#[tokio::test]
async fn what_is_needed_is_kept_and_what_is_not_is_removed() {
    let world = World::new(&[]);
    let checkpoints = world.backend.checkpoints().unwrap();
    let machine = world.create().await;
    ok(&world, &machine, "echo 1 > /work/crabbox/file").await;
    let checkpoint = take(&world, &machine).await;
    world.destroy(&machine).await;
    let fork = fork(&world, &checkpoint).await.unwrap();
    let error = checkpoints.delete(&checkpoint).await.unwrap_err();
    assert_eq!(error.kind(), crabbox_core::ErrorKind::Identity, "{error}");
    assert_eq!(ok(&world, &fork, "cat /work/crabbox/file").await, "1\n");
    world.destroy(&fork).await;
    assert_eq!(layers(&world), 1);
    checkpoints.delete(&checkpoint).await.unwrap();
    checkpoints.delete(&checkpoint).await.unwrap();
    assert_eq!(layers(&world), 0);
    assert!(matches!(
        checkpoints.inspect(&checkpoint).await.unwrap(),
        CheckpointObserved::Absent
    ));
    assert!(self::fork(&world, &checkpoint).await.is_err());
    assert!(world.list().await.is_empty());
}

#[tokio::test]
async fn without_isolation_checkpoints_are_copies() {
    let world = World::new(&[("isolation", "none")]);
    let machine = world.create().await;
    let at = machine.work_root.clone();
    ok(&world, &machine, &format!("echo 1 > {at}/file")).await;
    let checkpoint = take(&world, &machine).await;
    ok(&world, &machine, &format!("echo 2 > {at}/file")).await;
    let fork = fork(&world, &checkpoint).await.unwrap();
    assert_eq!(ok(&world, &fork, &format!("cat {}/file", fork.work_root)).await, "1\n");
    world
        .backend
        .checkpoints()
        .unwrap()
        .restore(&machine, &checkpoint)
        .await
        .unwrap();
    assert_eq!(ok(&world, &machine, &format!("cat {at}/file")).await, "1\n");
    world.destroy(&fork).await;
    world.destroy(&machine).await;
}
