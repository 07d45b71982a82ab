//! Checkpoints: `checkpoints/<id>/checkpoint.json` and the archive beside it, shared with the Go implementation.

mod record;

use std::path::PathBuf;

use crabbox_core::{CheckpointId, Error, Result};
use jiff::Timestamp;

pub use record::{CheckpointRecord, CheckpointRepo, NativeCheckpoint};

use crate::dirs::Dirs;
use crate::disk::{self, Disk};
use crate::json;
use crate::lock::{self, Wait};
use crate::problem::{Problem, ProblemCode};
use crate::read::{self, RECORD_LIMIT};
use crate::time::seconds;

/// Bare name of the archive of a workspace.
pub const ARCHIVE: &str = "workspace.tar.gz";

const RECORD: &str = "checkpoint.json";

/// Changes to one record take milliseconds, so a longer wait means a stopped process.
const LONGEST_WAIT: std::time::Duration = std::time::Duration::from_secs(30);

/// The checkpoints of one user on this machine.
#[derive(Clone, Debug)]
pub struct CheckpointStore {
    disk: Disk,
    directory: PathBuf,
}

impl CheckpointStore {
    /// Opens the checkpoints in a state directory.
    pub fn new(dirs: &Dirs, disk: Disk) -> Self {
        Self {
            disk,
            directory: dirs.state.join("checkpoints"),
        }
    }

    /// Takes an id with its first record, durably, before any work on the box. If that work fails, remove it again,
    /// unless a resource at the provider is known by then.
    ///
    /// # Errors
    /// `Usage` when the id exists or the disk refuses.
    pub fn reserve(&self, record: &CheckpointRecord) -> Result<CheckpointId> {
        let id: CheckpointId = record.id.parse()?;
        let content = json::pretty(record)?;
        let path = self.checkpoint_directory(&id);
        let published = self
            .disk
            .publish_directory(&path, |disk, hidden| disk.replace(&hidden.join(RECORD), &content))?;
        if published {
            Ok(id)
        } else {
            Err(Error::usage(format!("checkpoint exists already: `{id}`")).with_hint("choose another --id"))
        }
    }

    /// Replaces the record of a reserved checkpoint, durably.
    ///
    /// # Errors
    /// `Identity` when there is no such checkpoint; `Usage` or `Other` when the disk refuses, and then the previous
    /// record is intact.
    pub fn write(&self, record: &CheckpointRecord) -> Result<()> {
        let id: CheckpointId = record.id.parse()?;
        self.change(&id, |current| {
            *current = record.clone();
            Ok(())
        })
        .map(drop)
    }

    /// Changes the record of a checkpoint as one step among processes and returns it.
    ///
    /// # Errors
    /// As [`CheckpointStore::write`] and [`CheckpointStore::read`]; whatever `change` returns.
    pub fn change(
        &self,
        id: &CheckpointId,
        change: impl FnOnce(&mut CheckpointRecord) -> Result<()>,
    ) -> Result<CheckpointRecord> {
        let directory = self.checkpoint_directory(id);
        let guard = lock::lock_in_place(&directory, &Wait::at_most(LONGEST_WAIT))?;
        let current = if guard.is_some() { self.read(id)? } else { None };
        let mut record = current.ok_or_else(|| missing(id))?;
        change(&mut record)?;
        self.disk.replace(&directory.join(RECORD), &json::pretty(&record)?)?;
        Ok(record)
    }

    /// Records a use.
    ///
    /// # Errors
    /// As [`CheckpointStore::change`].
    pub fn touch(&self, id: &CheckpointId, now: Timestamp) -> Result<CheckpointRecord> {
        self.change(id, |record| {
            record.last_used_at = seconds(now);
            Ok(())
        })
    }

    /// Reads one record; `None` when there is none. A missing id is filled in, a missing last use is the creation.
    ///
    /// # Errors
    /// `Identity` when the record is damaged, belongs to another id or is not a regular file; `Usage` or `Other` when
    /// the disk refuses.
    pub fn read(&self, id: &CheckpointId) -> Result<Option<CheckpointRecord>> {
        let path = self.checkpoint_directory(id).join(RECORD);
        self.load(id).map_err(|fault| match fault {
            Fault::Unreadable(failure) => failure.into_error("read checkpoint", &path),
            Fault::Damaged(_, message) => {
                Error::identity(format!("checkpoint record is damaged: `{}`", path.display()))
                    .with_source(message)
                    .with_hint("`crabbox checkpoint delete --local-only` forgets it")
            }
        })
    }

    /// Reads one record that must exist.
    ///
    /// # Errors
    /// `Identity` when there is none; as [`CheckpointStore::read`].
    pub fn require(&self, id: &CheckpointId) -> Result<CheckpointRecord> {
        self.read(id)?.ok_or_else(|| missing(id))
    }

    /// Reads every record, newest first, equal times by descending id, and reports those that could not be read.
    ///
    /// # Errors
    /// `Other` when the directory itself cannot be read.
    pub fn list(&self) -> Result<(Vec<CheckpointRecord>, Vec<Problem>)> {
        let (mut records, mut problems) = (Vec::new(), Vec::new());
        for name in disk::names(&self.directory)? {
            if disk::is_hidden(&name) {
                continue;
            }
            let Some(id) = name.to_str().and_then(|name| name.parse::<CheckpointId>().ok()) else {
                problems.push(Problem::new(
                    &name,
                    ProblemCode::InvalidFilename,
                    "name is not a checkpoint id",
                ));
                continue;
            };
            match self.load(&id) {
                Ok(Some(record)) => records.push(record),
                // Removed since the directory was read.
                Ok(None) => {}
                Err(Fault::Unreadable(failure)) => problems.push(Problem::unreadable(&name, &failure)),
                Err(Fault::Damaged(code, message)) => problems.push(Problem::new(&name, code, message)),
            }
        }
        records.sort_by(|a: &CheckpointRecord, b| b.created().cmp(&a.created()).then_with(|| b.id.cmp(&a.id)));
        Ok((records, problems))
    }

    /// Removes a checkpoint with its archive, readable or not; `false` when there was none.
    ///
    /// # Errors
    /// `Usage` or `Other` when the disk refuses.
    pub fn remove(&self, id: &CheckpointId) -> Result<bool> {
        let removed = self.disk.remove_directory(&self.checkpoint_directory(id))?;
        disk::sweep(&self.directory, std::time::Duration::from_secs(24 * 60 * 60));
        Ok(removed)
    }

    /// Where the archive of a checkpoint is. Write it to [`CheckpointStore::temporary_archive_path`] and rename.
    pub fn archive_path(&self, id: &CheckpointId) -> PathBuf {
        self.checkpoint_directory(id).join(ARCHIVE)
    }

    /// Where an archive is written before it is complete.
    pub fn temporary_archive_path(&self, id: &CheckpointId) -> PathBuf {
        self.checkpoint_directory(id).join(format!("{ARCHIVE}.tmp"))
    }

    /// Where a checkpoint is stored.
    pub fn checkpoint_directory(&self, id: &CheckpointId) -> PathBuf {
        self.directory.join(id.as_str())
    }

    fn load(&self, id: &CheckpointId) -> std::result::Result<Option<CheckpointRecord>, Fault> {
        let directory = self.checkpoint_directory(id);
        let content = read::bounded(&directory.join(RECORD), RECORD_LIMIT).map_err(Fault::Unreadable)?;
        let Some(content) = content else {
            // A directory without a record is damage, not absence.
            let damaged = Fault::Damaged(ProblemCode::InvalidJson, "record is missing".to_owned());
            return if directory.exists() { Err(damaged) } else { Ok(None) };
        };
        let mut record: CheckpointRecord = serde_json::from_slice(&content)
            .map_err(|cause| Fault::Damaged(ProblemCode::InvalidJson, cause.to_string()))?;
        if record.id.is_empty() {
            record.id = id.to_string();
        }
        if record.last_used_at.is_empty() {
            record.last_used_at.clone_from(&record.created_at);
        }
        if record.id != id.as_str() {
            let message = "record belongs to another checkpoint".to_owned();
            return Err(Fault::Damaged(ProblemCode::LeaseIdMismatch, message));
        }
        if record.created().is_none() || record.last_used().is_none() {
            return Err(Fault::Damaged(
                ProblemCode::InvalidClaim,
                "a time is not rfc 3339".to_owned(),
            ));
        }
        let bare = record.archive_path.is_empty()
            || (!record.archive_path.starts_with('.') && !record.archive_path.contains(['/', '\\', '\0']));
        if !bare {
            return Err(Fault::Damaged(
                ProblemCode::InvalidClaim,
                "archive path is not a bare file name".to_owned(),
            ));
        }
        Ok(Some(record))
    }
}

enum Fault {
    Unreadable(read::ReadFailure),
    Damaged(ProblemCode, String),
}

fn missing(id: &CheckpointId) -> Error {
    Error::identity(format!("no such checkpoint: `{id}`")).with_hint("`crabbox checkpoint list` shows yours")
}
