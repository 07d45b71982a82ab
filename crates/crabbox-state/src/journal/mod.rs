//! The crash journal: what was asked of a provider and not yet given back.
//!
//! `journal/<leaseID>.json` is written, durably, before the provider is asked for anything, and goes when nothing is
//! left there: *prepared* → *acquired* → *releasing* → gone. A process that is killed at any instruction leaves an
//! entry that says what to look for; whoever cleans up checks that the client is dead, takes the entry over with
//! [`Handle::adopt`], and finishes the work.

mod entry;

use std::collections::BTreeMap;
use std::path::PathBuf;

use crabbox_core::{Error, LeaseId, Result};
use jiff::Timestamp;

pub use entry::{Entry, Intent, Purpose, Resource, SCHEMA_VERSION, Stage};

use crate::dirs::Dirs;
use crate::disk::{self, Disk};
use crate::json;
use crate::lock::{self, Wait};
use crate::problem::{Problem, ProblemCode};
use crate::process::{Client, Liveness};
use crate::random;
use crate::read::{self, RECORD_LIMIT};
use crate::time::seconds;

const SUFFIX: &str = ".json";

/// Changes to one entry take milliseconds, so a longer wait means a stopped process.
const LONGEST_WAIT: std::time::Duration = std::time::Duration::from_secs(30);

/// The journal of one user on this machine.
#[derive(Clone, Debug)]
pub struct Journal {
    disk: Disk,
    directory: PathBuf,
    client: Client,
}

impl Journal {
    /// Opens the journal in a state directory, on behalf of a client.
    pub fn new(dirs: &Dirs, disk: Disk, client: Client) -> Self {
        Self {
            disk,
            directory: dirs.state.join("journal"),
            client,
        }
    }

    /// Writes down what is about to be asked. When this returns, the entry survives a loss of power.
    ///
    /// # Errors
    /// `Identity` when the lease has an entry already; `Usage` or `Other` when the disk refuses, and then nothing must
    /// be asked of the provider.
    pub fn prepare(&self, intent: Intent, now: Timestamp) -> Result<Handle> {
        let entry = Entry {
            schema_version: SCHEMA_VERSION,
            revision: random::revision()?,
            state: Stage::Prepared,
            lease_id: intent.lease,
            slug: intent.slug,
            provider: intent.provider,
            provider_scope: intent.provider_scope,
            purpose: intent.purpose,
            attempt: intent.attempt,
            created_at: seconds(now),
            client: self.client.clone(),
            resource: None,
            notes: BTreeMap::new(),
            unknown: serde_json::Map::new(),
        };
        if !self.disk.create(&self.path(&entry.lease_id), &json::pretty(&entry)?)? {
            return Err(
                Error::identity(format!("lease is already in the journal: `{}`", entry.lease_id))
                    .with_lease(entry.lease_id.as_str())
                    .with_hint("`crabbox cleanup` finishes what an earlier process left"),
            );
        }
        Ok(Handle {
            journal: self.clone(),
            entry,
        })
    }

    /// Opens the entry of a lease; `None` when there is none.
    ///
    /// # Errors
    /// `Identity` when the file is damaged, misfiled or not ours; `Prerequisite` when a newer version wrote it.
    pub fn open(&self, lease: &LeaseId) -> Result<Option<Handle>> {
        Ok(self.read(lease)?.map(|entry| Handle {
            journal: self.clone(),
            entry,
        }))
    }

    /// Reads every entry, in order of the ids, and reports what could not be read. Takes no lock, creates nothing.
    ///
    /// # Errors
    /// `Other` when the directory itself cannot be read.
    pub fn list(&self) -> Result<(Vec<Entry>, Vec<Problem>)> {
        let (mut entries, mut problems) = (Vec::new(), Vec::new());
        for name in disk::names(&self.directory)? {
            if disk::is_hidden(&name) {
                continue;
            }
            let stem = name.to_str().and_then(|name| name.strip_suffix(SUFFIX));
            let Some(lease) = stem.and_then(|stem| stem.parse::<LeaseId>().ok()) else {
                problems.push(Problem::new(
                    &name,
                    ProblemCode::InvalidFilename,
                    "file name is not a lease id",
                ));
                continue;
            };
            match self.load(&lease) {
                Ok(Some(entry)) => entries.push(entry),
                // Finished since the directory was read.
                Ok(None) => {}
                Err(Fault::Unreadable(failure)) => problems.push(Problem::unreadable(&name, &failure)),
                Err(Fault::Damaged(code, message)) => problems.push(Problem::new(&name, code, message)),
            }
        }
        Ok((entries, problems))
    }

    /// Removes temporary files that killed processes left and that are older than a minute, while writing one takes
    /// milliseconds. Returns how many.
    pub fn sweep(&self) -> usize {
        disk::sweep(&self.directory, std::time::Duration::from_secs(60)).len()
    }

    fn path(&self, lease: &LeaseId) -> PathBuf {
        self.directory.join(format!("{lease}{SUFFIX}"))
    }

    fn read(&self, lease: &LeaseId) -> Result<Option<Entry>> {
        let path = self.path(lease);
        self.load(lease).map_err(|fault| match fault {
            Fault::Unreadable(failure) => failure.into_error("read journal entry", &path),
            Fault::Damaged(ProblemCode::UnsupportedVersion, message) => {
                Error::prerequisite(format!("journal entry of a newer version: `{}`", path.display()))
                    .with_source(message)
                    .with_lease(lease.as_str())
                    .with_hint("use the newer crabbox that wrote it")
            }
            Fault::Damaged(_, message) => Error::identity(format!("journal entry is damaged: `{}`", path.display()))
                .with_source(message)
                .with_lease(lease.as_str())
                .with_hint("stop the lease at its provider, then remove the file"),
        })
    }

    fn load(&self, lease: &LeaseId) -> std::result::Result<Option<Entry>, Fault> {
        let content = read::bounded(&self.path(lease), RECORD_LIMIT).map_err(Fault::Unreadable)?;
        let Some(content) = content else { return Ok(None) };
        let damaged = |cause: serde_json::Error| Fault::Damaged(ProblemCode::InvalidJson, cause.to_string());
        let value: serde_json::Value = serde_json::from_slice(&content).map_err(damaged)?;
        let version = value.get("schemaVersion").and_then(serde_json::Value::as_u64);
        // The version is looked at first: what follows may not have the shape that this one knows.
        if let Some(newer) = version.filter(|version| *version > u64::from(SCHEMA_VERSION)) {
            return Err(Fault::Damaged(
                ProblemCode::UnsupportedVersion,
                format!("schema version {newer}"),
            ));
        }
        let entry: Entry = serde_json::from_value(value).map_err(damaged)?;
        if entry.lease_id != *lease {
            let message = "entry belongs to another lease".to_owned();
            return Err(Fault::Damaged(ProblemCode::LeaseIdMismatch, message));
        }
        Ok(Some(entry))
    }
}

enum Fault {
    Unreadable(read::ReadFailure),
    Damaged(ProblemCode, String),
}

/// Looks whether the client of an entry still works on it. Anything but [`Liveness::Dead`] forbids taking it over.
pub fn client_liveness(entry: &Entry) -> Liveness {
    entry.client.liveness()
}

/// Whether the client of an entry may still work on it; the careful form of [`client_liveness`].
pub fn client_is_alive(entry: &Entry) -> bool {
    client_liveness(entry) != Liveness::Dead
}

/// One entry as this process last saw it. Every change is durable when it returns, and fails when another process
/// changed the entry meanwhile.
#[derive(Clone, Debug)]
pub struct Handle {
    journal: Journal,
    entry: Entry,
}

impl Handle {
    /// The entry as it was last read or written.
    pub fn entry(&self) -> &Entry {
        &self.entry
    }

    /// Records which resource the provider made. Recording the same one again, or an immutable id that was missing,
    /// is fine.
    ///
    /// # Errors
    /// `Identity` when another resource is recorded; as [`Handle::acquired`].
    pub fn record_resource(&mut self, resource: Resource) -> Result<()> {
        if let Some(known) = &self.entry.resource {
            let same = known.id == resource.id
                && (known.immutable_id.is_empty() || known.immutable_id == resource.immutable_id);
            if !same {
                return Err(
                    Error::identity(format!("lease already has another resource: `{}`", known.id))
                        .with_lease(self.entry.lease_id.as_str())
                        .with_hint("one lease is one resource; look at the provider for a second one"),
                );
            }
            if known.immutable_id == resource.immutable_id {
                return Ok(());
            }
        }
        self.change(|entry| {
            entry.resource = Some(resource);
            Ok(())
        })
    }

    /// Records what the provider needs to finish or undo its part, such as the id of a running operation.
    ///
    /// # Errors
    /// As [`Handle::acquired`].
    pub fn note(&mut self, key: &str, value: &str) -> Result<()> {
        self.change(|entry| {
            entry.notes.insert(key.to_owned(), value.to_owned());
            Ok(())
        })
    }

    /// The lease is ready.
    ///
    /// # Errors
    /// `Other` when the entry is not in a stage from which this follows; `Identity` when another process changed or
    /// removed the entry; `Usage` or `Other` when the disk refuses.
    pub fn acquired(&mut self) -> Result<()> {
        self.advance(Stage::Acquired, &[Stage::Prepared, Stage::Acquired])
    }

    /// The lease outlives its client from now on.
    ///
    /// # Errors
    /// As [`Handle::acquired`].
    pub fn keep(&mut self) -> Result<()> {
        self.change(|entry| {
            entry.purpose = Purpose::Kept;
            Ok(())
        })
    }

    /// The provider is about to be asked to destroy the resource, or to undo a creation.
    ///
    /// # Errors
    /// As [`Handle::acquired`].
    pub fn releasing(&mut self) -> Result<()> {
        self.advance(Stage::Releasing, &[Stage::Prepared, Stage::Acquired, Stage::Releasing])
    }

    /// Takes over the entry of a dead client.
    ///
    /// # Errors
    /// `Identity` when the client may still be alive; as [`Handle::acquired`].
    pub fn adopt(&mut self) -> Result<()> {
        let client = self.journal.client.clone();
        if self.entry.client == client {
            return Ok(());
        }
        self.change(|entry| {
            if client_is_alive(entry) {
                return Err(
                    Error::identity(format!("lease is in use by process: `{}`", entry.client.pid))
                        .with_lease(entry.lease_id.as_str())
                        .with_hint("wait for that process to end"),
                );
            }
            entry.client = client;
            Ok(())
        })
    }

    /// Nothing is left at the provider, or the claim of a kept lease speaks for it: the entry goes.
    ///
    /// # Errors
    /// `Identity` when another process changed the entry; `Usage` or `Other` when the disk refuses. An entry that is
    /// gone already is fine.
    pub fn finish(&self) -> Result<()> {
        let path = self.journal.path(&self.entry.lease_id);
        let Some(_guard) = lock::lock_in_place(&path, &Wait::at_most(LONGEST_WAIT))? else {
            return Ok(());
        };
        match self.journal.read(&self.entry.lease_id)? {
            None => Ok(()),
            Some(current) if current.revision != self.entry.revision => Err(self.changed()),
            Some(_) => self.journal.disk.remove(&path).map(drop),
        }
    }

    fn advance(&mut self, to: Stage, from: &[Stage]) -> Result<()> {
        self.change(|entry| {
            if !from.contains(&entry.state) {
                let (from, to) = (entry.state, to);
                return Err(
                    Error::other(format!("journal entry cannot become {to:?} from: `{from:?}`"))
                        .with_lease(entry.lease_id.as_str()),
                );
            }
            entry.state = to;
            Ok(())
        })
    }

    fn change(&mut self, change: impl FnOnce(&mut Entry) -> Result<()>) -> Result<()> {
        let path = self.journal.path(&self.entry.lease_id);
        let guard = lock::lock_in_place(&path, &Wait::at_most(LONGEST_WAIT))?;
        let current = if guard.is_some() {
            self.journal.read(&self.entry.lease_id)?
        } else {
            None
        };
        let Some(mut entry) = current.filter(|entry| entry.revision == self.entry.revision) else {
            return Err(self.changed());
        };
        change(&mut entry)?;
        entry.revision = random::revision()?;
        self.journal.disk.replace(&path, &json::pretty(&entry)?)?;
        self.entry = entry;
        Ok(())
    }

    fn changed(&self) -> Error {
        let lease = self.entry.lease_id.as_str();
        Error::identity(format!("journal entry was changed by another process: `{lease}`"))
            .with_lease(lease)
            .with_hint("another crabbox works on this lease; `crabbox status` shows it")
    }
}
