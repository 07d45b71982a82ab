//! Creating, looking, labelling.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crabbox_core::ErrorKind;
use crabbox_core::id::LeaseId;
use crabbox_core::labels::{LabelInputs, Labels};
use crabbox_core::machine::ResourceId;
use crabbox_core::remote::ExecRequest;
use crabbox_core::request::{ListQuery, Probe, Requirements};
use crabbox_core::spec::{Egress, IsolationLevel, Persistence};
use futures_util::future::join_all;
use jiff::Timestamp;
use tokio::io::AsyncWriteExt as _;

use super::Fixture;
use super::bench::{Bench, Notebook, known_as, stdin_pipe};
use super::sinks::forward;
use crate::{eventually, random_hex};

/// The journal is told the resource id of what is created, and exactly that one box exists.
pub async fn the_journal_knows_first(fixture: &dyn Fixture) {
    Bench::with(fixture, async |bench| {
        let request = bench.request();
        let binding = bench.attempt(&request);
        let mut journal = Notebook::default();
        let machine = bench
            .lifecycle()
            .create(&request, &mut journal)
            .await
            .expect("a box can be created");
        assert!(!journal.known.is_empty(), "the journal was not told the resource id");
        assert!(
            journal.known.iter().all(|known| known.id == machine.resource.id),
            "{:?}",
            journal.known
        );
        let last = journal.known.last().expect("there is one");
        assert!(
            last.immutable.is_none() || last.immutable == machine.resource.immutable,
            "{last:?}"
        );
        assert_eq!(machine.provider, bench.spec().name);
        assert_eq!(machine.lease().as_ref(), Some(&request.lease));
        assert_eq!(machine.slug().as_ref(), Some(&request.slug));
        assert!(
            machine.isolation <= bench.spec().isolation_level,
            "more isolation than the provider can give"
        );
        assert_eq!(bench.listed(&request.lease).await.len(), 1, "one create makes one box");
        let binding = known_as(&binding, last);
        assert_eq!(bench.present(&binding).await.resource.id, machine.resource.id);
    })
    .await;
}

/// Whoever sees a box sees its labels, also while it is being created.
pub async fn labels_are_there_from_the_first_moment(fixture: &dyn Fixture) {
    Bench::with(fixture, async |bench| {
        let before = bench
            .backend
            .list(ListQuery::refreshed())
            .await
            .expect("boxes can be listed")
            .machines;
        let request = bench.request();
        let done = AtomicBool::new(false);
        let watch = async {
            loop {
                let last = done.load(Ordering::SeqCst);
                let inventory = bench
                    .backend
                    .list(ListQuery::refreshed())
                    .await
                    .expect("boxes can be listed");
                for machine in inventory.machines {
                    if before.iter().any(|old| old.resource.id == machine.resource.id) {
                        continue;
                    }
                    assert_eq!(machine.lease().as_ref(), Some(&request.lease), "{machine:?}");
                    for key in ["attempt", "slug", "keep", "expires_at"] {
                        assert_eq!(machine.labels.get(key), request.labels.get(key), "{key} of {machine:?}");
                    }
                }
                if last {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let create = async {
            let created = bench.try_create(&request).await;
            done.store(true, Ordering::SeqCst);
            created
        };
        let (created, ()) = tokio::join!(create, watch);
        let created = created.expect("a box can be created");
        for (key, value) in request.labels.iter().filter(|(_, value)| !value.is_empty()) {
            assert_eq!(created.machine.labels.get(key), Some(value), "{key}");
        }
    })
    .await;
}

/// Replaced labels are seen by the next look and the next list, also while a command runs.
pub async fn labels_are_replaced(fixture: &dyn Fixture) {
    Bench::with(fixture, async |bench| {
        let boxed = bench.create().await;
        let mut labels = boxed.machine.labels.clone();
        labels.set("state", "running");
        labels.set("added", "yes");
        labels.touch(Timestamp::now() + Duration::from_secs(60), None);
        let replace = async || {
            let replaced = bench.lifecycle().update_labels(&boxed.machine, &labels).await;
            replaced.expect("labels can be replaced");
            assert_eq!(bench.present(&boxed.binding).await.labels, labels);
            assert_eq!(bench.listed(&boxed.binding.lease).await[0].labels, labels);
        };
        replace().await;
        if bench.backend.delegated().is_some() {
            let (mut input, stdin) = stdin_pipe();
            let request =
                ExecRequest::script("echo ready; read line; echo \"$line\"", [] as [&str; 0]).with_stdin(stdin);
            let (sink, mut output) = forward();
            let command = bench.exec_for(&boxed, request, sink);
            let change = async {
                output.until("ready").await;
                replace().await;
                input.write_all(b"on\n").await.expect("the command reads");
                output.until("on\n").await;
            };
            let (status, ()) = tokio::join!(command, change);
            assert!(status.expect("the command goes on").success());
        }
        labels.remove("added");
        bench
            .lifecycle()
            .update_labels(&boxed.machine, &labels)
            .await
            .expect("labels can be replaced");
        assert_eq!(
            bench.present(&boxed.binding).await.labels.get("added"),
            None,
            "labels are replaced, not added"
        );
    })
    .await;
}

/// A list is complete or says that it is not, and has every box once.
pub async fn lists_are_complete(fixture: &dyn Fixture) {
    Bench::with(fixture, async |bench| {
        let boxes = [bench.create().await, bench.create().await, bench.create().await];
        for all in [false, true] {
            let mut query = ListQuery::refreshed();
            query.all = all;
            let inventory = bench.backend.list(query).await.expect("boxes can be listed");
            assert!(inventory.complete, "nothing kept this list from being complete");
            for boxed in &boxes {
                let same = |id: &ResourceId| id.id == boxed.machine.resource.id;
                let count = inventory
                    .machines
                    .iter()
                    .filter(|machine| same(&machine.resource))
                    .count();
                assert_eq!(count, 1, "{}", boxed.machine.name);
            }
            if !all {
                let strangers = inventory
                    .machines
                    .iter()
                    .filter(|machine| machine.lease().is_none())
                    .count();
                assert_eq!(strangers, 0, "a list holds only what Crabbox made");
            }
        }
    })
    .await;
}

/// What is there is present, what never was and what is gone is absent.
pub async fn looking_tells_present_from_absent(fixture: &dyn Fixture) {
    Bench::with(fixture, async |bench| {
        let boxed = bench.create().await;
        let machine = bench.present(&boxed.binding).await;
        assert_eq!(machine.resource.id, boxed.machine.resource.id);
        assert_eq!(machine.labels.get("lease"), Some(boxed.binding.lease.as_str()));
        let mut unknown = boxed.binding.clone();
        unknown.lease = format!("cbx_{}", random_hex(6))
            .parse::<LeaseId>()
            .expect("12 hex digits are a lease id");
        unknown.resource = Some(ResourceId::new(format!("crabbox-never-made-{}", random_hex(4))));
        assert!(bench.is_absent(&unknown).await);
        bench.undo(&boxed.binding).await;
        assert!(bench.is_absent(&boxed.binding).await);
    })
    .await;
}

/// A box whose id was lost with the answer is found by its lease, and nobody else's is.
pub async fn lost_ids_are_found_by_label(fixture: &dyn Fixture) {
    Bench::with(fixture, async |bench| {
        let boxed = bench.create().await;
        let _other = bench.create().await;
        let mut lost = boxed.binding.clone();
        lost.resource = None;
        assert_eq!(bench.present(&lost).await.resource.id, boxed.machine.resource.id);
        lost.lease = format!("cbx_{}", random_hex(6))
            .parse::<LeaseId>()
            .expect("12 hex digits are a lease id");
        assert!(bench.is_absent(&lost).await);
    })
    .await;
}

/// Eight boxes can be created at once, and each is its own.
pub async fn boxes_are_created_at_the_same_time(fixture: &dyn Fixture) {
    Bench::with(fixture, async |bench| {
        let boxes = join_all((0..8).map(|_| bench.create())).await;
        let mut ids: Vec<&str> = boxes.iter().map(|boxed| boxed.machine.resource.id.as_str()).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), boxes.len());
        let look = boxes.iter().map(|boxed| bench.present(&boxed.binding));
        for (machine, boxed) in join_all(look).await.into_iter().zip(&boxes) {
            assert_eq!(machine.resource.id, boxed.machine.resource.id);
        }
    })
    .await;
}

/// What a provider cannot honour is refused before anything exists.
pub async fn unfit_requirements_are_refused(fixture: &dyn Fixture) {
    Bench::with(fixture, async |bench| {
        let spec = bench.spec();
        bench
            .backend
            .admit(&Requirements::default())
            .expect("no demand is always met");
        let mut unfit = Vec::new();
        if let Some(stronger) = IsolationLevel::ALL.iter().find(|level| **level > spec.isolation_level) {
            let mut requirements = Requirements::default();
            requirements.isolation = Some(*stronger);
            unfit.push(requirements);
        }
        if spec.egress > Egress::None {
            let mut requirements = Requirements::default();
            requirements.egress = Some(Egress::None);
            unfit.push(requirements);
        }
        if spec.persistence < Persistence::Durable {
            let mut requirements = Requirements::default();
            requirements.persistence = Some(Persistence::Durable);
            unfit.push(requirements);
        }
        for requirements in unfit {
            let error = bench
                .backend
                .admit(&requirements)
                .expect_err("the spec says that it cannot");
            assert_eq!(error.kind(), ErrorKind::Prerequisite, "{requirements:?}: {error}");
            assert!(error.hint().is_some(), "no cure: {error}");
        }
    })
    .await;
}

/// `doctor` says something about every part, and changes nothing.
pub async fn doctor_changes_nothing(fixture: &dyn Fixture) {
    Bench::with(fixture, async |bench| {
        let names = async || {
            let machines = bench
                .backend
                .list(ListQuery::refreshed())
                .await
                .expect("boxes can be listed")
                .machines;
            machines.into_iter().map(|machine| machine.name).collect::<Vec<_>>()
        };
        let before = names().await;
        let report = bench.backend.doctor(Probe::default()).await.expect("doctor looks");
        assert!(!report.checks.is_empty());
        for check in &report.checks {
            assert!(!check.check.is_empty() && !check.message.is_empty(), "{check:?}");
            assert!(
                !check.status.is_problem(),
                "the suite runs, so this cannot be needed: {check:?}"
            );
        }
        let mut checks: Vec<&str> = report.checks.iter().map(|check| check.check.as_str()).collect();
        checks.sort_unstable();
        let count = checks.len();
        checks.dedup();
        assert_eq!(checks.len(), count, "two checks have one name");
        assert_eq!(names().await, before);
    })
    .await;
}

/// A box whose time is up ends although its client has gone.
pub async fn expired_boxes_end_by_themselves(fixture: &dyn Fixture) {
    Bench::with(fixture, async |bench| {
        let life = Duration::from_secs(2);
        let mut request = bench.request();
        let spec = bench.spec();
        let inputs = LabelInputs {
            lease: &request.lease,
            slug: &request.slug,
            provider: spec.name,
            profile: "default",
            class: "standard",
            server_type: "",
            target: request.target,
            provider_key: &request.lease.provider_key_name(),
            keep: false,
            ttl: life,
            idle_timeout: life,
            attempt: &request.attempt,
        };
        request.labels = Labels::for_lease(&inputs, Timestamp::now());
        (request.ttl, request.idle_timeout) = (life, life);
        let boxed = bench.try_create(&request).await.expect("a box can be created");
        eventually("the box has ended by itself", async || {
            bench.is_absent(&boxed.binding).await
        })
        .await;
    })
    .await;
}
