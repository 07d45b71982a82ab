//! How long things take; run by hand with `--run-ignored only --no-capture`, preferably in release.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod world;

use std::time::{Duration, Instant};

use crabbox_core::id::CheckpointId;
use crabbox_core::remote::ExecRequest;
use crabbox_core::request::CreateCheckpoint;
use world::{Wish, World};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures"]
async fn creation_execution_and_forks() {
    let world = World::new(&[]);
    let warm = world.create().await;
    world.sh(&warm, "true").await;
    let mut first_byte = Vec::new();
    for _ in 0..20 {
        let start = Instant::now();
        let machine = world.create().await;
        let made = start.elapsed();
        world.exec(&machine, ExecRequest::new(["echo", "x"])).await.unwrap();
        first_byte.push((start.elapsed(), made));
        world.destroy(&machine).await;
    }
    first_byte.sort_unstable();
    println!(
        "create and first output: median {:?}, of that create {:?}",
        first_byte[10].0, first_byte[10].1
    );
    let start = Instant::now();
    for _ in 0..100 {
        world.exec(&warm, ExecRequest::new(["true"])).await.unwrap();
    }
    println!("one command in a warm box: {:?}", start.elapsed() / 100);
    let script = "cd /work/crabbox; for d in $(seq 17); do mkdir $d; for f in $(seq 100); do head -c 26000 /dev/urandom > $d/$f; done; done";
    assert_eq!(world.sh(&warm, script).await.0, 0);
    let start = Instant::now();
    let request = CreateCheckpoint::new(
        CheckpointId::from_random([7; 8]),
        "speed",
        "/work/crabbox".parse().unwrap(),
    );
    let checkpoint = world
        .backend
        .checkpoints()
        .unwrap()
        .create(&warm, &request)
        .await
        .unwrap();
    println!(
        "checkpoint of 1,700 files, 44 MB ({:?}): {:?}",
        checkpoint.metadata,
        start.elapsed()
    );
    let start = Instant::now();
    let forks = (0..100).map(|_| {
        let wish = Wish {
            restore_from: Some(checkpoint.clone()),
            ..Wish::default()
        };
        world.create_with(wish)
    });
    let forks = futures_util::future::try_join_all(forks).await.unwrap();
    println!("100 forks: {:?}", start.elapsed());
    let start = Instant::now();
    for fork in &forks {
        world.destroy(fork).await;
    }
    println!("100 ends: {:?}", start.elapsed());
    let start = Instant::now();
    let status = world
        .backend
        .delegated()
        .unwrap()
        .exec(
            &warm,
            ExecRequest::new(["head", "-c", "4000000000", "/dev/zero"]),
            &mut crabbox_core::remote::Discard,
        )
        .await
        .unwrap();
    assert!(status.success() && start.elapsed() > Duration::ZERO);
    println!("4 GB of output: {:?}", start.elapsed());
    world.destroy(&warm).await;
}
