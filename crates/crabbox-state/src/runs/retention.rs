//! Forgetting old runs.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use crabbox_core::{Result, RunId};

use super::{RunState, RunStore};
use crate::disk;
use crate::process::Liveness;

/// Written after each pruning; its age says when the next is due.
const MARKER: &str = ".pruned";

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// How much history is kept. Runs whose client works on them are never removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Most records.
    pub records: usize,
    /// Greatest age since the run began.
    pub age: Duration,
    /// Most bytes of all records together.
    pub bytes: u64,
}

impl Default for Retention {
    /// 500 runs, 30 days, 1 GiB.
    fn default() -> Self {
        Self {
            records: 500,
            age: 30 * DAY,
            bytes: 1 << 30,
        }
    }
}

impl RunStore {
    /// Removes the oldest records beyond the bounds, and what killed processes left. Returns how many runs went.
    ///
    /// # Errors
    /// `Other` when the directory cannot be read; `Usage` or `Other` when a record cannot be removed.
    pub fn prune(&self) -> Result<usize> {
        let now = (self.now)();
        let (runs, problems) = self.scan()?;
        let (mut kept, mut bytes, mut removed, mut full) = (0_usize, 0_u64, 0_usize, false);
        for (run, client) in runs {
            let directory = self.run_directory(&run.id);
            let size = size_of(&directory);
            let age = Duration::try_from(now.duration_since(run.started_at)).unwrap_or_default();
            // From the first that does not fit, all older ones go: history has no holes.
            full |= kept >= self.retention.records
                || age > self.retention.age
                || bytes.saturating_add(size) > self.retention.bytes;
            // A client in a container that is gone can never be seen dead; its run counts as over once it is old.
            let active = client == Liveness::Alive || (client == Liveness::Unknown && age <= self.retention.age);
            if !full || (run.state == RunState::Running && active) {
                kept += 1;
                bytes = bytes.saturating_add(size);
            } else {
                removed += usize::from(self.disk.unsynced().remove_directory(&directory)?);
            }
        }
        for id in problems.iter().filter_map(|problem| problem.file.parse::<RunId>().ok()) {
            let directory = self.run_directory(&id);
            if age_of(&directory).is_some_and(|age| age > self.retention.age) {
                removed += usize::from(self.disk.unsynced().remove_directory(&directory)?);
            }
        }
        disk::sweep(&self.directory, DAY);
        Ok(removed)
    }

    /// Prunes when there are too many records or the last time is a day ago. A failure must not stop a run.
    pub(super) fn prune_sometimes(&self) {
        let marker = self.directory.join(MARKER);
        let count = disk::names(&self.directory)
            .map(|names| names.len())
            .unwrap_or_default();
        // Two names are not runs: the marker and, at times, something unfinished.
        let due = count > self.retention.records.saturating_add(2) || age_of(&marker).is_none_or(|age| age > DAY);
        if count > 0 && due && self.prune().is_ok() {
            let _ = self.disk.unsynced().replace(&marker, b"");
        }
    }
}

fn size_of(directory: &Path) -> u64 {
    let sizes = fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.metadata().ok());
    sizes.map(|metadata| metadata.len()).sum()
}

fn age_of(path: &Path) -> Option<Duration> {
    let modified = fs::symlink_metadata(path)
        .and_then(|metadata| metadata.modified())
        .ok()?;
    Some(SystemTime::now().duration_since(modified).unwrap_or_default())
}
