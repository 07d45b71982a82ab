//! Checkpoints, forks and restores.

use crabbox_core::machine::Observed;
use crabbox_core::request::{CheckpointObserved, NativeCheckpoint};
use futures_util::future::join_all;

use super::Fixture;
use super::bench::{Bench, Boxed};

/// A tree with everything that a copy may lose.
const FILL: &str = "set -e; mkdir -p \"$1/dir/sub\" \"$1/empty\"; cd \"$1\"; echo one > dir/one; echo run > run.sh; \
    chmod 755 run.sh; chmod 600 dir/one; ln -s dir/one link; ln -s /nowhere dangling; : > dir/sub/nothing; \
    ln dir/one dir/hard; printf 'odd' > 'a b*\"'; head -c 300000 /dev/zero | tr '\\000' x > dir/big; touch -d @1000000000 run.sh";

/// Describes a tree: kind, mode, size, link target and content of everything in it.
const SHOW: &str = "cd \"$1\" && find . ! -name . | LC_ALL=C sort | while IFS= read -r path; do \
    printf '%s ' \"$path\"; ls -ld \"$path\" | cut -c1-10; if [ -L \"$path\" ]; then readlink \"$path\"; \
    elif [ -f \"$path\" ]; then cksum < \"$path\"; fi; done";

async fn fill(bench: &Bench<'_>, boxed: &Boxed) -> String {
    let workspace = bench.make_workspace(boxed).await;
    bench.script(boxed, FILL, [workspace.as_str()]).await.ok();
    show(bench, boxed).await
}

async fn show(bench: &Bench<'_>, boxed: &Boxed) -> String {
    let shown = bench
        .script(boxed, SHOW, [super::bench::workspace(boxed).as_str()])
        .await
        .ok();
    assert!(shown.contains("./"), "the workspace is empty");
    shown
}

async fn in_workspace(bench: &Bench<'_>, boxed: &Boxed, script: &str) -> String {
    let script = format!("cd \"$1\" && {script}");
    bench
        .script(boxed, &script, [super::bench::workspace(boxed).as_str()])
        .await
        .ok()
}

/// A fork has what its checkpoint has, whatever the box wrote since.
pub async fn checkpoints_keep_what_was_there(fixture: &dyn Fixture) {
    Bench::with(fixture, async |bench| {
        let boxed = bench.create().await;
        let tree = fill(bench, &boxed).await;
        let checkpoint = bench.checkpoint(&boxed).await;
        assert_eq!(checkpoint.provider, bench.spec().name);
        match bench.checkpoints().inspect(&checkpoint).await.expect("looking works") {
            CheckpointObserved::Present(found) => assert_eq!(found.image_id, checkpoint.image_id),
            other => panic!("the checkpoint is not present: {other:?}"),
        }
        assert_eq!(show(bench, &boxed).await, tree, "taking a checkpoint changes nothing");
        in_workspace(
            bench,
            &boxed,
            "echo changed >> dir/one; echo new > new; rm run.sh; chmod 700 dir; rm -r empty",
        )
        .await;
        let fork = bench
            .fork(&checkpoint)
            .await
            .expect("a box can be made from a checkpoint");
        assert_eq!(show(bench, &fork).await, tree);
        assert_ne!(fork.machine.resource.id, boxed.machine.resource.id);
        let second = bench.checkpoint(&fork).await;
        in_workspace(bench, &fork, "echo later > later").await;
        let grandchild = bench.fork(&second).await.expect("a fork can be forked");
        assert_eq!(show(bench, &grandchild).await, tree);
        // A program can still be changed and run, whatever the copy shares with its origin.
        assert_eq!(
            in_workspace(bench, &grandchild, "printf '#!/bin/sh\\necho ran' > run.sh && ./run.sh").await,
            "ran\n"
        );
    })
    .await;
}

/// A checkpoint is there when its box is not, until it is deleted.
pub async fn checkpoints_outlive_their_box(fixture: &dyn Fixture) {
    Bench::with(fixture, async |bench| {
        let boxed = bench.create().await;
        let tree = fill(bench, &boxed).await;
        let checkpoint = bench.checkpoint(&boxed).await;
        bench.undo(&boxed.binding).await;
        let fork = bench.fork(&checkpoint).await.expect("a checkpoint outlives its box");
        assert_eq!(show(bench, &fork).await, tree);
        bench.undo(&fork.binding).await;
        bench.checkpoints().delete(&checkpoint).await.expect("nobody uses it");
        let gone = bench.checkpoints().inspect(&checkpoint).await.expect("looking works");
        assert!(matches!(gone, CheckpointObserved::Absent), "{gone:?}");
        assert!(
            bench.fork(&checkpoint).await.is_err(),
            "a deleted checkpoint makes no box"
        );
    })
    .await;
}

/// After a restore the workspace is exactly what it was.
pub async fn restoring_discards_what_came_after(fixture: &dyn Fixture) {
    Bench::with(fixture, async |bench| {
        let boxed = bench.create().await;
        let tree = fill(bench, &boxed).await;
        let checkpoint = bench.checkpoint(&boxed).await;
        for _ in 0..2 {
            let change =
                "echo changed >> dir/one; mkdir new; echo new > new/file; rm run.sh link; chmod 700 dir; rm -r empty";
            in_workspace(bench, &boxed, change).await;
            assert_ne!(show(bench, &boxed).await, tree);
            bench
                .checkpoints()
                .restore(&boxed.machine, &checkpoint)
                .await
                .expect("a box can be restored");
            assert_eq!(show(bench, &boxed).await, tree);
        }
        let after = bench.present(&boxed.binding).await;
        assert_eq!(after.labels, boxed.machine.labels, "a restore changes no labels");
    })
    .await;
}

/// Ten forks made and used at the same time see nothing of each other.
pub async fn forks_are_isolated(fixture: &dyn Fixture) {
    Bench::with(fixture, async |bench| {
        let boxed = bench.create().await;
        let tree = fill(bench, &boxed).await;
        let checkpoint = bench.checkpoint(&boxed).await;
        let forks = join_all((0..10).map(|_| bench.fork(&checkpoint))).await;
        let forks: Vec<Boxed> = forks
            .into_iter()
            .map(|fork| fork.expect("a box can be made from a checkpoint"))
            .collect();
        let write = forks.iter().enumerate().map(async |(index, fork)| {
            in_workspace(
                bench,
                fork,
                &format!("echo {index} > who; echo {index} >> dir/one; rm dir/big; touch only-{index}"),
            )
            .await
        });
        join_all(write).await;
        for (index, fork) in forks.iter().enumerate() {
            let seen = in_workspace(bench, fork, "cat who dir/one; ls -d only-*; test ! -e dir/big").await;
            assert_eq!(seen, format!("{index}\none\n{index}\nonly-{index}\n"));
        }
        assert_eq!(show(bench, &boxed).await, tree, "the box sees what its forks wrote");
        let late = bench
            .fork(&checkpoint)
            .await
            .expect("a box can be made from a checkpoint");
        assert_eq!(
            show(bench, &late).await,
            tree,
            "the checkpoint sees what its forks wrote"
        );
    })
    .await;
}

/// A checkpoint that a box is made of is not deleted, or its deletion takes nothing from the box.
pub async fn a_checkpoint_in_use_is_not_pulled_away(fixture: &dyn Fixture) {
    Bench::with(fixture, async |bench| {
        let boxed = bench.create().await;
        let tree = fill(bench, &boxed).await;
        let checkpoint = bench.checkpoint(&boxed).await;
        let fork = bench
            .fork(&checkpoint)
            .await
            .expect("a box can be made from a checkpoint");
        let early = bench.checkpoints().delete(&checkpoint).await;
        assert_eq!(show(bench, &fork).await, tree);
        if early.is_err() {
            let found = bench.checkpoints().inspect(&checkpoint).await.expect("looking works");
            assert!(
                matches!(found, CheckpointObserved::Present(_)),
                "refused, and yet {found:?}"
            );
        }
        bench.undo(&fork.binding).await;
        bench.undo(&boxed.binding).await;
        if early.is_err() {
            bench
                .checkpoints()
                .delete(&checkpoint)
                .await
                .expect("nobody uses it any more");
        }
        let gone = bench.checkpoints().inspect(&checkpoint).await.expect("looking works");
        assert!(matches!(gone, CheckpointObserved::Absent), "{gone:?}");
    })
    .await;
}

/// A checkpoint that does not exist makes no box, whatever its name is.
pub async fn unknown_checkpoints_are_refused(fixture: &dyn Fixture) {
    Bench::with(fixture, async |bench| {
        let boxed = bench.create().await;
        fill(bench, &boxed).await;
        let real = bench.checkpoint(&boxed).await;
        for name in ["chk_0000000000000000", "", "..", "../../etc", "/etc"] {
            let mut unknown: NativeCheckpoint = real.clone();
            unknown.image_id = name.to_owned();
            let request = {
                let mut request = bench.request();
                request.restore_from = Some(unknown.clone());
                request
            };
            assert!(bench.try_create(&request).await.is_err(), "{name:?}");
            let binding = bench.attempt(&request);
            match bench.look(&binding).await {
                // What is left of the attempt may be found, but then it can be destroyed.
                Observed::Present(_) | Observed::Absent(_) => bench.undo(&binding).await,
                Observed::Unknown(error) => panic!("{error}"),
            }
            assert!(
                bench.checkpoints().restore(&boxed.machine, &unknown).await.is_err(),
                "{name:?}"
            );
            let found = bench.checkpoints().inspect(&unknown).await;
            assert!(
                !matches!(found, Ok(CheckpointObserved::Present(_))),
                "{name:?}: {found:?}"
            );
        }
        assert!(
            show(bench, &boxed).await.contains("./run.sh"),
            "a refused restore takes nothing away"
        );
    })
    .await;
}
