//! Lifecycle under faults of the vendor: nothing created twice, nothing destroyed wrongly, nothing forgotten.
#![expect(
    clippy::disallowed_methods,
    reason = "the test vendor's boxes are real processes and files"
)]

mod support;

use crabbox_core::remote::Discard;
use crabbox_core::{ErrorKind, Outcome};
use crabbox_engine::Step;
use crabbox_engine::api::{CheckpointCreateRequest, ExitSource, RunRequest, StopAfter, StopRequest, WarmupRequest};
use support::{Fault, Text, World};
use tokio_util::sync::CancellationToken;

#[tokio::test]
async fn a_run_streams_exits_as_its_command_and_leaves_nothing() {
    let world = World::new();
    let mut text = Text::default();
    let request = RunRequest::command(["sh", "-c", "cat hello.txt; echo oops >&2; exit 3"]);
    let outcome = world.engine().run(request, &mut text).await.unwrap();
    assert_eq!((outcome.exit_code, outcome.exit_source), (3, ExitSource::Command));
    assert_eq!((text.stdout.as_str(), text.stderr.as_str()), ("hello\n", "oops\n"));
    assert!(outcome.released && outcome.error.is_none());
    assert_eq!(outcome.executed_tree.map(|tree| tree.len()), Some(64));
    assert!(world.account.ids().is_empty());
    assert!(world.records().is_empty(), "{:?}", world.records());
}

#[tokio::test]
async fn intent_is_durable_before_the_vendor_is_asked_and_steps_come_in_order() {
    let world = World::new();
    let mut request = RunRequest::command(["true"]);
    request.keep = true;
    let kept = world.engine().run(request, &mut Discard).await.unwrap();
    let id = kept.lease.unwrap().lease.to_string();
    let mut stop = StopRequest::default();
    stop.id = id;
    world.engine().stop(stop).await.unwrap();
    let steps = world.events.steps();
    let order: Vec<_> = Step::ALL.iter().filter(|step| **step != Step::Manifested).collect();
    let seen: Vec<_> = steps.iter().filter(|step| **step != Step::Manifested).collect();
    assert_eq!(seen, order);
}

#[tokio::test]
async fn a_lost_create_answer_is_undone_by_its_attempt_label() {
    let world = World::new();
    world.account.fail_with(Fault::CreateAnswerLost);
    let error = world
        .engine()
        .run(RunRequest::command(["true"]), &mut Discard)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("connection reset"), "{error}");
    assert_eq!(*world.account.creates.lock().unwrap(), 1);
    assert_eq!(world.account.destroyed.lock().unwrap().len(), 1);
    assert!(world.records().is_empty());
}

#[tokio::test]
async fn a_refused_create_leaves_no_record() {
    let world = World::new();
    world.account.fail_with(Fault::CreateRefused);
    let error = world
        .engine()
        .run(RunRequest::command(["true"]), &mut Discard)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Readiness);
    assert!(error.facts().capacity);
    assert!(world.records().is_empty());
}

#[tokio::test]
async fn a_create_that_fails_late_is_undone() {
    let world = World::new();
    world.account.fail_with(Fault::CreateFailsAfterId);
    world.engine().warmup(WarmupRequest::default()).await.unwrap_err();
    assert!(world.account.ids().is_empty() && world.records().is_empty());
}

#[tokio::test]
async fn what_cannot_be_undone_stays_recorded_until_cleanup_can() {
    let world = World::new();
    world.account.fail_with(Fault::CreateFailsAfterId);
    let engine = world.engine();
    let account = std::sync::Arc::clone(&world.account);
    // The undo looks first; from then on nobody can tell.
    let failing = world
        .builder(&world.checkout())
        .events(std::sync::Arc::new(move |event: &crabbox_engine::Event| {
            if matches!(event, crabbox_engine::Event::Step(Step::ResourceKnown)) {
                account.fail_with(Fault::InspectUnknown);
            }
        }))
        .build();
    let error = failing.warmup(WarmupRequest::default()).await;
    // The fault is read once at the start of a create, so this one fails after its id is known and cannot be undone.
    let error = error.unwrap_err();
    assert_eq!(
        error.hint(),
        Some("run `crabbox cleanup` to give back what was created")
    );
    assert_eq!(world.account.ids().len(), 1);
    assert_eq!(world.records().len(), 2, "{:?}", world.records());
    world.account.fail_with(Fault::None);
    let mut stop = StopRequest::default();
    stop.id = error.lease().unwrap().to_owned();
    let stopped = engine.stop(stop).await.unwrap();
    assert_eq!(stopped.outcome, Outcome::Deleted);
    assert!(world.account.ids().is_empty() && world.records().is_empty());
}

#[tokio::test]
async fn a_cancelled_create_is_undone() {
    let world = World::new();
    world.account.fail_with(Fault::CreateHangs);
    let cancel = CancellationToken::new();
    let engine = world.builder(&world.checkout()).cancel(cancel.clone()).build();
    let account = std::sync::Arc::clone(&world.account);
    let waiting = tokio::spawn(async move {
        while account.ids().is_empty() {
            tokio::task::yield_now().await;
        }
        cancel.cancel();
    });
    let error = engine
        .run(RunRequest::command(["true"]), &mut Discard)
        .await
        .unwrap_err();
    waiting.await.unwrap();
    assert!(error.is_cancelled());
    assert!(world.account.ids().is_empty() && world.records().is_empty());
}

#[tokio::test]
async fn a_recreated_resource_is_never_destroyed() {
    let world = World::new();
    let engine = world.engine();
    let warm = engine.warmup(WarmupRequest::default()).await.unwrap();
    {
        let mut machines = world.account.machines.lock().unwrap();
        let machine = machines.get_mut(&warm.lease.server).unwrap();
        machine.resource = machine.resource.clone().with_immutable("uid-of-somebody-else");
    }
    let mut stop = StopRequest::default();
    stop.id = warm.lease.lease.to_string();
    let error = engine.stop(stop).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Identity);
    assert_eq!(world.account.ids().len(), 1);
    assert!(!world.records().is_empty());
}

#[tokio::test]
async fn unknown_never_counts_as_absent() {
    let world = World::new();
    let engine = world.engine();
    let warm = engine.warmup(WarmupRequest::default()).await.unwrap();
    world.account.fail_with(Fault::InspectUnknown);
    let mut stop = StopRequest::default();
    stop.id = warm.lease.slug.unwrap().to_string();
    assert!(engine.stop(stop.clone()).await.unwrap_err().is_retryable());
    assert_eq!(world.records().len(), 2);
    world.account.fail_with(Fault::DestroyPending);
    assert_eq!(engine.stop(stop.clone()).await.unwrap().outcome, Outcome::Pending);
    assert_eq!(world.records().len(), 2);
    world.account.fail_with(Fault::None);
    assert_eq!(engine.stop(stop.clone()).await.unwrap().outcome, Outcome::Deleted);
    assert!(world.records().is_empty());
    assert_eq!(engine.stop(stop).await.unwrap_err().kind(), ErrorKind::Identity);
}

#[tokio::test]
async fn a_box_that_is_gone_is_forgotten_with_proof() {
    let world = World::new();
    let engine = world.engine();
    let warm = engine.warmup(WarmupRequest::default()).await.unwrap();
    world.account.machines.lock().unwrap().clear();
    let error = engine.inspect(warm.lease.lease.as_str()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Identity);
    let planned = engine.cleanup(true).await.unwrap();
    assert_eq!(planned.items[0].reason, "gone at the provider");
    assert_eq!(world.records().len(), 2);
    engine.cleanup(false).await.unwrap();
    assert!(world.records().is_empty());
}

#[tokio::test]
async fn a_failed_release_fails_a_successful_run_and_keeps_the_records() {
    let world = World::new();
    world.account.fail_with(Fault::DestroyFails);
    let outcome = world
        .engine()
        .run(RunRequest::command(["true"]), &mut Discard)
        .await
        .unwrap();
    assert_eq!((outcome.exit_code, outcome.exit_source), (7, ExitSource::Crabbox));
    assert_eq!(outcome.timing.lease_stopped, Some(false));
    assert_eq!(world.records().len(), 2);
    let failed = world
        .engine()
        .run(RunRequest::command(["false"]), &mut Discard)
        .await
        .unwrap();
    assert_eq!((failed.exit_code, failed.exit_source), (1, ExitSource::Command));
}

#[tokio::test]
async fn a_lease_belongs_to_one_checkout_until_it_is_reclaimed() {
    let world = World::new();
    let warm = world.engine().warmup(WarmupRequest::default()).await.unwrap();
    let other = world.root.path().join("other");
    std::fs::create_dir(&other).unwrap();
    std::fs::copy(world.checkout().join(".crabbox.yaml"), other.join(".crabbox.yaml")).unwrap();
    let engine = world.engine_in(&other);
    let mut request = RunRequest::command(["true"]);
    request.id = Some(warm.lease.lease.to_string());
    let error = engine.run(request.clone(), &mut Discard).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
    assert!(error.to_string().contains("is claimed by repo"), "{error}");
    request.reclaim = true;
    assert_eq!(engine.run(request, &mut Discard).await.unwrap().exit_code, 0);
}

#[tokio::test]
async fn a_reused_box_keeps_what_was_built_and_loses_what_was_deleted() {
    let world = World::new();
    let engine = world.engine();
    let warm = engine.warmup(WarmupRequest::default()).await.unwrap();
    let run = |script: &str| {
        let mut request = RunRequest::command(["sh", "-c", script]);
        request.id = Some(warm.lease.lease.to_string());
        request
    };
    assert_eq!(
        engine
            .run(run("test -f hello.txt"), &mut Discard)
            .await
            .unwrap()
            .exit_code,
        0
    );
    std::fs::remove_file(world.checkout().join("hello.txt")).unwrap();
    std::fs::write(world.checkout().join("new.txt"), "new").unwrap();
    let outcome = engine
        .run(run("test ! -e hello.txt && test -f new.txt"), &mut Discard)
        .await
        .unwrap();
    assert_eq!(outcome.exit_code, 0);
    assert!(!outcome.released);
    let mut request = run("exit 9");
    request.stop_after = StopAfter::Failure;
    let outcome = engine.run(request, &mut Discard).await.unwrap();
    assert_eq!((outcome.exit_code, outcome.released), (9, true));
    assert!(world.account.ids().is_empty());
}

#[tokio::test]
async fn an_expired_lease_is_refused_and_swept() {
    let world = World::new();
    let engine = world.engine();
    let mut request = WarmupRequest::default();
    request.keep = false;
    let warm = engine.warmup(request).await.unwrap();
    {
        let mut machines = world.account.machines.lock().unwrap();
        machines
            .get_mut(&warm.lease.server)
            .unwrap()
            .labels
            .set("expires_at", "1");
    }
    let mut run = RunRequest::command(["true"]);
    run.id = Some(warm.lease.lease.to_string());
    let error = engine.run(run, &mut Discard).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.to_string().contains("has expired")),
        (ErrorKind::Identity, true)
    );
    // The claim has not expired, so cleanup does not believe the cloud alone.
    let report = engine.cleanup(false).await.unwrap();
    assert_eq!(report.items[0].action, "skip");
    assert_eq!(world.account.ids().len(), 1);
}

#[tokio::test]
async fn slugs_are_unique_and_a_requested_one_must_be_free() {
    let world = World::new();
    let engine = world.engine();
    let mut request = WarmupRequest::default();
    request.slug = Some("My Box".into());
    let warm = engine.warmup(request.clone()).await.unwrap();
    assert_eq!(warm.lease.slug.unwrap().as_str(), "my-box");
    let error = engine.warmup(request).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
    assert_eq!(world.account.ids().len(), 1);
    let found = engine.inspect("my-box").await.unwrap();
    assert_eq!(found.id, warm.lease.lease.as_str());
}

#[tokio::test]
async fn refusals_come_before_anything_is_created() {
    let world = World::new();
    let engine = world.engine();
    let mut cases: Vec<(RunRequest, &str)> = Vec::new();
    let base = || RunRequest::command(["true"]);
    cases.push((RunRequest::default(), "no command"));
    let mut both = base();
    (both.slug, both.id) = (Some("a".into()), Some("b".into()));
    cases.push((both, "--slug"));
    let mut bad_slug = base();
    bad_slug.slug = Some("---".into());
    cases.push((bad_slug, "invalid slug"));
    let mut exclusive = base();
    (exclusive.full_resync, exclusive.no_sync) = (true, true);
    cases.push((exclusive, "exclude each other"));
    let mut capture = base();
    capture.capture_stdout = Some("no/such/directory/file".into());
    cases.push((capture, "directory does not exist"));
    let mut same = base();
    (same.capture_stdout, same.capture_stderr) = (Some("x".into()), Some("x".into()));
    cases.push((same, "write the same file"));
    let mut output = base();
    output.lease_output = Some("handle.json".into());
    cases.push((output, "--lease-output"));
    let mut preset = base();
    preset.preset_vars.insert("a".into(), "b".into());
    cases.push((preset, "need a preset"));
    let mut missing = base();
    missing.id = Some("no-such-lease".into());
    cases.push((missing, "no lease matches"));
    for (request, expected) in cases {
        let error = engine.run(request, &mut Discard).await.unwrap_err();
        assert!(
            error.to_string().contains(expected),
            "{error} does not contain {expected}"
        );
        assert!(error.hint().is_some(), "{error} has no cure");
    }
    assert_eq!(*world.account.creates.lock().unwrap(), 0);
    assert!(world.records().is_empty());
}

#[tokio::test]
async fn nobody_uses_a_box_that_is_still_being_created() {
    let world = World::new();
    let other = world.engine();
    let refused = std::sync::Arc::new(std::sync::Mutex::new(None));
    let seen = std::sync::Arc::clone(&refused);
    let creating = world
        .builder(&world.checkout())
        .events(std::sync::Arc::new(move |event: &crabbox_engine::Event| {
            if !matches!(event, crabbox_engine::Event::Step(Step::Created)) {
                return;
            }
            // Another client, which knows the slug that was asked for.
            let other = other.clone();
            let used = std::thread::spawn(move || {
                let mut request = RunRequest::command(["true"]);
                request.id = Some("wanted".to_owned());
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime.unwrap().block_on(other.run(request, &mut Discard))
            });
            *seen.lock().unwrap() = used.join().unwrap().err();
        }))
        .build();
    let mut request = WarmupRequest::default();
    request.slug = Some("wanted".parse().unwrap());
    creating.warmup(request).await.unwrap();
    let error = refused.lock().unwrap().take().unwrap();
    assert_eq!(error.kind(), ErrorKind::Readiness);
    assert!(error.is_retryable());
    assert!(error.to_string().starts_with("lease is still being created"), "{error}");
    let mut request = RunRequest::command(["true"]);
    request.id = Some("wanted".to_owned());
    assert!(world.engine().run(request, &mut Discard).await.is_ok());
}

#[tokio::test]
async fn runs_on_one_lease_at_the_same_time_wait_for_each_other() {
    let world = World::new();
    let mut request = WarmupRequest::default();
    request.slug = Some("shared".parse().unwrap());
    world.engine().warmup(request).await.unwrap();
    let mut runs = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let engine = world.engine();
        runs.spawn(async move {
            let mut request = RunRequest::command(["sh", "-c", "mkdir mine && sleep 0.02 && rmdir mine"]);
            request.id = Some("shared".to_owned());
            engine.run(request, &mut Discard).await.map(|outcome| outcome.exit_code)
        });
    }
    while let Some(run) = runs.join_next().await {
        assert_eq!(run.unwrap().unwrap(), 0);
    }
}

#[tokio::test]
async fn a_full_disk_keeps_no_box_alive() {
    for keep in [false, true] {
        let world = World::new();
        let full = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let (filling, seen) = (std::sync::Arc::clone(&full), std::sync::Arc::clone(&full));
        let disk = crabbox_state::Disk::new().observed(move |step, _| {
            use crabbox_state::disk::Step as Effect;
            let takes_room = matches!(step, Effect::CreateTemporary | Effect::Write | Effect::Append);
            if takes_room && seen.load(std::sync::atomic::Ordering::Relaxed) {
                return Err(std::io::ErrorKind::StorageFull.into());
            }
            Ok(())
        });
        let engine = world
            .builder(&world.checkout())
            .disk(disk)
            .events(std::sync::Arc::new(move |event: &crabbox_engine::Event| {
                // What the command writes fills the disk.
                if matches!(event, crabbox_engine::Event::Step(Step::CommandStarted)) {
                    filling.store(true, std::sync::atomic::Ordering::Relaxed);
                }
            }))
            .build();
        if keep {
            let lease = engine.warmup(WarmupRequest::default()).await.unwrap().lease;
            full.store(true, std::sync::atomic::Ordering::Relaxed);
            let mut stop = StopRequest::default();
            stop.id = lease.lease.to_string();
            assert_eq!(engine.stop(stop).await.unwrap().outcome, Outcome::Deleted);
        } else {
            let outcome = engine.run(RunRequest::command(["true"]), &mut Discard).await.unwrap();
            assert!(outcome.released);
        }
        assert!(full.load(std::sync::atomic::Ordering::Relaxed));
        assert!(world.account.ids().is_empty());
        assert!(world.records().is_empty(), "{:?}", world.records());
    }
}

#[tokio::test]
async fn a_cleanup_sweeps_what_a_killed_writer_left() {
    let world = World::new();
    let claims = world.state().join("claims");
    std::fs::create_dir_all(&claims).unwrap();
    std::fs::write(claims.join(".cbx_abcdef123456.json.tmp-XyZ012"), "{").unwrap();
    world.engine().cleanup(true).await.unwrap();
    assert_eq!(world.records().len(), 1);
    world.engine().cleanup(false).await.unwrap();
    assert!(world.records().is_empty(), "{:?}", world.records());
}

#[tokio::test]
async fn a_checkpoint_is_recorded_before_the_vendor_is_asked() {
    let world = World::new();
    let mut request = WarmupRequest::default();
    request.slug = Some("base".parse().unwrap());
    world.engine().warmup(request).await.unwrap();

    // The answer is lost: what was made is deleted again, and nothing is recorded.
    world.account.fail_with(Fault::CheckpointAnswerLost);
    let engine = world.engine();
    let mut request = CheckpointCreateRequest::default();
    request.id = "base".to_owned();
    let error = engine.checkpoint_create(request.clone()).await.unwrap_err();
    assert_eq!(error.to_string(), "connection reset");
    assert!(world.account.checkpoints.lock().unwrap().is_empty());
    assert!(engine.checkpoint_list().unwrap().is_empty());

    // The client dies before the answer: the record leads to what was made.
    world.account.fail_with(Fault::CheckpointHangs);
    let create = engine.checkpoint_create(request);
    let killed = tokio::time::timeout(std::time::Duration::from_millis(500), create).await;
    assert!(killed.is_err());
    assert_eq!(world.account.checkpoints.lock().unwrap().len(), 1);
    world.account.fail_with(Fault::None);
    let left = engine.checkpoint_list().unwrap();
    assert_eq!(left.len(), 1);
    let id = left[0].id.parse().unwrap();
    engine.checkpoint_delete(&id, false, false).await.unwrap();
    assert!(world.account.checkpoints.lock().unwrap().is_empty());
    assert!(engine.checkpoint_list().unwrap().is_empty());
}
