//! Claims: which checkout on this machine uses which lease.
//!
//! `claims/<leaseID>.json` holds one record each, shared with the Go implementation. Reading takes no lock and creates
//! nothing: a rename makes torn reads impossible. Every change happens in a [`ClaimTxn`], under a lock on
//! `claim-locks/<leaseID>.json.lock` that both implementations honour.

mod listing;
mod record;
mod txn;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crabbox_core::{Error, LeaseId, Result, id};

pub use listing::{ClaimRow, ClaimsListing};
pub use record::{ClaimRecord, FixedCreateIntent};
pub use txn::{ClaimTxn, Expected};

use crate::dirs::Dirs;
use crate::disk::{self, Disk};
use crate::lock::{self, LockGuard, Wait};
use crate::problem::{Problem, ProblemCode};
use crate::read::{self, RECORD_LIMIT};

const SUFFIX: &str = ".json";

/// The claims of one user on this machine.
#[derive(Clone, Debug)]
pub struct ClaimStore {
    disk: Disk,
    claims: PathBuf,
    locks: PathBuf,
}

/// What an identifier that a person typed stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Found {
    /// The id of this lease.
    Exact(Box<ClaimRecord>),
    /// The slug of exactly this lease.
    Alias(Box<ClaimRecord>),
    /// The slug of several leases, in order of their ids.
    Ambiguous(Vec<ClaimRecord>),
    /// Nothing that is claimed here.
    None,
}

/// Which claims an identifier may stand for. An empty filter admits all.
#[derive(Clone, Copy, Debug, Default)]
pub struct Filter<'a> {
    /// Canonical provider name.
    pub provider: Option<&'a str>,
    /// Exact provider scope.
    pub provider_scope: Option<&'a str>,
}

impl Filter<'_> {
    fn admits(&self, claim: &ClaimRecord) -> bool {
        self.provider.is_none_or(|provider| claim.provider_name() == provider)
            && self.provider_scope.is_none_or(|scope| claim.provider_scope == scope)
    }
}

impl ClaimStore {
    /// Opens the claims in a state directory. Nothing is created before something is written.
    pub fn new(dirs: &Dirs, disk: Disk) -> Self {
        Self {
            disk,
            claims: dirs.state.join("claims"),
            locks: dirs.state.join("claim-locks"),
        }
    }

    /// Reads one claim; `None` when there is none. A reservation that names no lease yet is returned as it is.
    ///
    /// # Errors
    /// `Identity` when the file is damaged, misfiled, not a regular file or larger than 1 MiB; `Usage` or `Other` when
    /// the disk refuses. Never a fallback to something else.
    pub fn read(&self, lease: &LeaseId) -> Result<Option<ClaimRecord>> {
        let path = self.path(lease);
        let content = read::bounded(&path, RECORD_LIMIT).map_err(|failure| failure.into_error("read claim", &path))?;
        let Some(content) = content else { return Ok(None) };
        let claim: ClaimRecord = serde_json::from_slice(&content).map_err(|cause| {
            Error::identity(format!("claim is not valid json: `{}`", path.display()))
                .with_lease(lease.as_str())
                .with_source(cause)
                .with_hint("`crabbox claims list` shows every damaged claim; repair or move the file")
        })?;
        if !claim.is_incomplete() && claim.lease_id != lease.as_str() {
            return Err(Error::identity(format!(
                "claim file {} belongs to another lease: `{}`",
                path.display(),
                claim.lease_id.escape_debug()
            ))
            .with_lease(lease.as_str())
            .with_hint("the file was copied or renamed; move it away"));
        }
        Ok(Some(claim))
    }

    /// Reads every claim, in order of their ids, and reports what could not be read.
    ///
    /// # Errors
    /// `Other` when the directory itself cannot be read.
    pub fn list(&self) -> Result<(Vec<ClaimRecord>, Vec<Problem>)> {
        let (mut claims, mut problems) = (Vec::new(), Vec::new());
        for name in disk::names(&self.claims)? {
            match load(&self.claims, &name) {
                None => {}
                Some(Ok(claim)) => claims.push(claim),
                Some(Err(problem)) => problems.push(problem),
            }
        }
        claims.sort_by(|a: &ClaimRecord, b| a.lease_id.cmp(&b.lease_id));
        Ok((claims, problems))
    }

    /// Renders `claims list`.
    ///
    /// # Errors
    /// As [`ClaimStore::list`].
    pub fn listing(&self) -> Result<ClaimsListing> {
        let (claims, problems) = self.list()?;
        Ok(ClaimsListing::new(&claims, problems))
    }

    /// Finds the claim that an identifier stands for: the exact id first, then a slug.
    ///
    /// A text that looks like a canonical id is never tried as a slug, and neither reservations nor tombstones of
    /// released leases have one. The problems are files that might have matched had they been readable: report them
    /// where a wrong "not found" would cost something.
    ///
    /// # Errors
    /// As [`ClaimStore::read`] for the exact file and [`ClaimStore::list`] for the rest.
    pub fn find(&self, identifier: &str, filter: &Filter<'_>) -> Result<(Found, Vec<Problem>)> {
        if let Ok(lease) = identifier.parse::<LeaseId>()
            && let Some(claim) = self.read(&lease)?.filter(|claim| !claim.is_incomplete())
        {
            let found = if filter.admits(&claim) {
                Found::Exact(Box::new(claim))
            } else {
                Found::None
            };
            return Ok((found, Vec::new()));
        }
        let slug = id::normalize(identifier);
        if LeaseId::looks_canonical(identifier) || slug.is_empty() {
            return Ok((Found::None, Vec::new()));
        }
        let (claims, problems) = self.list()?;
        let mut matches: Vec<ClaimRecord> = claims
            .into_iter()
            .filter(|claim| claim.slug == slug && !claim.is_released() && filter.admits(claim))
            .collect();
        let found = match matches.len() {
            0 => Found::None,
            1 => Found::Alias(Box::new(matches.remove(0))),
            _ => Found::Ambiguous(matches),
        };
        Ok((found, problems))
    }

    /// The slugs of every claim, reservations and tombstones of released leases aside.
    ///
    /// # Errors
    /// `Identity` when certainty is asked for and a claim cannot be read; as [`ClaimStore::list`].
    pub fn slugs(&self, certainly: bool) -> Result<BTreeSet<String>> {
        let (claims, problems) = self.list()?;
        if let Some(problem) = problems.first().filter(|_| certainly) {
            return Err(
                Error::identity(format!("claim is unreadable, its slug unknown: `{}`", problem.file))
                    .with_hint("`crabbox claims list` shows every damaged claim; repair or move the file"),
            );
        }
        let slugs = claims
            .into_iter()
            .filter(|claim| !claim.is_released())
            .map(|claim| claim.slug);
        Ok(slugs.filter(|slug| !slug.is_empty()).collect())
    }

    /// Removes temporary files that killed processes left. Whoever writes one holds the lock of its claim, so what is not
    /// locked is nobody's; anything else unfinished goes when it is older than a day. Returns how many.
    pub fn sweep(&self) -> usize {
        let mut removed = disk::sweep(&self.claims, Duration::from_secs(24 * 60 * 60)).len();
        for name in disk::names(&self.claims).unwrap_or_default() {
            let written = name
                .to_str()
                .and_then(|name| name.strip_prefix('.')?.split_once(&format!("{SUFFIX}.tmp-")));
            let Some(Ok(lease)) = written.map(|(stem, _)| stem.parse::<LeaseId>()) else {
                continue;
            };
            if let Ok(Some(_txn)) = self.try_lock(&lease) {
                removed += usize::from(std::fs::remove_file(self.claims.join(&name)).is_ok());
            }
        }
        removed
    }

    /// Locks a claim for reading, acting and writing as one step, waiting for whoever holds it.
    ///
    /// Nothing else in this process may lock the same lease before the transaction is dropped: it would wait for
    /// itself. A provider operation lock is taken before, never after.
    ///
    /// # Errors
    /// As [`lock::lock`].
    pub fn lock(&self, lease: &LeaseId, wait: &Wait<'_>) -> Result<ClaimTxn> {
        let guard = lock::lock(&self.disk, &self.lock_path(lease), wait)?;
        Ok(ClaimTxn::new(self.clone(), lease.clone(), guard))
    }

    /// Locks a claim unless somebody holds it.
    ///
    /// # Errors
    /// As [`lock::try_lock`].
    pub fn try_lock(&self, lease: &LeaseId) -> Result<Option<ClaimTxn>> {
        let guard = lock::try_lock(&self.disk, &self.lock_path(lease))?;
        Ok(guard.map(|guard| ClaimTxn::new(self.clone(), lease.clone(), guard)))
    }

    /// Changes a claim under its lock, if it is still what the caller saw; a missing claim starts empty.
    ///
    /// # Errors
    /// As [`ClaimTxn::update`] and [`ClaimStore::lock`].
    pub fn update(
        &self,
        lease: &LeaseId,
        expected: Expected<'_>,
        wait: &Wait<'_>,
        change: impl FnOnce(&mut ClaimRecord) -> Result<()>,
    ) -> Result<ClaimRecord> {
        self.lock(lease, wait)?.update(expected, change)
    }

    /// Takes the lock that serialises one provider's operations on one lease: outside the claim's own lock.
    ///
    /// # Errors
    /// `Usage` for an unsafe provider name; as [`lock::lock`].
    pub fn lock_operation(&self, lease: &LeaseId, provider: &str, wait: &Wait<'_>) -> Result<LockGuard> {
        self.lock_named(&format!("{lease}.{provider}-operation"), wait)
    }

    /// Takes a lock that is about this machine, such as [`slugs::ALLOCATION_LOCK`](crate::slugs::ALLOCATION_LOCK).
    ///
    /// # Errors
    /// `Usage` for a name that is not a safe file name; as [`lock::lock`].
    pub fn lock_named(&self, name: &str, wait: &Wait<'_>) -> Result<LockGuard> {
        // The rules for lease ids are those for file names.
        let name: LeaseId = name
            .parse()
            .map_err(|_| Error::usage(format!("unsafe lock name: `{}`", name.escape_debug())))?;
        lock::lock(&self.disk, &self.locks.join(format!("{name}.lock")), wait)
    }

    /// Where a claim is stored.
    pub fn path(&self, lease: &LeaseId) -> PathBuf {
        self.claims.join(format!("{lease}{SUFFIX}"))
    }

    fn lock_path(&self, lease: &LeaseId) -> PathBuf {
        self.locks.join(format!("{lease}{SUFFIX}.lock"))
    }
}

/// Reads one file of the claims directory; `None` for a file that is none of our business.
fn load(directory: &Path, name: &OsStr) -> Option<std::result::Result<ClaimRecord, Problem>> {
    if disk::is_hidden(name) || !name.as_encoded_bytes().ends_with(SUFFIX.as_bytes()) {
        return None;
    }
    let problem = |code, message: String| Some(Err(Problem::new(name, code, message)));
    let stem = name
        .to_str()
        .and_then(|name| name.strip_suffix(SUFFIX))
        .and_then(|stem| stem.parse::<LeaseId>().ok());
    let Some(lease) = stem else {
        return problem(ProblemCode::InvalidFilename, "file name is not a lease id".to_owned());
    };
    let content = match read::bounded(&directory.join(name), RECORD_LIMIT) {
        Ok(Some(content)) => content,
        // Removed since the directory was read.
        Ok(None) => return None,
        Err(failure) => return Some(Err(Problem::unreadable(name, &failure))),
    };
    match serde_json::from_slice::<ClaimRecord>(&content) {
        Err(cause) => problem(ProblemCode::InvalidJson, cause.to_string()),
        Ok(claim) if claim.is_incomplete() => problem(ProblemCode::EmptyLeaseId, "claim names no lease".to_owned()),
        Ok(claim) if claim.lease_id != lease.as_str() => problem(
            ProblemCode::LeaseIdMismatch,
            "claim belongs to another lease".to_owned(),
        ),
        Ok(claim) => match claim.defect() {
            Some(defect) => problem(ProblemCode::InvalidClaim, defect.to_owned()),
            None => Some(Ok(claim)),
        },
    }
}
