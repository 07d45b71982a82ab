//! Giving a box back: lock, look, verify, destroy, forget. The only place that destroys anything.

use std::sync::Arc;
use std::time::Duration;

use crabbox_core::{Backend, Error, LeaseId, Machine, Observed, Outcome, ProviderSpec, Result, Slug, authority};
use crabbox_state::claims::{ClaimRecord, Expected};
use crabbox_state::disk::lacks_space;
use crabbox_state::journal::Handle;
use crabbox_state::lock::Wait;

use crate::api::StopOutcome;
use crate::engine::{Engine, blocking};
use crate::event::Event;
use crate::ledger::{CLAIM_WAIT, Held, unclaimed};
use crate::step::Step;

/// Longest time that giving one box back may take. It runs on its own time, even after the operation was cancelled.
const RELEASE_LIMIT: Duration = Duration::from_secs(5 * 60);

impl Engine {
    /// Gives a box back and forgets it once it is proven gone. Safe to repeat.
    ///
    /// # Errors
    /// `Identity` when nothing is recorded or the resource is not the recorded one; whatever the provider returns. Then
    /// claim, key and journal entry stay.
    pub(crate) async fn release_lease(
        &self,
        spec: &'static ProviderSpec,
        backend: Arc<dyn Backend>,
        lease: LeaseId,
        policy: &'static str,
    ) -> Result<StopOutcome> {
        let work = self.release_locked(spec, backend, lease.clone(), policy);
        match tokio::time::timeout(RELEASE_LIMIT, work).await {
            Ok(result) => result.map_err(|error| error.with_lease(lease.as_str())),
            Err(_) => Err(
                Error::other(format!("release took longer than {} s", RELEASE_LIMIT.as_secs()))
                    .with_lease(lease.as_str())
                    .with_facts(|facts| (facts.retryable, facts.outcome_unknown) = (true, true))
                    .with_hint("run `crabbox cleanup` later; nothing was forgotten"),
            ),
        }
    }

    async fn release_locked(
        &self,
        spec: &'static ProviderSpec,
        backend: Arc<dyn Backend>,
        lease: LeaseId,
        policy: &'static str,
    ) -> Result<StopOutcome> {
        let engine = self.clone();
        let locked = lease.clone();
        let (mut held, claim, entry) = blocking(move || {
            let txn = engine.claims_for(spec).lock(&locked, &Wait::at_most(CLAIM_WAIT))?;
            let claim = txn.read()?;
            let entry = engine.journal(spec).open(&locked)?;
            Ok((Held { txn }, claim, entry))
        })
        .await?;
        self.step(Step::ReleaseLocked);
        if claim.is_none() && entry.is_none() {
            return Err(unclaimed(lease.as_str()));
        }
        let mut entry = match entry {
            Some(entry) => Some(entry),
            None => unless_full(self.journal_entry_for(spec, &lease, claim.as_ref()))?.flatten(),
        };
        if let Some(entry) = &mut entry {
            unless_full(entry.releasing())?;
        }
        self.step(Step::Releasing);

        let recorded = entry.as_ref().map(Handle::entry);
        let binding = self.binding(&lease, claim.as_ref(), recorded, spec.immutable_labels)?;
        let lifecycle = backend.lifecycle()?;
        let (outcome, server, name) = match lifecycle.inspect(&binding).await? {
            Observed::Unknown(error) => {
                return Err(error
                    .context("cannot tell whether the box is still there")
                    .with_facts(|f| f.retryable = true));
            }
            Observed::Absent(_) => {
                let server = binding
                    .resource
                    .as_ref()
                    .map(|resource| resource.id.clone())
                    .unwrap_or_default();
                (Outcome::AlreadyGone, server.clone(), server)
            }
            Observed::Present(machine) => {
                let (server, name) = (machine.resource.id.clone(), machine.name.clone());
                let verified = authority::verify(&held, &binding, &backend.scope(), *machine)?;
                self.step(Step::Verified);
                (lifecycle.destroy(&verified).await?, server, name)
            }
        };
        self.step(Step::Destroyed);

        let slug = slug_of(claim.as_ref(), recorded.map(|entry| entry.slug.as_str()));
        if outcome.is_gone() {
            held.txn.remove(Expected::Anything)?;
            self.stores().keys.remove(&lease)?;
            self.step(Step::Forgotten);
            if let Some(entry) = &entry {
                entry.finish()?;
            }
            self.step(Step::Released);
        } else if claim.is_some() {
            held.txn.update(Expected::Anything, |claim| {
                claim.clear_endpoint();
                Ok(())
            })?;
        }
        self.emit(Event::Released {
            lease: lease.clone(),
            slug: slug.clone(),
            server: server.clone(),
            gone: outcome.is_gone(),
            policy,
        });
        Ok(StopOutcome {
            lease,
            slug,
            provider: spec.name.to_owned(),
            server,
            name,
            outcome,
        })
    }

    /// A journal entry for a lease that another implementation created, so that its end is crash-safe too.
    fn journal_entry_for(
        &self,
        spec: &ProviderSpec,
        lease: &LeaseId,
        claim: Option<&ClaimRecord>,
    ) -> Result<Option<Handle>> {
        let Some(claim) = claim.filter(|claim| !claim.cloud_id.is_empty()) else {
            return Ok(None);
        };
        let intent = crabbox_state::journal::Intent {
            lease: lease.clone(),
            slug: claim.slug.clone(),
            provider: spec.name.to_owned(),
            provider_scope: claim.provider_scope.clone(),
            purpose: crabbox_state::journal::Purpose::Kept,
            attempt: String::new(),
        };
        self.journal(spec).prepare(intent, self.now()).map(Some)
    }

    /// Takes over a machine that has no claim here, at the user's explicit wish, so that it can be released.
    pub(crate) fn adopt_machine(&self, spec: &ProviderSpec, scope: &str, machine: &Machine) -> Result<LeaseId> {
        let lease = machine.lease().ok_or_else(|| {
            Error::identity(format!("machine carries no lease label: `{}`", machine.resource.id))
                .with_hint("Crabbox did not create it; end it with the provider's own tools")
        })?;
        let now = self.now();
        let claims = self.claims_for(spec);
        claims.update(&lease, Expected::Absent, &Wait::at_most(CLAIM_WAIT), |record| {
            *record = ClaimRecord::new(&lease, "", now);
            record.set_identity(spec.name, scope, "");
            record.slug = machine.slug().map(|slug| slug.to_string()).unwrap_or_default();
            crate::ledger::describe(record, machine);
            Ok(())
        })?;
        Ok(lease)
    }
}

/// Lets a full disk keep nobody from destroying what may fill it. A crash on the way leaves a claim or an entry as it
/// was, and both lead to the box.
fn unless_full<T>(outcome: Result<T>) -> Result<Option<T>> {
    match outcome {
        Err(error) if lacks_space(&error) => Ok(None),
        other => other.map(Some),
    }
}

fn slug_of(claim: Option<&ClaimRecord>, recorded: Option<&str>) -> Option<Slug> {
    let text = claim
        .map(|claim| claim.slug.as_str())
        .filter(|slug| !slug.is_empty())
        .or(recorded)?;
    text.parse().ok()
}
