//! The token without which nothing is destroyed.
//!
//! [`Backend`](crate::backend) traits accept a [`VerifiedBinding`] and nothing else. Its fields are private, it cannot be
//! cloned, and it borrows the held claim lock, so it can neither be forged nor outlive the critical section in which the
//! engine compared claim and resource. The only constructor sits behind the cargo feature `authority`, which the engine
//! enables and provider crates may not.
//!
//! ```compile_fail
//! use crabbox_core::authority::VerifiedBinding;
//! fn forge(machine: crabbox_core::machine::Machine) -> VerifiedBinding<'static> {
//!     VerifiedBinding { machine, lease: "cbx_000000000001".parse().unwrap(), lock: std::marker::PhantomData }
//! }
//! ```

use std::marker::PhantomData;

use crate::error::{Error, Result};
use crate::id::LeaseId;
use crate::labels;
use crate::machine::{Binding, Machine, ResourceId, Scope};

/// Proof that claim and resource were compared under the claim lock and agree.
#[derive(Debug)]
pub struct VerifiedBinding<'lock> {
    machine: Machine,
    lease: LeaseId,
    lock: PhantomData<&'lock ()>,
}

impl VerifiedBinding<'_> {
    /// The lease that is being ended.
    pub fn lease(&self) -> &LeaseId {
        &self.lease
    }

    /// The machine as it was observed under the lock.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Identity of the resource to destroy.
    pub fn resource(&self) -> &ResourceId {
        &self.machine.resource
    }
}

/// Something held while a binding is verified and used: the engine's claim lock.
pub trait HeldLock {
    /// The lease whose claim is locked.
    fn lease(&self) -> &LeaseId;
}

/// Compares what was recorded with what was observed and mints the token.
///
/// # Errors
/// `Identity` when provider, scope, lease, resource id, immutable id, attempt or a required label differ, or when neither
/// a resource id nor an attempt token was recorded.
#[cfg(feature = "authority")]
pub fn verify<'lock>(
    lock: &'lock dyn HeldLock,
    recorded: &Binding,
    scope: &Scope,
    observed: Machine,
) -> Result<VerifiedBinding<'lock>> {
    if lock.lease() != &recorded.lease {
        return Err(mismatch(
            recorded,
            "claim lock",
            lock.lease().as_str(),
            recorded.lease.as_str(),
        ));
    }
    compare(recorded, scope, &observed)?;
    Ok(VerifiedBinding {
        machine: observed,
        lease: recorded.lease.clone(),
        lock: PhantomData,
    })
}

/// Compares what was recorded with what was observed.
///
/// # Errors
/// As [`verify`].
pub fn compare(recorded: &Binding, scope: &Scope, observed: &Machine) -> Result<()> {
    let same = |what: &str, expected: &str, actual: &str| {
        if expected == actual {
            Ok(())
        } else {
            Err(mismatch(recorded, what, expected, actual))
        }
    };
    same("provider", &recorded.provider, &observed.provider)?;
    if !recorded.scope.0.is_empty() {
        same("provider scope", &recorded.scope.0, &scope.0)?;
    }
    same(
        "lease label",
        recorded.lease.as_str(),
        observed.labels.get("lease").unwrap_or_default(),
    )?;
    match (&recorded.resource, &recorded.attempt) {
        (Some(resource), _) => {
            same("resource id", &resource.id, &observed.resource.id)?;
            if let Some(immutable) = &resource.immutable {
                let actual = observed.resource.immutable.as_deref().unwrap_or_default();
                same("immutable resource id", immutable, actual)?;
            }
        }
        (None, Some(attempt)) => {
            same(
                "attempt label",
                attempt,
                observed.labels.get(labels::ATTEMPT).unwrap_or_default(),
            )?;
        }
        (None, None) => {
            return Err(mismatch(
                recorded,
                "recorded identity",
                "a resource id or an attempt token",
                "",
            ));
        }
    }
    for (key, value) in &recorded.required_labels {
        same(
            &format!("label {key}"),
            value,
            observed.labels.get(key).unwrap_or_default(),
        )?;
    }
    Ok(())
}

fn mismatch(recorded: &Binding, what: &str, expected: &str, actual: &str) -> Error {
    let actual = if actual.is_empty() { "nothing" } else { actual };
    Error::identity(format!(
        "{what} of lease {} does not match: expected {expected}, found {actual}",
        recorded.lease
    ))
    .with_lease(recorded.lease.as_str())
    .with_hint("nothing was destroyed; `crabbox inspect` shows what the provider has now")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::labels::Labels;
    use crate::spec::Target;

    struct Lock(LeaseId);

    impl HeldLock for Lock {
        fn lease(&self) -> &LeaseId {
            &self.0
        }
    }

    fn lease() -> LeaseId {
        "cbx_abcdef123456".parse().unwrap()
    }

    fn machine(id: &str, immutable: &str) -> Machine {
        let mut labels = Labels::default();
        labels.set("lease", lease().as_str());
        labels.set(labels::ATTEMPT, "cat_1");
        Machine::new(
            "acme",
            ResourceId::new(id).with_immutable(immutable),
            labels,
            Target::LINUX,
        )
    }

    fn binding(resource: Option<ResourceId>) -> Binding {
        Binding::new("acme", Scope("account".into()), lease(), resource)
    }

    fn scope() -> Scope {
        Scope("account".into())
    }

    #[test]
    fn everything_must_match() {
        let recorded = binding(Some(ResourceId::new("box").with_immutable("1")));
        assert!(compare(&recorded, &scope(), &machine("box", "1")).is_ok());
        let recreated = compare(&recorded, &scope(), &machine("box", "2")).unwrap_err();
        assert_eq!(recreated.kind(), crate::ErrorKind::Identity);
        assert!(compare(&recorded, &scope(), &machine("other", "1")).is_err());
        assert!(compare(&recorded, &Scope("other".into()), &machine("box", "1")).is_err());
        let labelled = recorded.with_required_labels([("zone".to_owned(), "a".to_owned())].into());
        assert!(compare(&labelled, &scope(), &machine("box", "1")).is_err());
    }

    #[test]
    fn without_a_resource_id_the_attempt_decides() {
        let unknown = binding(None);
        assert!(compare(&unknown, &scope(), &machine("box", "1")).is_err());
        let attempt = binding(None).with_attempt(Some("cat_1".into()));
        assert!(compare(&attempt, &scope(), &machine("box", "1")).is_ok());
        let foreign = binding(None).with_attempt(Some("cat_2".into()));
        assert!(compare(&foreign, &scope(), &machine("box", "1")).is_err());
    }

    #[cfg(feature = "authority")]
    #[test]
    fn the_lock_must_be_of_the_same_lease() {
        let recorded = binding(Some(ResourceId::new("box")));
        let other = Lock("cbx_000000000001".parse().unwrap());
        assert!(verify(&other, &recorded, &scope(), machine("box", "1")).is_err());
        let own = Lock(lease());
        let verified = verify(&own, &recorded, &scope(), machine("box", "1")).unwrap();
        assert_eq!(verified.resource().id, "box");
    }

    #[test]
    fn a_lock_names_its_lease() {
        assert_eq!(Lock(lease()).lease(), &lease());
    }
}
