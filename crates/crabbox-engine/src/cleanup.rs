//! Sweeping: what a dead client left, what has expired, what is gone.

use std::collections::BTreeSet;
use std::sync::Arc;

use crabbox_core::labels::CleanupDecision;
use crabbox_core::request::ListQuery;
use crabbox_core::{Backend, Error, Inventory, LeaseId, Machine, Observed, ProviderSpec, Result};
use crabbox_state::claims::ClaimRecord;
use crabbox_state::journal::{Entry, Purpose, Stage, client_is_alive};

use crate::api::{CleanupItem, CleanupReport};
use crate::engine::Engine;

impl Engine {
    /// Gives back what nobody will: boxes of clients that died, boxes that expired, records of boxes that are gone.
    ///
    /// With `dry_run` only says what would be done. One failure does not stop the sweep; it is reported with its item.
    ///
    /// # Errors
    /// When the records of this machine or the selected provider's inventory cannot be read at all.
    pub async fn cleanup(&self, dry_run: bool) -> Result<CleanupReport> {
        let mut report = CleanupReport::default();
        let mut seen = BTreeSet::new();
        self.sweep_journal(dry_run, &mut report, &mut seen).await?;
        self.sweep_inventory(dry_run, &mut report, &mut seen).await?;
        if !dry_run {
            self.stores().journal.sweep();
            self.stores().claims.sweep();
        }
        Ok(report)
    }

    /// Boxes whose client died while it created, used or destroyed them, whatever their provider.
    async fn sweep_journal(
        &self,
        dry_run: bool,
        report: &mut CleanupReport,
        seen: &mut BTreeSet<LeaseId>,
    ) -> Result<()> {
        let (entries, problems) = self.stores().journal.list()?;
        for problem in problems {
            self.warn(format!("ignoring a damaged journal entry: {}", problem.file));
        }
        for entry in entries {
            let Some(reason) = abandoned(&entry) else { continue };
            seen.insert(entry.lease_id.clone());
            let server = entry
                .resource
                .as_ref()
                .map_or_else(|| "-".to_owned(), |resource| resource.id.clone());
            let mut item = CleanupItem {
                action: "delete",
                provider: entry.provider.clone(),
                name: server.clone(),
                server,
                lease: Some(entry.lease_id.clone()),
                reason: reason.to_owned(),
                error: None,
            };
            match self.shared.registry.get(&entry.provider) {
                Err(error) => (item.action, item.error) = ("skip", Some(error)),
                Ok(provider) if !dry_run => {
                    let spec = provider.spec();
                    item.error = match self.connect(&**provider) {
                        Ok(backend) => self.release_lease(spec, backend, entry.lease_id, "cleanup").await.err(),
                        Err(error) => Some(error),
                    };
                }
                Ok(_) => {}
            }
            report.items.push(item);
        }
        Ok(())
    }

    /// Boxes of the selected provider by their labels, and claims whose box is gone.
    async fn sweep_inventory(
        &self,
        dry_run: bool,
        report: &mut CleanupReport,
        seen: &mut BTreeSet<LeaseId>,
    ) -> Result<()> {
        let (provider, _) = self.selected()?;
        let spec = provider.spec();
        let backend = self.connect(&*provider)?;
        let inventory = backend.list(ListQuery::refreshed()).await?;
        let scope = backend.scope();
        let (claims, _) = self.stores().claims.list()?;
        let mine: Vec<ClaimRecord> = claims
            .into_iter()
            .filter(|claim| claim.provider_name() == spec.name && claim.provider_scope == scope.0)
            .filter(|claim| !claim.is_released())
            .collect();
        for machine in &inventory.machines {
            let lease = machine.lease();
            if lease.as_ref().is_some_and(|lease| seen.contains(lease)) {
                continue;
            }
            let claim = mine.iter().find(|claim| {
                lease.as_ref().is_some_and(|lease| claim.lease_id == lease.as_str())
                    && claim.cloud_id == machine.resource.id
            });
            let mut item = self.judge(spec, machine, claim);
            if item.action == "delete"
                && !dry_run
                && let Some(lease) = lease.clone()
            {
                item.error = self
                    .release_lease(spec, Arc::clone(&backend), lease, "cleanup")
                    .await
                    .err();
            }
            seen.extend(lease);
            report.items.push(item);
        }
        self.sweep_claims(spec, &backend, &inventory, &mine, dry_run, report, seen)
            .await
    }

    /// What the decision table says, and an exact claim whose own labels agree.
    fn judge(&self, spec: &ProviderSpec, machine: &Machine, claim: Option<&ClaimRecord>) -> CleanupItem {
        let now = self.now();
        let (action, reason) = match (machine.labels.cleanup_decision(now), claim) {
            (CleanupDecision::Skip(reason), _) => ("skip", reason.to_owned()),
            (CleanupDecision::Delete(_), None) => ("skip", "no-exact-local-claim".to_owned()),
            (CleanupDecision::Delete(reason), Some(claim)) => {
                let recorded = crabbox_core::Labels::from_observed(claim.labels.clone());
                match recorded.cleanup_decision(now) {
                    CleanupDecision::Delete(_) => ("delete", reason.to_owned()),
                    CleanupDecision::Skip(reason) => ("skip", format!("claim says: {reason}")),
                }
            }
        };
        CleanupItem {
            action,
            provider: spec.name.to_owned(),
            server: machine.resource.id.clone(),
            name: machine.name.clone(),
            lease: machine.lease(),
            reason,
            error: None,
        }
    }

    /// Claims that a complete inventory does not contain, each confirmed by a look of its own.
    #[expect(clippy::too_many_arguments, reason = "one sweep's worth of context, used once")]
    async fn sweep_claims(
        &self,
        spec: &'static ProviderSpec,
        backend: &Arc<dyn Backend>,
        inventory: &Inventory,
        claims: &[ClaimRecord],
        dry_run: bool,
        report: &mut CleanupReport,
        seen: &BTreeSet<LeaseId>,
    ) -> Result<()> {
        if !inventory.complete {
            self.warn("the provider's list is incomplete; claims were not compared with it");
            return Ok(());
        }
        for claim in claims {
            let Some(lease) = claim.lease().filter(|lease| !seen.contains(lease)) else {
                continue;
            };
            let mut handle = self.journal(spec).open(&lease)?;
            if handle
                .as_mut()
                .is_some_and(|handle| handle.entry().state == Stage::Prepared)
            {
                // Its client is alive and still creating.
                continue;
            }
            let entry = handle.as_ref().map(crabbox_state::journal::Handle::entry);
            let binding = self.binding(&lease, Some(claim), entry, spec.immutable_labels)?;
            let mut item = CleanupItem {
                action: "delete",
                provider: spec.name.to_owned(),
                server: claim.cloud_id.clone(),
                name: claim.cloud_id.clone(),
                lease: Some(lease.clone()),
                reason: "gone at the provider".to_owned(),
                error: None,
            };
            match backend.lifecycle()?.inspect(&binding).await {
                Ok(Observed::Absent(_)) if !dry_run => {
                    item.error = self
                        .release_lease(spec, Arc::clone(backend), lease, "cleanup")
                        .await
                        .err();
                }
                Ok(Observed::Absent(_)) => {}
                Ok(Observed::Present(_)) => continue,
                Ok(Observed::Unknown(error)) | Err(error) => {
                    (item.action, item.reason) = ("skip", "cannot tell whether it is gone".to_owned());
                    item.error = Some(error);
                }
            }
            report.items.push(item);
        }
        Ok(())
    }
}

/// Why an entry's box must be given back: its client died and nobody else wants it.
fn abandoned(entry: &Entry) -> Option<&'static str> {
    if client_is_alive(entry) {
        return None;
    }
    match (entry.state, entry.purpose) {
        (Stage::Prepared, _) => Some("its client died while creating it"),
        (Stage::Releasing, _) => Some("its client died while giving it back"),
        (Stage::Acquired, Purpose::OneShot) => Some("its client died"),
        (Stage::Acquired, Purpose::Kept) => None,
    }
}

impl CleanupReport {
    /// The first failure, for the exit status of a sweep that went on past it.
    pub fn first_error(&self) -> Option<&Error> {
        self.items.iter().find_map(|item| item.error.as_ref())
    }
}
