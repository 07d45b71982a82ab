//! Lines by which a command names its phases.

use std::time::{Duration, Instant};

use super::Stream;

/// What a marker line starts with, after whitespace.
pub const MARKER_PREFIX: &str = "CRABBOX_PHASE:";

/// Phase before the first marker.
pub const INITIAL_PHASE: &str = "user-command";

const MAX_NAME_BYTES: usize = 80;
const MAX_LINE_BYTES: usize = 4 << 10;
const MAX_PHASES: usize = 1_000;

/// A phase that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Phase {
    /// Name, of `[A-Za-z0-9_.-]`.
    pub name: String,
    /// From its marker to the next one.
    pub duration: Duration,
}

/// Follows the phases of both streams of one command.
#[derive(Debug)]
pub struct Phases {
    /// The start of each stream's unfinished line.
    partial: [Vec<u8>; 2],
    ended: Vec<Phase>,
    current: String,
    since: Instant,
}

impl Phases {
    /// Starts with [`INITIAL_PHASE`].
    pub fn new(started: Instant) -> Self {
        Self {
            partial: [Vec::new(), Vec::new()],
            ended: Vec::new(),
            current: INITIAL_PHASE.to_owned(),
            since: started,
        }
    }

    /// Reads a chunk. Of a long line only the first 4 KiB count; beyond 1,000 phases, markers are ignored.
    pub fn feed(&mut self, stream: Stream, chunk: &[u8], now: Instant) {
        let index = stream as usize;
        for piece in chunk.split_inclusive(|byte| *byte == b'\n') {
            let partial = &mut self.partial[index];
            let room = MAX_LINE_BYTES.saturating_sub(partial.len());
            partial.extend_from_slice(&piece[..piece.len().min(room)]);
            if piece.ends_with(b"\n") {
                let name = marker(partial);
                partial.clear();
                if let Some(name) = name {
                    self.start(name, now);
                }
            }
        }
    }

    fn start(&mut self, name: String, now: Instant) {
        if self.ended.len() + 1 >= MAX_PHASES {
            return;
        }
        let name = std::mem::replace(&mut self.current, name);
        self.ended.push(Phase {
            name,
            duration: now.saturating_duration_since(self.since),
        });
        self.since = now;
    }

    /// The phase that runs now.
    pub fn current(&self) -> &str {
        &self.current
    }

    /// Ends the last phase. An unfinished last line counts.
    pub fn finish(mut self, now: Instant) -> Vec<Phase> {
        for index in 0..self.partial.len() {
            if let Some(name) = marker(&self.partial[index]) {
                self.start(name, now);
            }
        }
        self.ended.push(Phase {
            name: self.current,
            duration: now.saturating_duration_since(self.since),
        });
        self.ended
    }
}

fn marker(line: &[u8]) -> Option<String> {
    let name = line.trim_ascii().strip_prefix(MARKER_PREFIX.as_bytes())?.trim_ascii();
    let name: String = name[..name.len().min(MAX_NAME_BYTES)]
        .iter()
        .filter_map(|byte| match byte {
            b' ' => Some('-'),
            byte if byte.is_ascii_alphanumeric() || b"_.-".contains(byte) => Some(char::from(*byte)),
            _ => None,
        })
        .collect();
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use proptest::prelude::{ProptestConfig, any, prop, proptest};

    use super::{Phases, marker};
    use crate::stream::Stream;

    #[test]
    fn names_are_cleaned() {
        assert_eq!(
            marker(b"  CRABBOX_PHASE: unit tests \r\n").as_deref(),
            Some("unit-tests")
        );
        assert_eq!(marker("CRABBOX_PHASE:é/a_b.c-1".as_bytes()).as_deref(), Some("a_b.c-1"));
        assert_eq!(
            marker(format!("CRABBOX_PHASE:{}", "x".repeat(200)).as_bytes()).map(|name| name.len()),
            Some(80)
        );
        assert_eq!(marker(b"CRABBOX_PHASE: "), None);
        assert_eq!(marker(b"echo CRABBOX_PHASE:x"), None);
    }

    #[test]
    fn durations_follow_the_markers() {
        let started = Instant::now();
        let mut phases = Phases::new(started);
        let at = |seconds| started + Duration::from_secs(seconds);
        phases.feed(Stream::Stdout, b"CRABBOX_PHASE:install\n", at(2));
        phases.feed(Stream::Stderr, b"CRABBOX_PHASE:test", at(5));
        let ended = phases.finish(at(9));
        let ended: Vec<_> = ended
            .iter()
            .map(|phase| (phase.name.as_str(), phase.duration.as_secs()))
            .collect();
        assert_eq!(ended, [("user-command", 2), ("install", 7), ("test", 0)]);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]
        #[test]
        fn chunking_does_not_matter(cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6)) {
            let text = b"a\nCRABBOX_PHASE:one\nb CRABBOX_PHASE:no\n\tCRABBOX_PHASE: two x\r\nlast";
            let now = Instant::now();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len())).collect();
            cuts.sort_unstable();
            let mut phases = Phases::new(now);
            let mut from = 0;
            for cut in cuts.into_iter().chain([text.len()]) {
                phases.feed(Stream::Stdout, &text[from..cut], now);
                from = cut;
            }
            let names: Vec<String> = phases.finish(now).into_iter().map(|phase| phase.name).collect();
            proptest::prop_assert_eq!(names, ["user-command", "one", "two-x"]);
        }
    }
}
