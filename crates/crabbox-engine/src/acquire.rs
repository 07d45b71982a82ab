//! Getting a new box: intent first, then the effect, then the fact.

use std::sync::Arc;
use std::time::Duration;

use crabbox_core::labels::{ATTEMPT, LabelInputs, WORKSPACE};
use crabbox_core::request::{ListQuery, NativeCheckpoint, Requirements};
use crabbox_core::{
    Backend, CreateLease, Error, Labels, LeaseId, Machine, MachineState, Observed, Provider, ProviderSpec, Result,
    Slug, Target, authority,
};
use crabbox_state::claims::ClaimRecord;
use crabbox_state::journal::Handle;
use crabbox_state::lock::Wait;
use crabbox_state::{random, slugs};

use crate::engine::{Engine, blocking};
use crate::event::Event;
use crate::lease::{self, Lease};
use crate::ledger::{CLAIM_WAIT, Recorder};
use crate::step::Step;

/// Longest wait for a box to become ready.
const READY_WAIT: Duration = Duration::from_secs(20 * 60);

/// First and longest pause between two looks at a box that is not ready.
const READY_PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// What kind of box to get, settled before anything is paid for.
pub(crate) struct LeasePlan {
    pub(crate) provider: Arc<dyn Provider>,
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) profile: String,
    pub(crate) class: String,
    pub(crate) server_type: Option<String>,
    pub(crate) target: Target,
    pub(crate) ttl: Duration,
    pub(crate) idle_timeout: Duration,
    pub(crate) requirements: Requirements,
}

impl LeasePlan {
    /// What the provider is.
    pub(crate) fn spec(&self) -> &'static ProviderSpec {
        self.provider.spec()
    }
}

/// What one acquisition adds to the plan.
#[derive(Default)]
pub(crate) struct Wanted {
    pub(crate) slug: Option<Slug>,
    pub(crate) keep: bool,
    pub(crate) repo_root: String,
    pub(crate) restore_from: Option<NativeCheckpoint>,
    /// Directory below the work root that holds the workspace, when it is not named after the lease.
    pub(crate) workspace: Option<String>,
    /// Slugs of the provider's boxes, when the caller has asked already.
    pub(crate) taken: Option<Arc<Vec<Slug>>>,
}

impl Engine {
    /// Creates a box and waits until it is ready. Whatever fails after the intent was written is undone before this returns.
    pub(crate) async fn acquire(&self, plan: &LeasePlan, wanted: Wanted) -> Result<Lease> {
        self.refuse_if_cancelled()?;
        let started = self.monotonic();
        let spec = plan.spec();
        let (request, mut handle, claim) = self.prepare(plan, wanted).await?;
        self.emit(Event::Leasing {
            lease: request.lease.clone(),
            slug: request.slug.clone(),
            provider: spec.name.to_owned(),
        });
        match self.create(plan, &request, &mut handle, &claim).await {
            Ok((machine, claim)) => {
                let elapsed = self.monotonic().saturating_sub(started);
                let slug = Some(request.slug.clone());
                let info = lease::describe(spec, &machine, request.lease, slug, false, elapsed);
                self.emit(Event::Leased(info.clone()));
                Ok(Lease {
                    spec,
                    backend: Arc::clone(&plan.backend),
                    machine,
                    claim,
                    info,
                })
            }
            Err(error) => Err(self.roll_back(plan, &request.lease, error).await),
        }
    }

    /// Slugs of the provider's boxes.
    pub(crate) async fn slugs_in_use(&self, plan: &LeasePlan, certainly: bool) -> Result<Vec<Slug>> {
        match plan.backend.list(ListQuery::default()).await {
            Ok(inventory) => Ok(inventory.machines.iter().filter_map(Machine::slug).collect()),
            // A generated slug may collide; a requested one must be proven free.
            Err(error) if certainly => Err(error.context("check that the slug is free")),
            Err(_) => Ok(Vec::new()),
        }
    }

    /// Allocates every name and writes the intent down.
    async fn prepare(&self, plan: &LeasePlan, wanted: Wanted) -> Result<(CreateLease, Handle, ClaimRecord)> {
        let spec = plan.spec();
        let inventory = match &wanted.taken {
            Some(taken) => Arc::clone(taken),
            None => Arc::new(self.slugs_in_use(plan, wanted.slug.is_some()).await?),
        };
        let scope = plan.backend.scope();
        let base = RequestBase {
            profile: plan.profile.clone(),
            class: plan.class.clone(),
            server_type: plan.server_type.clone(),
            target: plan.target,
            ttl: plan.ttl,
            idle_timeout: plan.idle_timeout,
            requirements: plan.requirements,
        };
        let engine = self.clone();
        // One at a time in this process, so that the lock between processes is never fought over from within.
        let _turn = self.shared.allocation.lock().await;
        blocking(move || {
            let claims = engine.claims_for(spec);
            let allocation = claims.lock_named(slugs::ALLOCATION_LOCK, &Wait::at_most(CLAIM_WAIT))?;
            let lease = random::lease_id()?;
            let slug = engine.free_slug(&lease, wanted.slug.as_ref(), &inventory)?;
            let mut request = base.into_request(spec, lease, slug, wanted.keep, engine.now())?;
            request.restore_from = wanted.restore_from;
            if let Some(directory) = &wanted.workspace {
                request.labels.set(WORKSPACE, directory);
            }
            let (handle, claim) = engine.record_intent(spec, &scope, &request, &wanted.repo_root)?;
            drop(allocation);
            Ok((request, handle, claim))
        })
        .await
    }

    fn free_slug(&self, lease: &LeaseId, requested: Option<&Slug>, inventory: &[Slug]) -> Result<Slug> {
        let (claims, problems) = self.stores().claims.list()?;
        if let (Some(_), Some(problem)) = (requested, problems.first()) {
            return Err(
                Error::usage(format!("a damaged claim may hold the slug: `{}`", problem.file))
                    .with_hint("`crabbox claims list` shows every damaged claim; repair or move the file"),
            );
        }
        let taken = |slug: &Slug| {
            Ok(inventory.contains(slug)
                || claims
                    .iter()
                    .any(|claim| claim.slug == slug.as_str() && !claim.is_released()))
        };
        match requested {
            Some(slug) if taken(slug)? => Err(Error::usage(format!("slug is taken: `{slug}`"))
                .with_hint("choose another --slug, or use the lease that has it with --id")),
            Some(slug) => Ok(slug.clone()),
            None => slugs::allocate(lease, None, taken),
        }
    }

    /// Asks the provider and waits until the box is ready.
    async fn create(
        &self,
        plan: &LeasePlan,
        request: &CreateLease,
        handle: &mut Handle,
        claim: &ClaimRecord,
    ) -> Result<(Machine, ClaimRecord)> {
        let spec = plan.spec();
        let lifecycle = plan.backend.lifecycle()?;
        let mut recorder = Recorder { engine: self, handle };
        let machine = self.unless_cancelled(lifecycle.create(request, &mut recorder)).await?;
        self.step(Step::Created);
        let binding = self.binding(&request.lease, Some(claim), Some(handle.entry()), &[])?;
        authority::compare(&binding, &plan.backend.scope(), &machine)
            .map_err(|error| error.context("the provider returned another machine"))?;
        let machine = self
            .unless_cancelled(self.wait_ready(plan, request, handle, claim, machine))
            .await?;
        let claim = self.record_acquired(spec, handle, claim, &machine)?;
        Ok((machine, claim))
    }

    async fn wait_ready(
        &self,
        plan: &LeasePlan,
        request: &CreateLease,
        handle: &Handle,
        claim: &ClaimRecord,
        mut machine: Machine,
    ) -> Result<Machine> {
        let lifecycle = plan.backend.lifecycle()?;
        let deadline = self.monotonic() + READY_WAIT;
        let mut pause = READY_PAUSE.0;
        while machine.state != MachineState::Ready {
            if machine.state.is_terminal() {
                return Err(
                    Error::readiness(format!("box became {} before it was ready", machine.state))
                        .with_lease(request.lease.as_str()),
                );
            }
            if self.monotonic() > deadline {
                return Err(
                    Error::readiness(format!("box was not ready after {} minutes", READY_WAIT.as_secs() / 60))
                        .with_lease(request.lease.as_str()),
                );
            }
            self.shared.runtime.clock.sleep(pause).await;
            pause = (pause * 2).min(READY_PAUSE.1);
            let binding = self.binding(&request.lease, Some(claim), Some(handle.entry()), &[])?;
            machine = match lifecycle.inspect(&binding).await? {
                Observed::Present(machine) => *machine,
                Observed::Absent(_) => {
                    return Err(Error::readiness("box vanished before it was ready").with_lease(request.lease.as_str()));
                }
                // A look that failed is repeated until the deadline; the box may well be there.
                Observed::Unknown(_) => machine,
            };
        }
        Ok(machine)
    }

    /// Undoes a creation that failed, on its own time: a cancelled operation still cleans up after itself.
    async fn roll_back(&self, plan: &LeasePlan, lease: &LeaseId, error: Error) -> Error {
        match self
            .release_lease(plan.spec(), Arc::clone(&plan.backend), lease.clone(), "rollback")
            .await
        {
            Ok(_) => error,
            Err(second) => {
                self.warn(format!("could not undo the creation of {lease}: {second}"));
                if error.hint().is_some() {
                    return error.with_lease(lease.as_str());
                }
                error
                    .with_lease(lease.as_str())
                    .with_hint("run `crabbox cleanup` to give back what was created")
            }
        }
    }
}

/// The part of a plan that goes into a request, owned.
struct RequestBase {
    profile: String,
    class: String,
    server_type: Option<String>,
    target: Target,
    ttl: Duration,
    idle_timeout: Duration,
    requirements: Requirements,
}

impl RequestBase {
    fn into_request(
        self,
        spec: &ProviderSpec,
        lease: LeaseId,
        slug: Slug,
        keep: bool,
        now: jiff::Timestamp,
    ) -> Result<CreateLease> {
        let attempt = random::attempt_token()?;
        let inputs = LabelInputs {
            lease: &lease,
            slug: &slug,
            provider: spec.name,
            profile: &self.profile,
            class: &self.class,
            server_type: self.server_type.as_deref().unwrap_or_default(),
            target: self.target,
            provider_key: &lease.provider_key_name(),
            keep,
            ttl: self.ttl,
            idle_timeout: self.idle_timeout,
            attempt: &attempt,
        };
        let labels = Labels::for_lease(&inputs, now);
        debug_assert_eq!(labels.get(ATTEMPT), Some(attempt.as_str()));
        let mut request = CreateLease::new(lease, slug, attempt, labels, self.target);
        request.class = self.class;
        request.server_type = self.server_type;
        request.ttl = self.ttl;
        request.idle_timeout = self.idle_timeout;
        request.keep = keep;
        request.requirements = self.requirements;
        Ok(request)
    }
}
