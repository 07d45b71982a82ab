//! Workflows on existing boxes: list, status, inspect, stop, heartbeat, pause, resume; and warmup.

use std::time::Duration;

use crabbox_core::request::ListQuery;
use crabbox_core::{Error, LeaseView, Machine, MachineState, Result, StatusView};

use crate::acquire::Wanted;
use crate::api::{
    HeartbeatView, ListOutcome, ListRequest, StatusRequest, StopOutcome, StopRequest, WarmupOutcome, WarmupRequest,
};
use crate::engine::Engine;
use crate::lease::{self, Lease};
use crate::resolve::Target;

/// Pause between two looks of `status --wait`.
const LOOK_PAUSE: Duration = Duration::from_secs(5);

/// The first looks come quicker: most boxes are ready within a second or two.
const FIRST_LOOK_PAUSE: Duration = Duration::from_millis(250);

impl Engine {
    /// Creates a box and leaves it warm.
    ///
    /// # Errors
    /// As every acquisition: a refusal before anything was created, or a failure after which everything was undone.
    pub async fn warmup(&self, request: WarmupRequest) -> Result<WarmupOutcome> {
        let started = self.monotonic();
        let slug = request.slug.as_deref().map(str::parse).transpose()?;
        let source = self.source()?;
        let plan = self.lease_plan()?;
        let wanted = Wanted {
            slug,
            keep: request.keep,
            repo_root: source.root_text(),
            ..Wanted::default()
        };
        let mut lease = self.acquire(&plan, wanted).await?;
        // Warm means that nobody waits for it to be used: from now on it belongs to nobody's command.
        self.keep(&mut lease)?;
        let timing = crate::run::timing::for_warmup(&lease, self.monotonic().saturating_sub(started));
        Ok(WarmupOutcome {
            lease: lease.info,
            timing,
        })
    }

    /// Lists boxes of the selected provider.
    ///
    /// # Errors
    /// Whatever the provider returns.
    pub async fn list(&self, request: ListRequest) -> Result<ListOutcome> {
        let (provider, _) = self.selected()?;
        let backend = self.connect(&*provider)?;
        let mut query = ListQuery::default();
        (query.all, query.refresh) = (request.all, request.refresh);
        let inventory = self.unless_cancelled(backend.list(query)).await?;
        if !inventory.complete {
            self.warn("the provider's list is incomplete");
        }
        let in_pond = |machine: &Machine| {
            request
                .pond
                .as_deref()
                .is_none_or(|pond| machine.labels.get("pond") == Some(pond))
        };
        let mut leases: Vec<LeaseView> = inventory
            .machines
            .into_iter()
            .filter(in_pond)
            .map(|machine| {
                let mut view = LeaseView::new(machine);
                let claimed = view.machine.lease().is_some_and(|lease| self.is_claimed(&lease));
                if view.orphan.is_none() && !claimed {
                    view.orphan = Some("no-active-lease");
                }
                view
            })
            .collect();
        leases.sort_by(|a, b| a.machine.resource.id.cmp(&b.machine.resource.id));
        Ok(ListOutcome {
            leases,
            complete: inventory.complete,
        })
    }

    fn is_claimed(&self, lease: &crabbox_core::LeaseId) -> bool {
        // An unreadable claim is still a claim.
        !matches!(self.stores().claims.read(lease), Ok(None))
    }

    /// Shows one box, once or until it is ready. Waiting for a claimed box counts as using it.
    ///
    /// # Errors
    /// `Identity` when nothing matches; `Readiness` when waiting ended without a ready box, after `on_look` has seen the
    /// last state.
    pub async fn status(
        &self,
        request: StatusRequest,
        mut on_look: impl FnMut(&StatusView) + Send,
    ) -> Result<StatusView> {
        let mut target = self.resolve(&request.id).await?;
        let started = self.monotonic();
        let mut pause = FIRST_LOOK_PAUSE;
        let mut machine = self.look(&target).await?;
        loop {
            let view = self.view(&target, &machine);
            on_look(&view);
            let Some(limit) = request.wait else { return Ok(view) };
            if view.ready {
                self.touch_waited(target).await;
                return Ok(view);
            }
            let failed = |message: String| Error::readiness(message).with_lease(target.lease.as_str());
            if machine.state.is_terminal() || machine.state == MachineState::Stopped {
                return Err(failed(format!(
                    "lease will not become ready, its state is: `{}`",
                    machine.state
                )));
            }
            let left = limit.saturating_sub(self.monotonic().saturating_sub(started));
            if left.is_zero() {
                return Err(failed(format!(
                    "lease was not ready after {}",
                    crabbox_core::duration::format(limit)
                ))
                .with_hint("wait longer with --wait-timeout"));
            }
            let nap = self.shared.runtime.clock.sleep(pause.min(left));
            self.unless_cancelled(async {
                nap.await;
                Ok(())
            })
            .await?;
            pause = (pause * 2).min(LOOK_PAUSE);
            machine = self.look_anew(&mut target).await?;
        }
    }

    /// Extends a lease that somebody waited for. Only an exact claim gives that right.
    async fn touch_waited(&self, target: Target) {
        // Somebody else may still be creating the box, whose records are theirs.
        let Ok(machine) = self.look_for_use(&target).await else {
            return;
        };
        let Some(lease) = claimed(target, machine) else { return };
        if let Err(error) = self.touch(&lease, touched_state(&lease), None).await {
            self.warn(format!("could not extend the lease: {error}"));
        }
    }

    /// Shows everything known about one box.
    ///
    /// # Errors
    /// `Identity` when nothing matches or the box is gone.
    pub async fn inspect(&self, id: &str) -> Result<StatusView> {
        let target = self.resolve(id).await?;
        let machine = self.look(&target).await?;
        Ok(self.view(&target, &machine))
    }

    pub(crate) fn view(&self, target: &Target, machine: &Machine) -> StatusView {
        let mut view = StatusView::of(machine, self.now());
        view.id = target.lease.to_string();
        if let Some(claim) = &target.claim
            && view.slug.is_empty()
        {
            view.slug.clone_from(&claim.slug);
        }
        view
    }

    /// Gives a box back.
    ///
    /// # Errors
    /// `Identity` when nothing matches or the resource is not the recorded one, `Usage` when it has no claim here and
    /// `reclaim` is not set; whatever the provider returns.
    pub async fn stop(&self, request: StopRequest) -> Result<StopOutcome> {
        let target = self.resolve(&request.id).await?;
        if let Some(machine) = &target.machine {
            if !request.reclaim {
                return Err(
                    Error::usage(format!("this machine has no claim on: `{}`", target.lease))
                        .with_lease(target.lease.as_str())
                        .with_hint("use --reclaim if the box is yours to end"),
                );
            }
            self.adopt_machine(target.spec(), &target.backend.scope().0, machine)?;
        }
        let spec = target.spec();
        self.release_lease(spec, target.backend, target.lease, "stop").await
    }

    /// Refreshes a box's idle deadline.
    ///
    /// # Errors
    /// `Identity` without an exact claim here, `Readiness` for a box that cannot be used any more.
    pub async fn heartbeat(&self, id: &str, idle_timeout: Option<Duration>) -> Result<HeartbeatView> {
        let lease = self.existing(id).await?;
        if lease.machine.state.is_terminal() {
            return Err(Error::readiness(format!(
                "lease cannot be kept alive, its state is: `{}`",
                lease.machine.state
            ))
            .with_lease(lease.id().as_str()));
        }
        let labels = self.touch(&lease, touched_state(&lease), idle_timeout).await?;
        Ok(HeartbeatView {
            id: lease.id().to_string(),
            slug: lease.info.slug.as_ref().map(ToString::to_string),
            provider: lease.info.provider.clone(),
            state: lease.machine.state.to_string(),
            last_touched_at: labels.last_touched_at().map(|at| at.to_string()),
            idle_timeout: labels.idle_timeout().map(crabbox_core::duration::format),
            expires_at: labels.expires_at().map(|at| at.to_string()),
        })
    }

    /// Holds a box without processor time.
    ///
    /// # Errors
    /// `Usage` when its provider cannot.
    pub async fn pause(&self, id: &str) -> Result<StatusView> {
        self.switch(id, true).await
    }

    /// Lets a paused box go on.
    ///
    /// # Errors
    /// `Usage` when its provider cannot.
    pub async fn resume(&self, id: &str) -> Result<StatusView> {
        self.switch(id, false).await
    }

    async fn switch(&self, id: &str, pause: bool) -> Result<StatusView> {
        let mut target = self.resolve(id).await?;
        let machine = self.look_for_use(&target).await?;
        let Some(capability) = target.backend.pause() else {
            return Err(
                Error::usage(format!("provider {} cannot pause boxes", target.spec().name))
                    .with_hint("take a checkpoint and stop the box instead"),
            );
        };
        if pause {
            self.unless_cancelled(capability.pause(&machine)).await?;
        } else {
            self.unless_cancelled(capability.resume(&machine)).await?;
        }
        let machine = self.look_anew(&mut target).await?;
        Ok(self.view(&target, &machine))
    }

    /// Looks at a box once more. What is known of one without a claim is as old as the list that it was found in.
    async fn look_anew(&self, target: &mut Target) -> Result<Machine> {
        if target.machine.is_some() {
            *target = self.resolve(target.lease.clone().as_str()).await?;
        }
        self.look(target).await
    }

    /// A claimed box without taking it for a checkout.
    pub(crate) async fn existing(&self, id: &str) -> Result<Lease> {
        let target = self.resolve(id).await?;
        let machine = self.look_for_use(&target).await?;
        let id = target.lease.clone();
        claimed(target, machine).ok_or_else(|| {
            Error::identity(format!("this machine has no claim on: `{id}`"))
                .with_lease(id.as_str())
                .with_hint("use the lease with --id from a checkout first")
        })
    }

    /// Says in the journal that a box outlives the command that created it.
    pub(crate) fn keep(&self, lease: &mut Lease) -> Result<()> {
        if let Some(mut entry) = self.journal(lease.spec).open(lease.id())? {
            entry.keep()?;
        }
        lease.info.kept = true;
        Ok(())
    }
}

/// A box that this machine has a claim on.
fn claimed(target: Target, machine: Machine) -> Option<Lease> {
    let spec = target.spec();
    let claim = target.claim?;
    let slug = claim.slug.parse().ok();
    let info = lease::describe(spec, &machine, target.lease, slug, true, Duration::ZERO);
    Some(Lease {
        spec,
        backend: target.backend,
        machine,
        claim,
        info,
    })
}

/// State that a touch leaves on a box: a command that runs goes on running.
fn touched_state(lease: &Lease) -> &'static str {
    match lease.machine.labels.state() {
        Some("running") => "running",
        _ => "ready",
    }
}
