//! One claim, locked.

use crabbox_core::{Error, LeaseId, Result};

use super::{ClaimRecord, ClaimStore};
use crate::json;
use crate::lock::LockGuard;
use crate::random;

/// What the caller saw, compared before a change.
#[derive(Clone, Copy, Debug)]
pub enum Expected<'a> {
    /// Whatever is there.
    Anything,
    /// No claim.
    Absent,
    /// The claim with this revision.
    Revision(&'a str),
    /// This very claim, revision and all.
    Exactly(&'a ClaimRecord),
    /// A claim on the same resource as this one. Who else uses the lease may have written times, labels and endpoint.
    SameResource(&'a ClaimRecord),
}

impl Expected<'_> {
    fn admits(&self, current: Option<&ClaimRecord>) -> bool {
        match self {
            Self::Anything => true,
            Self::Absent => current.is_none(),
            Self::Revision(revision) => {
                !revision.is_empty() && current.is_some_and(|claim| claim.revision == *revision)
            }
            Self::Exactly(expected) => current == Some(*expected),
            Self::SameResource(expected) => current.is_some_and(|claim| claim.resource() == expected.resource()),
        }
    }
}

/// Holds the lock of one claim: read, verify, act at the provider, write or remove, and nobody comes in between.
///
/// The lock is given back when the transaction is dropped. It may be held across an `await`.
#[derive(Debug)]
#[must_use = "the claim is unlocked at once when its transaction is dropped"]
pub struct ClaimTxn {
    store: ClaimStore,
    lease: LeaseId,
    _guard: LockGuard,
}

impl ClaimTxn {
    pub(super) fn new(store: ClaimStore, lease: LeaseId, guard: LockGuard) -> Self {
        Self {
            store,
            lease,
            _guard: guard,
        }
    }

    /// The locked lease.
    pub fn lease(&self) -> &LeaseId {
        &self.lease
    }

    /// Reads the claim.
    ///
    /// # Errors
    /// As [`ClaimStore::read`].
    pub fn read(&self) -> Result<Option<ClaimRecord>> {
        self.store.read(&self.lease)
    }

    /// Writes the claim durably under a new revision and returns what was written.
    ///
    /// # Errors
    /// `Identity` when the record belongs to another lease; as [`Disk::replace`](crate::Disk::replace), after which
    /// the previous claim is intact.
    pub fn write(&mut self, mut record: ClaimRecord) -> Result<ClaimRecord> {
        if !record.is_incomplete() && record.lease_id != self.lease.as_str() {
            return Err(Error::identity(format!(
                "claim of another lease offered for {}: `{}`",
                self.lease,
                record.lease_id.escape_debug()
            ))
            .with_lease(self.lease.as_str()));
        }
        record.revision = random::revision()?;
        self.store
            .disk
            .replace(&self.store.path(&self.lease), &json::pretty(&record)?)?;
        Ok(record)
    }

    /// Changes the claim if it is still what the caller saw; a missing claim starts empty.
    ///
    /// # Errors
    /// `Usage`, retryable, when the claim is not what was expected; whatever `change` returns; as [`ClaimTxn::write`].
    pub fn update(
        &mut self,
        expected: Expected<'_>,
        change: impl FnOnce(&mut ClaimRecord) -> Result<()>,
    ) -> Result<ClaimRecord> {
        let current = self.expect(expected)?;
        let mut record = current.unwrap_or_else(|| ClaimRecord {
            lease_id: self.lease.to_string(),
            ..ClaimRecord::default()
        });
        change(&mut record)?;
        self.write(record)
    }

    /// Removes the claim if it is still what the caller saw; `false` when there was none.
    ///
    /// # Errors
    /// `Usage`, retryable, when the claim is not what was expected; as [`Disk::remove`](crate::Disk::remove).
    pub fn remove(&mut self, expected: Expected<'_>) -> Result<bool> {
        self.expect(expected)?;
        self.store.disk.remove(&self.store.path(&self.lease))
    }

    fn expect(&self, expected: Expected<'_>) -> Result<Option<ClaimRecord>> {
        let current = self.read()?;
        if expected.admits(current.as_ref()) {
            Ok(current)
        } else {
            Err(Error::usage(format!("lease {} claim changed; retry", self.lease))
                .with_lease(self.lease.as_str())
                .with_facts(|facts| facts.retryable = true)
                .with_hint("another process changed the claim meanwhile; `crabbox claims list` shows it"))
        }
    }
}
