//! Records of runs on this machine: what `history`, `events`, `logs` and `results` show without a coordinator.
//!
//! `runs/<runID>/` holds `record.json`, `events.jsonl` (one event per line; a last line without its newline was cut off
//! by a crash and is ignored) and the log (see [`LOG_LIMIT`]). The number, age and size of all records are bounded.

mod log;
mod record;
mod retention;
mod writer;

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crabbox_core::{Error, Result, RunId};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use log::LOG_LIMIT;
pub use record::{EventInput, RunEvent, RunRecord, RunState, phase_of};
pub use retention::Retention;
pub use writer::{EVENT_OUTPUT_LIMIT, Finish, RunWriter, Stream};

use crate::dirs::Dirs;
use crate::disk::{self, Disk, io_error};
use crate::json;
use crate::problem::{Problem, ProblemCode};
use crate::process::{Client, Liveness};
use crate::read::{self, RECORD_LIMIT};

const RECORD: &str = "record.json";
const EVENTS: &str = "events.jsonl";

/// Longest line of an events file; a longer one is damaged.
const LONGEST_EVENT: u64 = 256 << 10;

/// Tells the time.
pub type Now = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// The run records of one user on this machine.
#[derive(Clone)]
pub struct RunStore {
    disk: Disk,
    directory: PathBuf,
    client: Client,
    now: Now,
    retention: Retention,
}

impl fmt::Debug for RunStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("RunStore")
            .field("directory", &self.directory)
            .finish_non_exhaustive()
    }
}

/// Which runs to list.
#[derive(Clone, Debug, Default)]
pub struct RunFilter {
    /// Id or slug of a lease they used.
    pub lease: Option<String>,
    /// Who ran them.
    pub owner: Option<String>,
    /// Organisation of the owner.
    pub org: Option<String>,
    /// `running`, `succeeded` or `failed`.
    pub state: Option<String>,
    /// At most this many, the newest.
    pub limit: Option<usize>,
}

/// Which events to read.
#[derive(Clone, Debug, Default)]
pub struct EventQuery {
    /// Those with a greater sequence number.
    pub after: u64,
    /// At most this many, the oldest.
    pub limit: Option<usize>,
    /// Of this type.
    pub kind: Option<String>,
    /// Of this phase.
    pub phase: Option<String>,
}

/// The kept output of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RunLog {
    /// Bytes as the command wrote them, beginning with a whole character.
    pub content: Vec<u8>,
    /// Whether the beginning was dropped.
    pub truncated: bool,
}

/// The record as it is stored: with the process that writes it.
#[derive(Serialize, Deserialize)]
struct Stored {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    client: Option<Client>,
    #[serde(flatten)]
    run: RunRecord,
}

impl RunStore {
    /// Opens the run records in a state directory, on behalf of a client.
    pub fn new(dirs: &Dirs, disk: Disk, client: Client, now: Now) -> Self {
        Self {
            disk,
            directory: dirs.state.join("runs"),
            client,
            now,
            retention: Retention::default(),
        }
    }

    /// Bounds the records otherwise than [`Retention::default`].
    #[must_use]
    pub fn with_retention(mut self, retention: Retention) -> Self {
        self.retention = retention;
        self
    }

    /// Begins a run. Now and then this removes old records.
    ///
    /// # Errors
    /// `Identity` when the run exists already; `Usage` or `Other` when the disk refuses.
    pub fn create(&self, record: RunRecord) -> Result<RunWriter> {
        self.prune_sometimes();
        let stored = Stored {
            client: Some(self.client.clone()),
            run: record,
        };
        let content = json::pretty(&stored)?;
        let path = self.run_directory(&stored.run.id);
        // A run that starts is not worth a flush to the device; its end is.
        let published = self
            .disk
            .unsynced()
            .publish_directory(&path, |disk, hidden| disk.replace(&hidden.join(RECORD), &content))?;
        if !published {
            return Err(Error::identity(format!("run exists already: `{}`", stored.run.id)));
        }
        RunWriter::start(self.clone(), stored.run)
    }

    /// Reads one run; `None` when there is none. A run whose client died before its end counts as failed.
    ///
    /// # Errors
    /// `Identity` when the record is damaged or not ours; `Usage` or `Other` when the disk refuses.
    pub fn read(&self, id: &RunId) -> Result<Option<RunRecord>> {
        let path = self.run_directory(id).join(RECORD);
        let loaded = self.load(id).map_err(|fault| match fault {
            Fault::Unreadable(failure) => failure.into_error("read run record", &path),
            Fault::Damaged(_, message) => Error::identity(format!("run record is damaged: `{}`", path.display()))
                .with_source(message)
                .with_hint("remove the directory to forget the run"),
        })?;
        Ok(loaded.map(|(run, _)| run))
    }

    /// Reads runs, newest first, and reports records that could not be read.
    ///
    /// # Errors
    /// `Other` when the directory itself cannot be read.
    pub fn list(&self, filter: &RunFilter) -> Result<(Vec<RunRecord>, Vec<Problem>)> {
        let (runs, problems) = self.scan()?;
        let mut runs: Vec<RunRecord> = runs.into_iter().map(|(run, _)| run).collect();
        let same = |wish: &Option<String>, value: &str| wish.as_deref().is_none_or(|wish| wish == value);
        runs.retain(|run| {
            filter.lease.as_deref().is_none_or(|lease| run.used_lease(lease))
                && same(&filter.owner, &run.owner)
                && same(&filter.org, &run.org)
                && same(&filter.state, run.state.as_str())
        });
        runs.truncate(filter.limit.unwrap_or(usize::MAX));
        Ok((runs, problems))
    }

    /// Reads every run, newest first, with what is known of its client.
    fn scan(&self) -> Result<(Vec<Seen>, Vec<Problem>)> {
        let (mut runs, mut problems) = (Vec::new(), Vec::new());
        for name in disk::names(&self.directory)? {
            if disk::is_hidden(&name) {
                continue;
            }
            let Some(id) = name.to_str().and_then(|name| name.parse::<RunId>().ok()) else {
                problems.push(Problem::new(
                    &name,
                    ProblemCode::InvalidFilename,
                    "name is not a run id",
                ));
                continue;
            };
            match self.load(&id) {
                Ok(Some(run)) => runs.push(run),
                // Pruned since the directory was read.
                Ok(None) => {}
                Err(Fault::Unreadable(failure)) => problems.push(Problem::unreadable(&name, &failure)),
                Err(Fault::Damaged(code, message)) => problems.push(Problem::new(&name, code, message)),
            }
        }
        runs.sort_by(|(a, _): &Seen, (b, _)| b.started_at.cmp(&a.started_at).then_with(|| b.id.cmp(&a.id)));
        Ok((runs, problems))
    }

    /// Reads the events of a run, oldest first.
    ///
    /// # Errors
    /// `Identity` when there is no such run; `Usage` or `Other` when the disk refuses.
    pub fn events(&self, id: &RunId, query: &EventQuery) -> Result<Vec<RunEvent>> {
        let path = self.existing(id)?.join(EVENTS);
        let mut events = Vec::new();
        let wanted = |event: &RunEvent| {
            event.seq > query.after
                && query.kind.as_deref().is_none_or(|kind| event.input.kind == kind)
                && query.phase.as_deref().is_none_or(|phase| event.input.phase == phase)
        };
        let limit = query.limit.unwrap_or(usize::MAX);
        each_event(&path, |event| {
            if events.len() < limit && wanted(&event) {
                events.push(event);
            }
            events.len() < limit
        })
        .map_err(|cause| io_error("read events", &path, cause))?;
        Ok(events)
    }

    /// Reads the kept output of a run, or its last lines.
    ///
    /// # Errors
    /// `Identity` when there is no such run; `Usage` or `Other` when the disk refuses.
    pub fn log(&self, id: &RunId, last_lines: Option<usize>) -> Result<RunLog> {
        let directory = self.existing(id)?;
        let (mut content, truncated) =
            log::read_tail(&directory).map_err(|cause| io_error("read log in", &directory, cause))?;
        if let Some(lines) = last_lines {
            let tail = log::last_lines(&content, lines).len();
            content.drain(..content.len() - tail);
        }
        Ok(RunLog { content, truncated })
    }

    /// Where a run is stored.
    pub fn run_directory(&self, id: &RunId) -> PathBuf {
        self.directory.join(id.as_str())
    }

    fn existing(&self, id: &RunId) -> Result<PathBuf> {
        let directory = self.run_directory(id);
        if directory.is_dir() {
            return Ok(directory);
        }
        Err(Error::identity(format!("no such run: `{id}`"))
            .with_hint("`crabbox history` lists the runs on this machine"))
    }

    fn write_record(&self, run: &RunRecord, durable: bool) -> Result<()> {
        let stored = Stored {
            client: Some(self.client.clone()),
            run: run.clone(),
        };
        let disk = if durable {
            self.disk.clone()
        } else {
            self.disk.unsynced()
        };
        disk.replace(&self.run_directory(&run.id).join(RECORD), &json::pretty(&stored)?)
    }

    fn load(&self, id: &RunId) -> std::result::Result<Option<Seen>, Fault> {
        let directory = self.run_directory(id);
        let content = read::bounded(&directory.join(RECORD), RECORD_LIMIT).map_err(Fault::Unreadable)?;
        let Some(content) = content else {
            // A directory without a record is damage, not absence.
            let damaged = Fault::Damaged(ProblemCode::InvalidJson, "record is missing".to_owned());
            return if directory.exists() { Err(damaged) } else { Ok(None) };
        };
        let stored: Stored = serde_json::from_slice(&content)
            .map_err(|cause| Fault::Damaged(ProblemCode::InvalidJson, cause.to_string()))?;
        let mut run = stored.run;
        if run.id != *id {
            return Err(Fault::Damaged(
                ProblemCode::LeaseIdMismatch,
                "record belongs to another run".to_owned(),
            ));
        }
        let liveness = stored.client.map_or(Liveness::Unknown, |client| client.liveness());
        if run.state == RunState::Running {
            complete(&mut run, liveness, &directory);
        }
        Ok(Some((run, liveness)))
    }
}

/// Fills in what a record is not rewritten for while its run goes on.
fn complete(run: &mut RunRecord, client: Liveness, directory: &Path) {
    (run.log_bytes, run.log_truncated) = log::kept(directory);
    let mut ended = None;
    // Events that cannot be read leave the record as it is: it is readable without them.
    let _ = each_event(&directory.join(EVENTS), |event| {
        run.event_count = Some(event.seq);
        run.last_event_at = Some(event.created_at);
        run.phase = event.input.phase;
        if matches!(event.input.kind.as_str(), "command.finished" | "run.failed") {
            ended = Some((event.created_at, event.input.exit_code));
        }
        true
    });
    if let Some((at, exit_code)) = ended {
        // The client was stopped between the last event and the record.
        run.state = if exit_code == Some(0) {
            RunState::Succeeded
        } else {
            RunState::Failed
        };
        run.exit_code = exit_code;
        run.ended_at = Some(at);
    } else if client == Liveness::Dead {
        run.state = RunState::Failed;
        "failed".clone_into(&mut run.phase);
        run.ended_at = run.last_event_at;
    }
}

/// A record and what is known of its client.
type Seen = (RunRecord, Liveness);

enum Fault {
    Unreadable(read::ReadFailure),
    Damaged(ProblemCode, String),
}

/// Visits events until the visitor has enough. A line that was cut off or damaged by a crash is skipped.
fn each_event(path: &Path, mut visit: impl FnMut(RunEvent) -> bool) -> io::Result<()> {
    let mut reader = match File::open(path) {
        Ok(file) => BufReader::new(file),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(cause) => return Err(cause),
    };
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = io::Read::take(&mut reader, LONGEST_EVENT).read_until(b'\n', &mut line)?;
        if read == 0 {
            return Ok(());
        }
        if !line.ends_with(b"\n") {
            if read as u64 == LONGEST_EVENT {
                reader.skip_until(b'\n')?;
            }
            continue;
        }
        if let Ok(event) = serde_json::from_slice(&line)
            && !visit(event)
        {
            return Ok(());
        }
    }
}
