//! Destroying what is ours, and nothing else.

use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use async_trait::async_trait;
use crabbox_core::ErrorKind;
use crabbox_core::error::Result;
use crabbox_core::machine::{Binding, Observed, ResourceId};
use crabbox_core::request::Journal;
use tokio::sync::Notify;

use super::Fixture;
use super::bench::{Bench, Notebook, known_as, odd_seconds};
use crate::{eventually, processes};

/// Destroying twice is harmless, and the box stays gone.
pub async fn destroying_twice_is_harmless(fixture: &dyn Fixture) {
    Bench::with(fixture, async |bench| {
        let boxed = bench.create().await;
        let observed = bench.present(&boxed.binding).await;
        bench.undo(&boxed.binding).await;
        let again = bench
            .destroy(&boxed.binding, observed)
            .await
            .expect("a second call is harmless");
        assert!(again.is_gone(), "{again:?}");
        assert!(bench.is_absent(&boxed.binding).await);
        assert!(bench.listed(&boxed.binding.lease).await.is_empty());
    })
    .await;
}

/// No process of a box outlives it, not even one that was left behind in a session of its own.
pub async fn destroying_ends_every_process(fixture: &dyn Fixture) {
    Bench::with(fixture, async |bench| {
        let boxed = bench.create().await;
        let seconds = odd_seconds();
        // Where there is no setsid, an ordinary background process has to do.
        let script = "if command -v setsid >/dev/null; then setsid sleep \"$1\" </dev/null >/dev/null 2>&1 & fi; \
                      (trap '' HUP TERM; exec sleep \"$1\") </dev/null >/dev/null 2>&1 & echo started";
        assert_eq!(bench.script(&boxed, script, [&seconds]).await.ok(), "started\n");
        let line = format!("sleep {seconds}");
        eventually("the background processes run", async || {
            bench.count_in_box(&boxed, &line).await > 0
        })
        .await;
        bench.undo(&boxed.binding).await;
        let left = processes::with_argument(&seconds);
        assert!(left.is_empty(), "outlived the box: {left:?}");
    })
    .await;
}

/// A box that is not the recorded one is refused, and stays.
pub async fn foreign_boxes_are_refused(fixture: &dyn Fixture) {
    Bench::with(fixture, async |bench| {
        let ours = bench.create().await;
        let theirs = bench.create().await;
        let wrong = |change: fn(&mut Binding, &Binding)| {
            let mut binding = ours.binding.clone();
            change(&mut binding, &theirs.binding);
            binding
        };
        for (what, binding) in [
            (
                "their resource under our lease",
                wrong(|ours, theirs| ours.resource = theirs.resource.clone()),
            ),
            (
                "our resource under their lease",
                wrong(|ours, theirs| ours.lease = theirs.lease.clone()),
            ),
            (
                "another attempt",
                wrong(|ours, _| (ours.resource, ours.attempt) = (None, Some("cat_other".into()))),
            ),
            (
                "another label",
                wrong(|ours, _| {
                    ours.required_labels.insert("slug".into(), "other".into());
                }),
            ),
            (
                "nothing recorded",
                wrong(|ours, _| (ours.resource, ours.attempt) = (None, None)),
            ),
        ] {
            for observed in [bench.present(&ours.binding).await, bench.present(&theirs.binding).await] {
                let refused = bench.destroy(&binding, observed).await.expect_err(what);
                assert_eq!(refused.kind(), ErrorKind::Identity, "{what}: {refused}");
            }
            if let Observed::Present(observed) = bench.look(&binding).await {
                let refused = bench.destroy(&binding, *observed).await.expect_err(what);
                assert_eq!(refused.kind(), ErrorKind::Identity, "{what}: {refused}");
            }
        }
        bench.present(&ours.binding).await;
        bench.present(&theirs.binding).await;
    })
    .await;
}

/// A box that has the name and lease of one that is gone is not taken for it.
pub async fn recreated_boxes_are_refused(fixture: &dyn Fixture) {
    Bench::with(fixture, async |bench| {
        let request = bench.request();
        let first = bench.try_create(&request).await.expect("a box can be created");
        let observed = bench.present(&first.binding).await;
        bench.undo(&first.binding).await;
        let twin = bench.request_for(request.lease.clone());
        let second = bench.try_create(&twin).await.expect("a lease can be created again");
        if let Observed::Present(found) = bench.look(&first.binding).await {
            let refused = bench
                .destroy(&first.binding, *found)
                .await
                .expect_err("it is another box");
            assert_eq!(refused.kind(), ErrorKind::Identity, "{refused}");
        }
        // Even what was verified just before the box was replaced destroys nothing but the recorded box.
        let late = bench.destroy(&first.binding, observed).await;
        assert!(late.is_err() || late.is_ok_and(|outcome| outcome.is_gone()));
        let still = bench.present(&second.binding).await;
        assert_eq!(still.resource, second.machine.resource);
        if bench.backend.delegated().is_some() {
            assert_eq!(bench.script(&second, "echo alive", []).await.ok(), "alive\n");
        }
    })
    .await;
}

/// A create that is cancelled, at whatever moment, leaves nothing, or something that lease and attempt lead to.
pub async fn cancelled_creates_leave_nothing_unknown(fixture: &dyn Fixture) {
    Bench::with(fixture, async |bench| {
        // Right when the journal knows, before and after it has written that down.
        for holds in [true, false] {
            let request = bench.request();
            let binding = bench.attempt(&request);
            let reached = Arc::new(Notify::new());
            let mut journal = Tripwire {
                known: None,
                reached: reached.clone(),
                holds,
            };
            let create = bench.lifecycle().create(&request, &mut journal);
            tokio::select! {
                biased;
                () = reached.notified() => {}
                _finished = create => {}
            }
            let resource = journal.known.expect("the journal was told");
            settle(bench, &known_as(&binding, &resource)).await;
            settle(bench, &binding).await;
        }
        // After any number of steps.
        for polls in [1, 2, 3, 4, 6, 9, 14, 22] {
            let request = bench.request();
            let binding = bench.attempt(&request);
            let mut journal = Notebook::default();
            let _finished = after_polls(polls, bench.lifecycle().create(&request, &mut journal)).await;
            if let Some(resource) = journal.known.pop() {
                settle(bench, &known_as(&binding, &resource)).await;
            }
            settle(bench, &binding).await;
        }
    })
    .await;
}

/// A create whose journal cannot be written fails, and leaves nothing that lease and attempt do not lead to.
pub async fn a_failing_journal_leaves_nothing_unknown(fixture: &dyn Fixture) {
    Bench::with(fixture, async |bench| {
        let request = bench.request();
        let binding = bench.attempt(&request);
        let mut journal = Notebook {
            known: Vec::new(),
            broken: true,
        };
        let created = bench.lifecycle().create(&request, &mut journal).await;
        assert!(created.is_err(), "a box exists that no journal knows");
        settle(bench, &binding).await;
        let usable = bench.create().await;
        bench.present(&usable.binding).await;
    })
    .await;
}

/// Destroys what a binding leads to, as cleanup would; then nothing of the lease is listed. What a cancelled create still
/// had under way may appear late, so this looks more than once.
async fn settle(bench: &Bench<'_>, binding: &Binding) {
    for _ in 0..3 {
        bench.undo(binding).await;
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
    let listed = bench.listed(&binding.lease).await;
    assert!(listed.is_empty(), "nothing leads to {listed:?}");
}

/// Says when it is told a resource id, and may never come back from that.
struct Tripwire {
    known: Option<ResourceId>,
    reached: Arc<Notify>,
    holds: bool,
}

#[async_trait]
impl Journal for Tripwire {
    async fn resource_known(&mut self, resource: &ResourceId) -> Result<()> {
        self.known = Some(resource.clone());
        self.reached.notify_one();
        if self.holds {
            std::future::pending::<()>().await;
        }
        Ok(())
    }

    async fn note(&mut self, _key: &str, _value: &str) -> Result<()> {
        Ok(())
    }
}

/// Polls a future a number of times and drops it.
async fn after_polls<T>(polls: usize, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    let mut left = polls;
    std::future::poll_fn(move |context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        future.as_mut().poll(context).map(Some)
    })
    .await
}
