//! What happens to the output of a command, within bounded memory however long it is.
//!
//! Each stream goes to the terminal (which the caller owns), a log of the last 8 MiB, the last 40 lines, the phase
//! markers, a spool file for a failure bundle, and on demand a digest. A captured stream goes to its file, the phase markers and the
//! digest only.

mod phase;
mod spool;
mod tail;

pub use phase::{INITIAL_PHASE, MARKER_PREFIX, Phase, Phases};
pub use spool::{SPOOL_LIMIT_BYTES, Spool};
pub use tail::{LOG_LIMIT_BYTES, LogRing, TAIL_LINE_BYTES, TAIL_LINES, TailLines, chunks};

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crabbox_core::{Error, ErrorKind, IntoError as _, Result};
use sha2::{Digest as _, Sha256};

use crate::private_file::PrivateFile;
use crate::text::field;

/// Largest output event.
pub const EVENT_CHUNK_BYTES: usize = 16 << 10;

/// Output of both streams that becomes events, per run.
pub const EVENT_LIMIT_BYTES: usize = 64 << 10;

/// One of the two output streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    /// Both streams.
    pub const ALL: [Self; 2] = [Self::Stdout, Self::Stderr];

    /// `stdout` or `stderr`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// What remains of one stream.
#[derive(Debug)]
pub struct StreamEvidence {
    /// Bytes that arrived.
    pub total_bytes: u64,
    /// The last lines; empty when captured.
    pub tail: Vec<String>,
    /// The file that a captured stream went to.
    pub captured: Option<PathBuf>,
    /// What was kept for a failure bundle; absent when captured, or when nothing arrived.
    pub spool: Option<Spool>,
}

/// What remains of the output of a command.
#[derive(Debug)]
pub struct OutputEvidence {
    /// Standard output.
    pub stdout: StreamEvidence,
    /// Standard error.
    pub stderr: StreamEvidence,
    /// The end of what was shown, both streams in the order of arrival.
    pub log: LogRing,
    /// Phases in the order in which they started.
    pub phases: Vec<Phase>,
    /// Digest of all that arrived, both streams in the order of arrival: `sha256:` and 64 hex digits. Absent unless it was
    /// [asked for](OutputCollector::with_digest).
    pub digest: Option<String>,
    /// When the first byte arrived.
    pub first_byte: Option<Instant>,
    /// Problems that cost evidence but not the run, one line each.
    pub warnings: Vec<String>,
    /// Captures that could not be completed, each of kind `Usage`. They matter only when the command succeeded.
    pub capture_errors: Vec<Error>,
}

#[derive(Debug)]
struct Lane {
    stream: Stream,
    capture: Option<PrivateFile>,
    tail: TailLines,
    spool: Spool,
    spooling: bool,
    total_bytes: u64,
}

impl Lane {
    fn new(stream: Stream, capture: Option<PrivateFile>) -> Self {
        let spooling = capture.is_none();
        let (tail, spool) = (TailLines::default(), Spool::default());
        Self {
            stream,
            capture,
            tail,
            spool,
            spooling,
            total_bytes: 0,
        }
    }

    fn finish(self, capture_errors: &mut Vec<Error>) -> StreamEvidence {
        let (captured, tail) = match self.capture {
            None => (None, self.tail.into_lines()),
            Some(file) => {
                let path = file.path().to_path_buf();
                if let Err(error) = file.finish() {
                    capture_errors.push(error.context(format!("{} capture", self.stream.as_str())));
                }
                (Some(path), Vec::new())
            }
        };
        let spool = (self.spooling && self.total_bytes > 0).then_some(self.spool);
        StreamEvidence {
            total_bytes: self.total_bytes,
            tail,
            captured,
            spool,
        }
    }
}

/// Takes the output of one command, chunk by chunk.
#[derive(Debug)]
pub struct OutputCollector {
    stdout: Lane,
    stderr: Lane,
    log: LogRing,
    phases: Phases,
    digest: Option<Sha256>,
    first_byte: Option<Instant>,
    warnings: Vec<String>,
}

impl OutputCollector {
    /// Starts collecting. Each capture, opened with [`PrivateFile::create_live`], takes its stream off the terminal.
    pub fn new(stdout: Option<PrivateFile>, stderr: Option<PrivateFile>, started: Instant) -> Self {
        Self {
            stdout: Lane::new(Stream::Stdout, stdout),
            stderr: Lane::new(Stream::Stderr, stderr),
            log: LogRing::default(),
            phases: Phases::new(started),
            digest: None,
            first_byte: None,
            warnings: Vec::new(),
        }
    }

    /// Also digests everything that arrives, for a receipt. It costs more than all else together.
    #[must_use]
    pub fn with_digest(mut self) -> Self {
        self.digest = Some(Sha256::new());
        self
    }

    /// Whether a stream goes to a file instead of the terminal, the log and the events.
    pub fn is_captured(&self, stream: Stream) -> bool {
        match stream {
            Stream::Stdout => self.stdout.capture.is_some(),
            Stream::Stderr => self.stderr.capture.is_some(),
        }
    }

    /// Takes a chunk. The caller shows it unless the stream [is captured](Self::is_captured).
    ///
    /// # Errors
    ///
    /// `Usage` when a capture cannot be written. Everything else about the chunk is kept even then.
    pub fn write(&mut self, stream: Stream, chunk: &[u8], now: Instant) -> Result<()> {
        if chunk.is_empty() {
            return Ok(());
        }
        self.first_byte.get_or_insert(now);
        self.phases.feed(stream, chunk, now);
        if let Some(digest) = &mut self.digest {
            digest.update(chunk);
        }
        let lane = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        lane.total_bytes += chunk.len() as u64;
        if let Some(capture) = &mut lane.capture {
            return capture.write_all(chunk).or_error(ErrorKind::Usage, || {
                format!("write {} capture `{}`", stream.as_str(), capture.path().display())
            });
        }
        self.log.push(chunk);
        lane.tail.push(chunk);
        if lane.spooling
            && let Err(error) = lane.spool.push(chunk)
        {
            // A full temp directory must not end a run that needs nothing from it.
            lane.spooling = false;
            self.warnings.push(format!(
                "{} is missing from a failure bundle: {error}",
                lane.stream.as_str()
            ));
        }
        Ok(())
    }

    /// The name of the phase that runs now.
    pub fn current_phase(&self) -> &str {
        self.phases.current()
    }

    /// Ends both streams. Whatever fails, the rest is there.
    pub fn finish(self, now: Instant) -> OutputEvidence {
        let mut capture_errors = Vec::new();
        OutputEvidence {
            stdout: self.stdout.finish(&mut capture_errors),
            stderr: self.stderr.finish(&mut capture_errors),
            log: self.log,
            phases: self.phases.finish(now),
            digest: self.digest.map(hex),
            first_byte: self.first_byte,
            warnings: self.warnings,
            capture_errors,
        }
    }
}

/// The line before a stream is captured.
pub fn capturing_line(stream: Stream, path: &Path) -> String {
    format!(
        "capturing {} to {}",
        stream.as_str(),
        field(&path.display().to_string())
    )
}

impl StreamEvidence {
    /// The line after a stream was captured; absent when it was not.
    pub fn captured_line(&self, stream: Stream) -> Option<String> {
        let path = self.captured.as_ref()?.display().to_string();
        Some(format!(
            "captured {}={} bytes={}",
            stream.as_str(),
            field(&path),
            self.total_bytes
        ))
    }
}

fn hex(digest: Sha256) -> String {
    digest.finalize().iter().fold("sha256:".to_owned(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Decides which output becomes events: chunks of at most 16 KiB, 64 KiB per run, then one note that the rest is missing.
#[derive(Debug, Default)]
pub struct EventBudget {
    spent: usize,
    exhausted: bool,
}

impl EventBudget {
    /// The parts of a chunk that become events, and whether the note is due now.
    pub fn take<'a>(&mut self, chunk: &'a [u8]) -> (Vec<&'a [u8]>, bool) {
        if self.exhausted || chunk.is_empty() {
            return (Vec::new(), false);
        }
        let (kept, rest) = chunk.split_at(chunk.len().min(EVENT_LIMIT_BYTES - self.spent));
        self.spent += kept.len();
        self.exhausted = !rest.is_empty();
        (kept.chunks(EVENT_CHUNK_BYTES).collect(), self.exhausted)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::time::{Duration, Instant};

    use super::{EventBudget, OutputCollector, Stream};
    use crate::private_file::PrivateFile;

    #[test]
    fn streams_are_kept_apart_and_together() {
        let started = Instant::now();
        let mut collector = OutputCollector::new(None, None, started).with_digest();
        let at = |seconds| started + Duration::from_secs(seconds);
        collector
            .write(Stream::Stdout, b"out\nCRABBOX_PHASE: te", at(1))
            .unwrap();
        collector.write(Stream::Stderr, b"err\n", at(2)).unwrap();
        collector.write(Stream::Stdout, b"st run\n", at(3)).unwrap();
        assert_eq!(collector.current_phase(), "test-run");
        let evidence = collector.finish(at(5));
        assert_eq!(evidence.log.to_text(), "out\nCRABBOX_PHASE: teerr\nst run\n");
        assert_eq!(evidence.stdout.tail, ["out", "CRABBOX_PHASE: test run"]);
        assert_eq!(evidence.stderr.tail, ["err"]);
        assert_eq!(evidence.first_byte, Some(at(1)));
        let phases: Vec<_> = evidence
            .phases
            .iter()
            .map(|phase| (phase.name.as_str(), phase.duration.as_secs()))
            .collect();
        assert_eq!(phases, [("user-command", 3), ("test-run", 2)]);
        // printf 'out\nCRABBOX_PHASE: teerr\nst run\n' | sha256sum
        assert_eq!(
            evidence.digest.as_deref(),
            Some("sha256:ad93c5c1b173530d5b792727c11177c3d3b68952233879919b8d3566b69fb148")
        );
        let mut spooled = String::new();
        evidence
            .stdout
            .spool
            .unwrap()
            .into_reader()
            .unwrap()
            .read_to_string(&mut spooled)
            .unwrap();
        assert_eq!(spooled, "out\nCRABBOX_PHASE: test run\n");
    }

    #[test]
    fn a_captured_stream_goes_to_its_file_only() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("out.log");
        let started = Instant::now();
        let mut collector = OutputCollector::new(Some(PrivateFile::create_live(&path).unwrap()), None, started);
        assert!(collector.is_captured(Stream::Stdout) && !collector.is_captured(Stream::Stderr));
        collector
            .write(Stream::Stdout, b"secret\nCRABBOX_PHASE:x\n", started)
            .unwrap();
        collector.write(Stream::Stderr, b"seen\n", started).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"secret\nCRABBOX_PHASE:x\n");
        let evidence = collector.finish(started);
        assert_eq!(evidence.stdout.captured.as_deref(), Some(path.as_path()));
        assert!(evidence.capture_errors.is_empty());
        let told = evidence.stdout.captured_line(Stream::Stdout).unwrap();
        assert_eq!(told, format!("captured stdout={} bytes=23", path.display()));
        assert_eq!(evidence.stderr.captured_line(Stream::Stderr), None);
        assert_eq!(
            super::capturing_line(Stream::Stdout, &path),
            format!("capturing stdout to {}", path.display())
        );
        assert!(evidence.stdout.tail.is_empty() && evidence.stdout.spool.is_none());
        assert_eq!(evidence.log.to_text(), "seen\n");
        assert_eq!(evidence.phases.len(), 2);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_costs_the_capture_and_nothing_else() {
        let started = Instant::now();
        let mut collector = OutputCollector::new(Some(PrivateFile::full_for_tests()), None, started);
        let error = collector
            .write(Stream::Stdout, b"CRABBOX_PHASE:x\n", started)
            .unwrap_err();
        assert_eq!(error.kind().exit_code(), 2);
        assert!(
            error.to_string().starts_with("write stdout capture `/dev/full`: "),
            "{error}"
        );
        collector.write(Stream::Stderr, b"still here\n", started).unwrap();
        let evidence = collector.finish(started);
        assert_eq!(
            (evidence.stderr.tail, evidence.stdout.total_bytes),
            (vec!["still here".to_owned()], 16)
        );
        assert_eq!(evidence.phases.len(), 2);
    }

    #[test]
    fn memory_stays_bounded() {
        let started = Instant::now();
        let mut collector = OutputCollector::new(None, None, started);
        let chunk = [b'x'; 1 << 16];
        for _ in 0..1024 {
            collector.write(Stream::Stdout, &chunk, started).unwrap();
        }
        let evidence = collector.finish(started);
        assert_eq!(evidence.stdout.total_bytes, 64 << 20);
        assert_eq!(evidence.log.len(), super::LOG_LIMIT_BYTES);
        assert!(evidence.log.truncated());
        assert_eq!(evidence.stdout.tail.len(), 1);
        assert!(evidence.stdout.tail[0].len() <= super::TAIL_LINE_BYTES + 64);
        assert!(evidence.stdout.spool.unwrap().len() < super::SPOOL_LIMIT_BYTES + 256);
    }

    #[test]
    fn events_stop_at_their_budget() {
        let mut budget = EventBudget::default();
        let (chunks, note) = budget.take(&[0; 40 << 10]);
        assert_eq!(
            (chunks.iter().map(|chunk| chunk.len() >> 10).collect::<Vec<_>>(), note),
            (vec![16, 16, 8], false)
        );
        let (chunks, note) = budget.take(&[0; 40 << 10]);
        assert_eq!(
            (chunks.iter().map(|chunk| chunk.len() >> 10).sum::<usize>(), note),
            (24, true)
        );
        assert_eq!(budget.take(b"more"), (Vec::new(), false));
    }
}
