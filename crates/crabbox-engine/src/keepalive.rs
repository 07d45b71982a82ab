//! Keeping a box alive while it is used: touches, heartbeats, the workspace lock.

use std::sync::Arc;
use std::time::Duration;

use crabbox_core::{Error, Labels, Machine, Result};
use crabbox_state::claims::{ClaimRecord, Expected};
use crabbox_state::lock::{LockGuard, Wait};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::engine::{Engine, blocking, interrupted};
use crate::event::Event;
use crate::lease::Lease;
use crate::ledger::CLAIM_WAIT;
use crate::step::Step;

/// Heartbeats come three times per idle timeout, within these bounds.
const HEARTBEAT: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));

/// Longest time for one heartbeat.
const HEARTBEAT_LIMIT: Duration = Duration::from_secs(20);

/// How long a run waits for another run on the same workspace, and how often it says so.
const WORKSPACE_WAIT: (Duration, Duration) = (Duration::from_secs(2 * 60), Duration::from_secs(10));

/// Ends the heartbeats when it is stopped or dropped.
pub(crate) struct Heartbeat {
    guard: DropGuard,
    task: JoinHandle<()>,
}

impl Heartbeat {
    /// Ends the heartbeats and waits until none is under way, so that none outlives the box.
    pub(crate) async fn stop(self) {
        drop(self.guard);
        // A heartbeat that panicked has said so already.
        let _ = self.task.await;
    }
}

impl Engine {
    /// Records use: moves the expiry on the box and in the claim.
    pub(crate) async fn touch(
        &self,
        lease: &Lease,
        state: &'static str,
        idle_timeout: Option<Duration>,
    ) -> Result<Labels> {
        touch(
            self,
            &lease.machine,
            &lease.claim,
            lease.spec.outlives_host,
            &lease.backend,
            state,
            idle_timeout,
        )
        .await
    }

    /// Touches a box in the background until the returned guard is dropped. A failing touch is a warning.
    pub(crate) fn heartbeat_task(&self, lease: &Lease) -> Heartbeat {
        let token = CancellationToken::new();
        let guard = token.clone().drop_guard();
        let engine = self.clone();
        let (machine, claim, backend) = (lease.machine.clone(), lease.claim.clone(), Arc::clone(&lease.backend));
        let durable = lease.spec.outlives_host;
        let interval = (lease.info.idle_timeout / 3).clamp(HEARTBEAT.0, HEARTBEAT.1);
        // A box that was just created counts as touched; one that existed may be close to its end.
        let mut pause = if lease.info.reused { Duration::ZERO } else { interval };
        let task = tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = token.cancelled() => return,
                    () = engine.shared.runtime.clock.sleep(pause) => pause = interval,
                }
                let beat = touch(&engine, &machine, &claim, durable, &backend, "running", None);
                let beat = tokio::time::timeout(HEARTBEAT_LIMIT, beat);
                match tokio::select! { () = token.cancelled() => return, beat = beat => beat } {
                    Ok(Ok(_)) => {}
                    Ok(Err(error)) => engine.warn(format!("heartbeat failed: {error}")),
                    Err(_) => engine.warn(format!("heartbeat took longer than {} s", HEARTBEAT_LIMIT.as_secs())),
                }
            }
        });
        Heartbeat { guard, task }
    }

    /// Takes a reusable workspace for one run at a time. A fresh box that goes with its run needs no lock.
    ///
    /// # Errors
    /// `Remote` when another run holds it for longer than two minutes.
    pub(crate) async fn lock_workspace(&self, lease: &Lease) -> Result<LockGuard> {
        let started = self.monotonic();
        let (longest, pause) = WORKSPACE_WAIT;
        loop {
            let claims = self.stores().quick_claims.clone();
            let (id, cancel) = (lease.id().clone(), self.shared.cancel.clone());
            let attempt = blocking(move || {
                let cancelled = || cancel.is_cancelled();
                claims.lock_operation(&id, "workspace", &Wait::at_most(pause).unless(&cancelled))
            });
            match attempt.await {
                Ok(guard) => {
                    self.step(Step::WorkspaceLocked);
                    return Ok(guard);
                }
                Err(error) if error.is_cancelled() => return Err(interrupted()),
                Err(error) if !error.is_retryable() => return Err(error),
                Err(_) => {}
            }
            let elapsed = self.monotonic().saturating_sub(started);
            if elapsed >= longest {
                return Err(
                    Error::remote(format!("workspace is in use by another run: `{}`", lease.id()))
                        .with_lease(lease.id().as_str())
                        .with_hint("wait for the other run, or fork the box with `crabbox checkpoint fork`"),
                );
            }
            self.emit(Event::WorkspaceBusy { elapsed });
        }
    }
}

async fn touch(
    engine: &Engine,
    machine: &Machine,
    claim: &ClaimRecord,
    durable: bool,
    backend: &Arc<dyn crabbox_core::Backend>,
    state: &'static str,
    idle_timeout: Option<Duration>,
) -> Result<Labels> {
    let now = engine.now();
    let mut labels = machine.labels.clone();
    labels.set("state", state);
    labels.touch(now, idle_timeout);
    backend.lifecycle()?.update_labels(machine, &labels).await?;
    let stores = engine.stores();
    let claims = if durable {
        stores.claims.clone()
    } else {
        stores.quick_claims.clone()
    };
    let (lease, stored) = (claim.lease(), labels.clone());
    let Some(lease) = lease else { return Ok(labels) };
    blocking(move || {
        let mut txn = claims.lock(&lease, &Wait::at_most(CLAIM_WAIT))?;
        // A lease that was stopped meanwhile must not come back to life.
        if txn.read()?.is_some() {
            txn.update(Expected::Anything, |record| {
                record.touch(now, idle_timeout);
                record.labels = stored.as_map().clone();
                Ok(())
            })?;
        }
        Ok(())
    })
    .await?;
    Ok(labels)
}
