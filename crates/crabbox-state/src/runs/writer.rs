//! Writing one run while it happens.

use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crabbox_core::{Error, Result, RunId};
use serde_json::Value;

use super::log::{LogWriter, private_append};
use super::record::{EventInput, RunEvent, RunRecord, RunState, phase_of};
use super::{EVENTS, RunStore};
use crate::disk::{Step, io_error};
use crate::json;

/// Output that becomes events, per run; the log has the rest.
pub const EVENT_OUTPUT_LIMIT: usize = 64 << 10;

/// Longest text in one event.
const LONGEST_TEXT: usize = 16 << 10;

/// A stream of the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// How a command ended, and what was learnt on the way.
#[derive(Clone, Debug, Default)]
pub struct Finish {
    /// Exit status.
    pub exit_code: i32,
    /// Whose status that is; may be empty.
    pub exit_source: String,
    /// Milliseconds of syncing.
    pub sync_ms: Option<u64>,
    /// Milliseconds of the command.
    pub command_ms: Option<u64>,
    /// The step that blocked the run; may be empty.
    pub blocked_stage: String,
    /// Whether trying again may help; may be empty.
    pub retry_likely: String,
    /// Summary of the test results.
    pub results: Option<Value>,
    /// Load of the box.
    pub telemetry: Option<Value>,
}

/// Records one run. Shared between the tasks that pump its streams.
///
/// Dropping it before [`RunWriter::finish`] or [`RunWriter::fail`] records a failure, and so does killing the process,
/// as readers see that the client is dead.
#[derive(Debug)]
pub struct RunWriter {
    store: RunStore,
    id: RunId,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    record: RunRecord,
    directory: PathBuf,
    events: File,
    log: LogWriter,
    sequence: u64,
    output_left: usize,
    output_cut: bool,
    partial: [Vec<u8>; 2],
    log_lost: bool,
    finished: bool,
}

impl RunWriter {
    pub(super) fn start(store: RunStore, record: RunRecord) -> Result<Self> {
        let directory = store.run_directory(&record.id);
        let events_path = directory.join(EVENTS);
        let events = private_append(&events_path).map_err(|cause| io_error("create", &events_path, cause))?;
        let log = LogWriter::create(store.disk.clone(), &directory)
            .map_err(|cause| io_error("create log in", &directory, cause))?;
        let inner = Inner {
            directory,
            events,
            log,
            sequence: 0,
            output_left: EVENT_OUTPUT_LIMIT,
            output_cut: false,
            partial: [Vec::new(), Vec::new()],
            log_lost: false,
            finished: false,
            record,
        };
        let writer = Self {
            store,
            id: inner.record.id.clone(),
            inner: Mutex::new(inner),
        };
        writer.event(EventInput::new("run.started"))?;
        Ok(writer)
    }

    /// The run.
    pub fn id(&self) -> &RunId {
        &self.id
    }

    /// The record as it is now.
    pub fn record(&self) -> RunRecord {
        self.inner().record.clone()
    }

    /// Changes what is known about the run: its lease, its machine. Identity, state and times stay.
    ///
    /// # Errors
    /// `Usage` or `Other` when the disk refuses.
    pub fn update(&self, change: impl FnOnce(&mut RunRecord)) -> Result<()> {
        let mut inner = self.inner();
        let mut record = inner.record.clone();
        change(&mut record);
        record.id = self.id.clone();
        record.state = inner.record.state;
        record.started_at = inner.record.started_at;
        record.ended_at = inner.record.ended_at;
        self.store.write_record(&record, false)?;
        inner.record = record;
        Ok(())
    }

    /// Adds an event. After the end only `lease.released` is taken.
    ///
    /// # Errors
    /// `Usage` or `Other` when the disk refuses; `Other` for another event after the end.
    pub fn event(&self, event: EventInput) -> Result<()> {
        let mut inner = self.inner();
        if !inner.finished {
            return self.append_event(&mut inner, event);
        }
        if event.kind != "lease.released" {
            return Err(Error::other(format!(
                "run has ended, event not recorded: `{}`",
                event.kind
            )));
        }
        self.append_event(&mut inner, event)?;
        // The phase moves on; the state keeps the outcome.
        self.store.write_record(&inner.record, false)
    }

    /// Adds output to the log, and the first 64 KiB of it to the events.
    ///
    /// # Errors
    /// `Usage` or `Other` once, when the disk refuses; from then on output is dropped, the log counts as truncated,
    /// and the run goes on.
    pub fn append_log(&self, stream: Stream, bytes: &[u8]) -> Result<()> {
        let mut inner = self.inner();
        if inner.log_lost || inner.finished {
            return Ok(());
        }
        if let Err(cause) = inner.log.append(bytes) {
            inner.log_lost = true;
            return Err(io_error("write log in", &inner.directory, cause));
        }
        if inner.output_cut {
            return Ok(());
        }
        let written = self.output_events(&mut inner, stream, bytes);
        inner.log_lost |= written.is_err();
        written
    }

    /// The command ended. Log and record are flushed to the device.
    ///
    /// # Errors
    /// `Usage` or `Other` when the disk refuses; `Other` when the run has ended before.
    pub fn finish(&self, finish: Finish) -> Result<RunRecord> {
        let mut inner = self.inner();
        let state = if finish.exit_code == 0 {
            RunState::Succeeded
        } else {
            RunState::Failed
        };
        let event = EventInput {
            phase: state.as_str().to_owned(),
            exit_code: Some(finish.exit_code),
            ..EventInput::new("command.finished")
        };
        self.end(&mut inner, event, |record| {
            record.state = state;
            record.exit_code = Some(finish.exit_code);
            record.exit_source = finish.exit_source;
            record.sync_ms = finish.sync_ms;
            record.command_ms = finish.command_ms;
            record.blocked_stage = finish.blocked_stage;
            record.retry_likely = finish.retry_likely;
            record.results = finish.results;
            record.telemetry = finish.telemetry;
        })
    }

    /// The run ended without an exit status.
    ///
    /// # Errors
    /// As [`RunWriter::finish`].
    pub fn fail(&self, message: impl Into<String>) -> Result<RunRecord> {
        let mut inner = self.inner();
        let event = EventInput::new("run.failed").with_message(message);
        self.end(&mut inner, event, |record| record.state = RunState::Failed)
    }

    fn end(&self, inner: &mut Inner, event: EventInput, change: impl FnOnce(&mut RunRecord)) -> Result<RunRecord> {
        if inner.finished {
            return Err(Error::other(format!("run has ended already: `{}`", self.id)));
        }
        inner.finished = true;
        // Whatever fails, what can be kept is kept; the first failure is reported.
        let event = self.append_event(inner, event);
        let log = inner
            .log
            .sync()
            .map_err(|cause| io_error("write log in", &inner.directory, cause));
        let now = (self.store.now)();
        let (log_bytes, log_truncated) = inner.log.kept();
        let record = &mut inner.record;
        change(record);
        record.ended_at = Some(now);
        record.duration_ms = Some(u64::try_from(now.duration_since(record.started_at).as_millis()).unwrap_or_default());
        record.log_bytes = log_bytes;
        record.log_truncated = log_truncated || inner.log_lost;
        record.event_count = Some(inner.sequence);
        let written = self.store.write_record(record, true);
        event.and(log).and(written).map(|()| inner.record.clone())
    }

    fn append_event(&self, inner: &mut Inner, mut event: EventInput) -> Result<()> {
        if event.phase.is_empty() {
            event.phase = phase_of(&event.kind).unwrap_or(&inner.record.phase).to_owned();
        }
        for text in [&mut event.message, &mut event.data] {
            text.truncate(boundary(text, LONGEST_TEXT));
        }
        let now = (self.store.now)();
        let event = RunEvent {
            run_id: self.id.clone(),
            seq: inner.sequence + 1,
            input: event,
            created_at: now,
        };
        let path = inner.directory.join(EVENTS);
        let line = json::line(&event)?;
        self.store
            .disk
            .before(Step::Append, &path)
            .and_then(|()| inner.events.write_all(&line))
            .map_err(|cause| io_error("write", &path, cause))?;
        inner.sequence += 1;
        inner.record.phase = event.input.phase;
        inner.record.last_event_at = Some(now);
        inner.record.event_count = Some(inner.sequence);
        Ok(())
    }

    fn output_events(&self, inner: &mut Inner, stream: Stream, bytes: &[u8]) -> Result<()> {
        let text = decode(&mut inner.partial[stream as usize], bytes);
        let mut rest = text.as_str();
        while !rest.is_empty() && inner.output_left > 0 {
            let (now, later) = rest.split_at(boundary(rest, LONGEST_TEXT.min(inner.output_left)));
            if now.is_empty() {
                break;
            }
            let event = EventInput {
                stream: stream.as_str().to_owned(),
                data: now.to_owned(),
                ..EventInput::new(stream.as_str())
            };
            self.append_event(inner, event)?;
            inner.output_left -= now.len();
            rest = later;
        }
        if rest.is_empty() {
            return Ok(());
        }
        inner.output_cut = true;
        self.append_event(
            inner,
            EventInput::new("output.truncated").with_message("the log has the rest"),
        )
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for RunWriter {
    fn drop(&mut self) {
        if !self.inner().finished {
            // Nobody is left to tell when even this fails.
            let _ = self.fail("abandoned");
        }
    }
}

/// Turns bytes into text, keeping the beginning of a character for the next call.
fn decode(partial: &mut Vec<u8>, bytes: &[u8]) -> String {
    partial.extend_from_slice(bytes);
    let complete = match partial.utf8_chunks().last() {
        // Only what could still become a character at the very end waits.
        Some(last) if !last.invalid().is_empty() && could_continue(last.invalid()) => {
            partial.len() - last.invalid().len()
        }
        _ => partial.len(),
    };
    let rest = partial.split_off(complete);
    String::from_utf8_lossy(&std::mem::replace(partial, rest)).into_owned()
}

fn could_continue(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

/// The largest character boundary at or below an index.
fn boundary(text: &str, index: usize) -> usize {
    text.floor_char_boundary(index)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert_eq, proptest};
    use proptest::sample::Index;

    use super::*;

    #[test]
    fn bytes_that_are_no_text_are_replaced() {
        let mut partial = Vec::new();
        assert_eq!(decode(&mut partial, b"a\xffb"), "a\u{fffd}b");
        assert!(partial.is_empty());
        assert_eq!(decode(&mut partial, b"\xe2\x82"), "");
        assert_eq!(decode(&mut partial, b"x"), "\u{fffd}x");
    }

    proptest! {
        #[test]
        fn text_cut_anywhere_is_put_together_again(text in any::<String>(), cuts in proptest::collection::vec(any::<Index>(), 0..4)) {
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let mut partial = Vec::new();
            let pieces: String = cuts.windows(2).map(|pair| decode(&mut partial, &text.as_bytes()[pair[0]..pair[1]])).collect();
            prop_assert_eq!(pieces, text);
        }
    }
}
