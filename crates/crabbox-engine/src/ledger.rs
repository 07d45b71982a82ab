//! The two records of one lease, journal entry and claim, kept in step.
//!
//! The journal says what was asked of a provider; the claim says which checkout uses the lease. Both are written before the
//! effect they announce.

use async_trait::async_trait;
use crabbox_core::authority::HeldLock;
use crabbox_core::{
    Binding, CreateLease, Error, Journal as ProviderJournal, LeaseId, Machine, ProviderSpec, ResourceId, Result, Scope,
};
use crabbox_state::claims::{ClaimRecord, ClaimTxn, Expected};
use crabbox_state::journal::{Entry, Handle, Intent, Purpose, Resource};
use crabbox_state::lock::Wait;

use crate::engine::Engine;
use crate::step::Step;

/// How long one process waits for another that works on the same claim.
pub(crate) const CLAIM_WAIT: std::time::Duration = std::time::Duration::from_secs(60);

/// Holds the claim lock of one lease, as the authority wants to see it.
pub(crate) struct Held {
    pub(crate) txn: ClaimTxn,
}

impl HeldLock for Held {
    fn lease(&self) -> &LeaseId {
        self.txn.lease()
    }
}

/// Tells the journal what a backend creates, as soon as it knows.
pub(crate) struct Recorder<'a> {
    pub(crate) engine: &'a Engine,
    pub(crate) handle: &'a mut Handle,
}

#[async_trait]
impl ProviderJournal for Recorder<'_> {
    async fn resource_known(&mut self, resource: &ResourceId) -> Result<()> {
        self.handle.record_resource(to_record(resource))?;
        self.engine.step(Step::ResourceKnown);
        Ok(())
    }

    async fn note(&mut self, key: &str, value: &str) -> Result<()> {
        self.handle.note(key, value)
    }
}

impl Engine {
    /// Writes down the intent to create a box: the journal entry, then the claim without a resource.
    pub(crate) fn record_intent(
        &self,
        spec: &ProviderSpec,
        scope: &Scope,
        request: &CreateLease,
        repo_root: &str,
    ) -> Result<(Handle, ClaimRecord)> {
        let now = self.now();
        let intent = Intent {
            lease: request.lease.clone(),
            slug: request.slug.to_string(),
            provider: spec.name.to_owned(),
            provider_scope: scope.0.clone(),
            purpose: if request.keep { Purpose::Kept } else { Purpose::OneShot },
            attempt: request.attempt.clone(),
        };
        let handle = self.journal(spec).prepare(intent, now)?;
        self.step(Step::Prepared);

        let mut claim = ClaimRecord::new(&request.lease, repo_root, now);
        claim.set_identity(spec.name, &scope.0, "");
        request.slug.as_str().clone_into(&mut claim.slug);
        claim.touch(now, Some(request.idle_timeout));
        let claims = self.claims_for(spec);
        let claim = claims
            .lock(&request.lease, &Wait::at_most(CLAIM_WAIT))?
            .update(Expected::Absent, |record| {
                *record = claim;
                Ok(())
            })?;
        self.step(Step::Claimed);
        Ok((handle, claim))
    }

    /// Writes down what was created: the claim names the resource, the journal says acquired.
    pub(crate) fn record_acquired(
        &self,
        spec: &ProviderSpec,
        handle: &mut Handle,
        claim: &ClaimRecord,
        machine: &Machine,
    ) -> Result<ClaimRecord> {
        let lease = handle.entry().lease_id.clone();
        let claims = self.claims_for(spec);
        let claim = claims.update(&lease, Expected::Exactly(claim), &Wait::at_most(CLAIM_WAIT), |record| {
            describe(record, machine);
            Ok(())
        })?;
        handle.record_resource(to_record(&machine.resource))?;
        handle.acquired()?;
        self.step(Step::Acquired);
        Ok(claim)
    }

    /// The claims, flushed to disk as the provider needs.
    pub(crate) fn claims_for(&self, spec: &ProviderSpec) -> crabbox_state::ClaimStore {
        if spec.outlives_host {
            self.stores().claims.clone()
        } else {
            self.stores().quick_claims.clone()
        }
    }

    /// The journal, flushed to disk as the provider needs.
    pub(crate) fn journal(&self, spec: &ProviderSpec) -> crabbox_state::Journal {
        if spec.outlives_host {
            self.stores().journal.clone()
        } else {
            self.stores().quick_journal.clone()
        }
    }

    /// What this machine recorded about a lease: enough to look at its resource.
    ///
    /// # Errors
    /// `Identity` when neither claim nor journal entry names a provider.
    pub(crate) fn binding(
        &self,
        lease: &LeaseId,
        claim: Option<&ClaimRecord>,
        entry: Option<&Entry>,
        immutable_labels: &[&str],
    ) -> Result<Binding> {
        let (provider, scope) = match (claim, entry) {
            (Some(claim), _) => (claim.provider_name().to_owned(), claim.provider_scope.clone()),
            (None, Some(entry)) => (entry.provider.clone(), entry.provider_scope.clone()),
            (None, None) => return Err(unclaimed(lease.as_str())),
        };
        let from_claim = claim
            .filter(|claim| !claim.cloud_id.is_empty())
            .map(|claim| resource(&claim.cloud_id, &claim.cloud_immutable_id));
        let from_entry = entry
            .and_then(|entry| entry.resource.as_ref())
            .map(|recorded| resource(&recorded.id, &recorded.immutable_id));
        let required = claim
            .map(|claim| {
                let pick = |key: &&str| Some(((*key).to_owned(), claim.labels.get(*key)?.clone()));
                immutable_labels.iter().filter_map(pick).collect()
            })
            .unwrap_or_default();
        Ok(
            Binding::new(provider, Scope(scope), lease.clone(), from_claim.or(from_entry))
                .with_attempt(
                    entry
                        .map(|entry| entry.attempt.clone())
                        .filter(|attempt| !attempt.is_empty()),
                )
                .with_required_labels(required),
        )
    }
}

/// The error for something that no claim of this machine knows.
pub(crate) fn unclaimed(identifier: &str) -> Error {
    Error::identity(format!("no lease matches: `{}`", identifier.escape_debug()))
        .with_hint("`crabbox list` shows the selected provider's leases, `crabbox claims list` those of this machine")
}

/// Writes identity, endpoint and labels of a machine into its claim.
pub(crate) fn describe(claim: &mut ClaimRecord, machine: &Machine) {
    claim.cloud_id.clone_from(&machine.resource.id);
    claim.cloud_immutable_id = machine.resource.immutable.clone().unwrap_or_default();
    match &machine.host {
        Some(host) => claim.set_endpoint(host, 0),
        None => claim.clear_endpoint(),
    }
    claim.labels = machine.labels.as_map().clone();
}

fn to_record(resource: &ResourceId) -> Resource {
    Resource::new(&resource.id, resource.immutable.as_deref().unwrap_or_default())
}

fn resource(id: &str, immutable: &str) -> ResourceId {
    let resource = ResourceId::new(id);
    if immutable.is_empty() {
        resource
    } else {
        resource.with_immutable(immutable)
    }
}
