//! Ending commands before their time, and what they leave.

use std::time::Duration;

use crabbox_core::machine::MachineState;
use crabbox_core::remote::ExecRequest;
use tokio_util::sync::CancellationToken;

use super::Fixture;
use super::bench::{Bench, odd_seconds, stdin_pipe};
use super::sinks::{Fail, Keep, forward};
use crate::eventually;

/// Cancelling ends every process of the command before it returns.
pub async fn cancelling_ends_the_whole_tree(fixture: &dyn Fixture) {
    let script = "sleep \"$1\" & (sleep \"$1\" & wait) & echo ready; sleep \"$1\"";
    cancel(fixture, script, 3).await;
}

/// So it does when they do not listen.
pub async fn cancelling_ends_the_stubborn(fixture: &dyn Fixture) {
    let script =
        "trap '' TERM INT HUP; sleep \"$1\" & (sleep \"$1\" & wait) & echo ready; while :; do sleep \"$1\"; done";
    cancel(fixture, script, 3).await;
}

async fn cancel(fixture: &dyn Fixture, script: &str, count: usize) {
    Bench::with(fixture, async |bench| {
        let boxed = bench.create().await;
        let seconds = odd_seconds();
        let line = format!("sleep {seconds}");
        let token = CancellationToken::new();
        let (sink, mut output) = forward();
        let request = ExecRequest::script(script, [&seconds]).with_cancel(token.clone());
        let run = bench.exec_for(&boxed, request, sink);
        let stop = async {
            output.until("ready").await;
            eventually("every process runs", async || {
                bench.count_in_box(&boxed, &line).await == count
            })
            .await;
            token.cancel();
        };
        let (result, ()) = tokio::join!(run, stop);
        let error = result.expect_err("it was cancelled");
        assert!(error.is_cancelled(), "{error:?}");
        assert_eq!(
            bench.count_in_box(&boxed, &line).await,
            0,
            "processes of the cancelled command still run"
        );
    })
    .await;
}

/// A request that is cancelled before it begins starts nothing.
pub async fn a_cancelled_request_starts_nothing(fixture: &dyn Fixture) {
    Bench::with(fixture, async |bench| {
        let boxed = bench.create().await;
        let mark = bench
            .make_workspace(&boxed)
            .await
            .join("ran")
            .expect("the name is plain");
        let token = CancellationToken::new();
        token.cancel();
        let request = ExecRequest::new(["touch", mark.as_str()]).with_cancel(token);
        let error = bench.exec(&boxed, request).await.expect_err("it was cancelled");
        assert!(error.is_cancelled(), "{error:?}");
        assert!(
            !bench
                .script(&boxed, "test -e \"$1\"", [mark.as_str()])
                .await
                .status
                .success(),
            "it ran"
        );
    })
    .await;
}

/// A command that runs too long is ended with its processes, and what it wrote until then has arrived.
pub async fn time_runs_out(fixture: &dyn Fixture) {
    Bench::with(fixture, async |bench| {
        let boxed = bench.create().await;
        let seconds = odd_seconds();
        let request = ExecRequest::script("echo early; sleep \"$1\" & sleep \"$1\"", [&seconds])
            .with_timeout(Some(Duration::from_secs(1)));
        let mut sink = Keep::default();
        let error = bench
            .exec_into(&boxed, request, &mut sink)
            .await
            .expect_err("time has run out");
        assert!(error.is_cancelled(), "{error:?}");
        assert_eq!(sink.stdout, b"early\n");
        assert_eq!(bench.count_in_box(&boxed, &format!("sleep {seconds}")).await, 0);
        let quick = ExecRequest::new(["true"]).with_timeout(Some(Duration::from_secs(60)));
        assert!(
            bench
                .exec(&boxed, quick)
                .await
                .expect("there is time enough")
                .status
                .success()
        );
    })
    .await;
}

/// When output cannot be taken, the command ends and the reason comes back.
pub async fn a_failing_sink_ends_the_command(fixture: &dyn Fixture) {
    Bench::with(fixture, async |bench| {
        let boxed = bench.create().await;
        let seconds = odd_seconds();
        let request = ExecRequest::script("sleep \"$1\" & echo out; sleep \"$1\"", [&seconds]);
        let error = bench
            .exec_into(&boxed, request, &mut Fail)
            .await
            .expect_err("the sink fails");
        assert!(error.to_string().contains("the sink is full"), "{error}");
        let line = format!("sleep {seconds}");
        eventually("the command has ended", async || {
            bench.count_in_box(&boxed, &line).await == 0
        })
        .await;
    })
    .await;
}

/// A command has ended when its own process has, whatever it left running.
pub async fn leftover_processes_hold_nobody_up(fixture: &dyn Fixture) {
    Bench::with(fixture, async |bench| {
        let boxed = bench.create().await;
        for script in [
            "sleep \"$1\" </dev/null >/dev/null 2>&1 & echo done; exit 5",
            "sleep \"$1\" & echo done; exit 5",
        ] {
            let seconds = odd_seconds();
            let run = bench.script(&boxed, script, [&seconds]);
            let ran = tokio::time::timeout(Duration::from_secs(30), run)
                .await
                .expect("the command has ended");
            assert_eq!((ran.status.code, ran.stdout.as_str()), (5, "done\n"), "{script}");
        }
    })
    .await;
}

/// Nothing goes on while a box is paused, and everything does afterwards.
pub async fn pausing_stops_everything(fixture: &dyn Fixture) {
    Bench::with(fixture, async |bench| {
        let pause = bench.backend.pause().expect("the case needs pause and resume");
        let boxed = bench.create().await;
        let (input, stdin) = stdin_pipe();
        let (sink, mut output) = forward();
        let token = CancellationToken::new();
        let script = "i=0; while :; do i=$((i+1)); echo \"tick $i.\"; sleep 0.01; done";
        let request = ExecRequest::script(script, [] as [&str; 0])
            .with_stdin(stdin)
            .with_cancel(token.clone());
        let run = bench.exec_for(&boxed, request, sink);
        let hold = async {
            output.until("tick 5.").await;
            pause.pause(&boxed.machine).await.expect("a box can be paused");
            assert_eq!(bench.present(&boxed.binding).await.state, MachineState::Paused);
            // What was written before may still be on its way; then nothing comes.
            output.quiet(Duration::from_millis(300)).await;
            pause.pause(&boxed.machine).await.expect("pausing twice is harmless");
            pause.resume(&boxed.machine).await.expect("a box can be resumed");
            assert_eq!(bench.present(&boxed.binding).await.state, MachineState::Ready);
            output.more().await;
            pause.resume(&boxed.machine).await.expect("resuming twice is harmless");
            assert_eq!(bench.script(&boxed, "echo well", []).await.ok(), "well\n");
            pause.pause(&boxed.machine).await.expect("a box can be paused");
            bench.undo(&boxed.binding).await;
            drop(input);
        };
        let (ended, ()) = tokio::join!(run, hold);
        // The box was destroyed under it: an error, or the end by a signal.
        assert!(ended.is_err() || ended.is_ok_and(|status| !status.success()));
    })
    .await;
}
