//! Finding an existing box: claim first, inventory second, identity always checked.

use std::sync::Arc;

use crabbox_config::ProviderSource;
use crabbox_core::request::ListQuery;
use crabbox_core::{Backend, Error, LeaseId, Machine, Observed, Provider, ProviderSpec, Result, Slug, authority};
use crabbox_state::claims::{ClaimRecord, Expected, Filter, Found};
use crabbox_state::journal::{Entry, Stage, client_is_alive};
use crabbox_state::lock::Wait;

use crate::engine::{Engine, blocking};
use crate::event::Event;
use crate::lease::{self, Lease};
use crate::ledger::{CLAIM_WAIT, unclaimed};

/// A lease that an identifier stands for, before anybody looked at its box.
pub(crate) struct Target {
    pub(crate) provider: Arc<dyn Provider>,
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) lease: LeaseId,
    pub(crate) claim: Option<ClaimRecord>,
    /// The machine, when it was found in the inventory and has no claim here.
    pub(crate) machine: Option<Machine>,
}

impl Target {
    pub(crate) fn spec(&self) -> &'static ProviderSpec {
        self.provider.spec()
    }
}

impl Engine {
    /// Finds what an identifier stands for: the exact claim, a claim's slug, then the selected provider's inventory.
    ///
    /// # Errors
    /// `Identity` when nothing or several things match; `Usage` when several providers do or the provider is not in this
    /// build.
    pub(crate) async fn resolve(&self, identifier: &str) -> Result<Target> {
        let identifier = identifier.trim();
        if identifier.is_empty() {
            return Err(Error::usage("missing lease id or slug").with_hint("pass --id; `crabbox list` shows yours"));
        }
        if let Some(claim) = self.find_claim(identifier)? {
            let provider = Arc::clone(self.shared.registry.get(claim.provider_name())?);
            let backend = self.connect(&*provider)?;
            let lease = claim.lease().ok_or_else(|| unclaimed(identifier))?;
            return Ok(Target {
                provider,
                backend,
                lease,
                claim: Some(claim),
                machine: None,
            });
        }
        let (provider, _) = self.selected()?;
        let backend = self.connect(&*provider)?;
        let inventory = self.unless_cancelled(backend.list(ListQuery::default())).await?;
        let machine = find_machine(identifier, inventory.machines, inventory.complete)?;
        let lease = machine.lease().ok_or_else(|| unclaimed(identifier))?;
        Ok(Target {
            provider,
            backend,
            lease,
            claim: None,
            machine: Some(machine),
        })
    }

    /// The claim that an identifier stands for.
    pub(crate) fn find_claim(&self, identifier: &str) -> Result<Option<ClaimRecord>> {
        let selection = self.shared.config.config.provider.as_ref();
        let explicit = match selection.filter(|selection| selection.source == ProviderSource::Flag) {
            Some(selection) => Some(self.shared.registry.get(&selection.name)?.spec().name),
            None => None,
        };
        let filter = Filter {
            provider: explicit,
            ..Filter::default()
        };
        let (found, problems) = self.stores().claims.find(identifier, &filter)?;
        for problem in problems {
            self.warn(format!("ignoring a damaged claim: {}", problem.file));
        }
        match found {
            Found::Exact(claim) | Found::Alias(claim) => Ok(Some(*claim)),
            Found::None => Ok(None),
            Found::Ambiguous(claims) => {
                let mut providers: Vec<_> = claims.iter().map(ClaimRecord::provider_name).collect();
                providers.dedup();
                let candidates: Vec<_> = claims.iter().map(|claim| claim.lease_id.as_str()).collect();
                let candidates = candidates.join(", ");
                let message = format!("slug matches several leases: `{}`", identifier.escape_debug());
                let error = if providers.len() > 1 {
                    Error::usage(message)
                } else {
                    Error::identity(message)
                };
                Err(error.with_hint(format!("use one of the ids: {candidates}; or name the --provider")))
            }
        }
    }

    /// Looks at a resolved lease and compares what is there with what was recorded.
    ///
    /// # Errors
    /// `Identity` when the box is gone or is not the recorded one; the provider's error when nobody can tell.
    pub(crate) async fn look(&self, target: &Target) -> Result<Machine> {
        if let Some(machine) = &target.machine {
            return Ok(machine.clone());
        }
        let spec = target.spec();
        let entry = self.journal(spec).open(&target.lease)?;
        let entry = entry.as_ref().map(crabbox_state::journal::Handle::entry);
        let binding = self.binding(&target.lease, target.claim.as_ref(), entry, spec.immutable_labels)?;
        match self
            .unless_cancelled(target.backend.lifecycle()?.inspect(&binding))
            .await?
        {
            Observed::Present(machine) => {
                authority::compare(&binding, &target.backend.scope(), &machine)?;
                Ok(*machine)
            }
            Observed::Absent(_) => Err(gone(target)),
            Observed::Unknown(error) => Err(error.with_lease(target.lease.as_str())),
        }
    }

    /// Looks at a resolved lease in order to use it.
    ///
    /// # Errors
    /// `Readiness` while another process still creates the box or gives it back, whose records are that process's alone;
    /// as [`Engine::look`].
    pub(crate) async fn look_for_use(&self, target: &Target) -> Result<Machine> {
        if let Some(handle) = self.journal(target.spec()).open(&target.lease)? {
            refuse_unfinished(handle.entry())?;
        }
        self.look(target).await
    }

    /// Takes an existing box for work: looked at, not expired, claimed for this checkout.
    pub(crate) async fn take(&self, identifier: &str, repo_root: &str, reclaim: bool) -> Result<Lease> {
        let started = self.monotonic();
        let target = self.resolve(identifier).await?;
        let machine = self.look_for_use(&target).await?;
        if machine.labels.expires_at().is_some_and(|at| at < self.now()) && !machine.labels.keep() {
            return Err(Error::identity(format!("lease has expired: `{}`", target.lease))
                .with_lease(target.lease.as_str())
                .with_hint("create a new one with `crabbox warmup`; `crabbox cleanup` gives the old one back"));
        }
        let claim = self.claim_for(&target, &machine, repo_root, reclaim).await?;
        let elapsed = self.monotonic().saturating_sub(started);
        let slug: Option<Slug> = claim.slug.parse().ok();
        let info = lease::describe(target.spec(), &machine, target.lease.clone(), slug, true, elapsed);
        self.emit(Event::Leased(info.clone()));
        Ok(Lease {
            spec: target.spec(),
            backend: target.backend,
            machine,
            claim,
            info,
        })
    }

    async fn claim_for(
        &self,
        target: &Target,
        machine: &Machine,
        repo_root: &str,
        reclaim: bool,
    ) -> Result<ClaimRecord> {
        let claims = self.claims_for(target.spec());
        let (lease, known) = (target.lease.clone(), target.claim.clone());
        let (machine, repo_root) = (machine.clone(), repo_root.to_owned());
        let (provider, scope, now) = (target.spec().name, target.backend.scope(), self.now());
        blocking(move || {
            // Others may use the lease at the same time; only the box must be the one that was looked at.
            let expected = known.as_ref().map_or(Expected::Absent, Expected::SameResource);
            claims.update(&lease, expected, &Wait::at_most(CLAIM_WAIT), |record| {
                if known.is_none() {
                    *record = ClaimRecord::new(&lease, "", now);
                    record.slug = machine.slug().map(|slug| slug.to_string()).unwrap_or_default();
                }
                record.bind_repository(&repo_root, reclaim, now)?;
                record.set_identity(provider, &scope.0, "");
                crate::ledger::describe(record, &machine);
                Ok(())
            })
        })
        .await
    }
}

fn refuse_unfinished(entry: &Entry) -> Result<()> {
    let doing = match entry.state {
        Stage::Prepared => "created",
        Stage::Releasing => "given back",
        Stage::Acquired => return Ok(()),
    };
    let lease = entry.lease_id.as_str();
    let alive = client_is_alive(entry);
    let error = if alive {
        Error::readiness(format!("lease is still being {doing}: `{lease}`"))
            .with_hint(format!("process {} is at it; try again in a moment", entry.client.pid))
    } else {
        Error::readiness(format!("lease was left behind while it was being {doing}: `{lease}`"))
            .with_hint("`crabbox cleanup` gives it back; create another with `crabbox warmup`")
    };
    Err(error.with_lease(lease).with_facts(|facts| facts.retryable = alive))
}

fn gone(target: &Target) -> Error {
    Error::identity(format!("lease is gone at its provider: `{}`", target.lease))
        .with_lease(target.lease.as_str())
        .with_hint("it expired or was destroyed; `crabbox cleanup` forgets it, `crabbox warmup` creates another")
}

/// Finds the one machine that an identifier names: a canonical id by its lease label only, anything else by slug, then by
/// exact name or id.
fn find_machine(identifier: &str, machines: Vec<Machine>, complete: bool) -> Result<Machine> {
    let canonical = LeaseId::looks_canonical(identifier);
    let slug = crabbox_core::id::normalize(identifier);
    let has = |machine: &Machine, key: &str, value: &str| machine.labels.get(key) == Some(value);
    let by_lease = |machine: &Machine| has(machine, "lease", identifier);
    let by_slug = |machine: &Machine| !slug.is_empty() && has(machine, "slug", &slug);
    let by_name = |machine: &Machine| machine.name == identifier || machine.resource.id == identifier;
    let rules: &[&dyn Fn(&Machine) -> bool] = if canonical {
        &[&by_lease]
    } else {
        &[&by_lease, &by_slug, &by_name]
    };
    for rule in rules {
        let mut matches: Vec<&Machine> = machines.iter().filter(|machine| rule(machine)).collect();
        match (matches.pop(), matches.is_empty()) {
            (None, _) => {}
            (Some(only), true) => return Ok(only.clone()),
            (Some(last), false) => {
                let candidates: Vec<_> = matches
                    .iter()
                    .chain([&last])
                    .filter_map(|machine| machine.labels.get("lease"))
                    .collect();
                return Err(
                    Error::identity(format!("several boxes match: `{}`", identifier.escape_debug()))
                        .with_hint(format!("use one of the ids: {}", candidates.join(", "))),
                );
            }
        }
    }
    if complete {
        return Err(unclaimed(identifier));
    }
    Err(unclaimed(identifier)
        .context("the provider's list is incomplete")
        .with_facts(|facts| facts.retryable = true))
}

#[cfg(test)]
mod tests {
    use crabbox_core::{ErrorKind, Labels, ResourceId, Target};

    use super::*;

    fn machine(lease: &str, slug: &str, name: &str) -> Machine {
        let labels = [("lease", lease), ("slug", slug)].map(|(key, value)| (key.to_owned(), value.to_owned()));
        let mut machine = Machine::new(
            "acme",
            ResourceId::new(name),
            Labels::from_observed(labels),
            Target::LINUX,
        );
        machine.name = name.to_owned();
        machine
    }

    #[test]
    fn a_canonical_id_never_falls_through_to_a_name() {
        let machines = vec![machine("cbx_000000000001", "blue-crab", "cbx_000000000002")];
        assert!(find_machine("cbx_000000000001", machines.clone(), true).is_ok());
        let error = find_machine("cbx_000000000002", machines, true).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Identity);
    }

    #[test]
    fn slugs_come_before_names_and_must_be_unique() {
        let machines = vec![
            machine("cbx_000000000001", "blue-crab", "a"),
            machine("cbx_000000000002", "jade-crab", "blue-crab"),
            machine("cbx_000000000003", "same", "c"),
            machine("cbx_000000000004", "same", "d"),
        ];
        assert_eq!(find_machine("Blue Crab", machines.clone(), true).unwrap().name, "a");
        assert_eq!(find_machine("d", machines.clone(), true).unwrap().name, "d");
        let error = find_machine("same", machines, true).unwrap_err();
        assert!(error.hint().unwrap().contains("cbx_000000000003"));
    }

    #[test]
    fn an_incomplete_list_says_so() {
        let error = find_machine("x", Vec::new(), false).unwrap_err();
        assert!(error.is_retryable());
        assert!(error.to_string().contains("incomplete"));
    }
}
