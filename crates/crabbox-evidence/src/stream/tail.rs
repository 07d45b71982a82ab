//! The end of a stream: its last lines, and its last bytes.

use std::collections::VecDeque;

/// Lines that are kept of a stream.
pub const TAIL_LINES: usize = 40;

/// Bytes that are kept of a line.
pub const TAIL_LINE_BYTES: usize = 16 << 10;

/// Bytes that are kept of the log.
pub const LOG_LIMIT_BYTES: usize = 8 << 20;

/// The last 40 lines of a stream, 16 KiB of each.
#[derive(Clone, Debug, Default)]
pub struct TailLines {
    lines: VecDeque<Line>,
    partial: Line,
}

#[derive(Clone, Debug, Default)]
struct Line {
    bytes: Vec<u8>,
    dropped: u64,
}

impl Line {
    fn push(&mut self, piece: &[u8]) {
        let kept = piece.len().min(TAIL_LINE_BYTES - self.bytes.len());
        self.bytes.extend_from_slice(&piece[..kept]);
        self.dropped += (piece.len() - kept) as u64;
    }

    fn into_text(self) -> String {
        let text = String::from_utf8_lossy(&self.bytes);
        let text = text.strip_suffix('\r').unwrap_or(&text);
        if self.dropped == 0 {
            return text.to_owned();
        }
        // A character that the limit cut apart is not the stream's fault.
        format!("{}… ({} bytes more)", text.trim_end_matches('\u{fffd}'), self.dropped)
    }
}

impl TailLines {
    /// Takes a chunk.
    pub fn push(&mut self, chunk: &[u8]) {
        for piece in chunk.split_inclusive(|byte| *byte == b'\n') {
            match piece.strip_suffix(b"\n") {
                None => self.partial.push(piece),
                Some(rest) => {
                    self.partial.push(rest);
                    let line = std::mem::take(&mut self.partial);
                    if self.lines.len() == TAIL_LINES {
                        self.lines.pop_front();
                    }
                    self.lines.push_back(line);
                }
            }
        }
    }

    /// The lines, oldest first, without their line breaks. An unfinished last line counts.
    pub fn into_lines(mut self) -> Vec<String> {
        if !self.partial.bytes.is_empty() {
            if self.lines.len() == TAIL_LINES {
                self.lines.pop_front();
            }
            self.lines.push_back(self.partial);
        }
        self.lines.into_iter().map(Line::into_text).collect()
    }
}

/// The last 8 MiB of a stream.
#[derive(Clone, Debug, Default)]
pub struct LogRing {
    bytes: VecDeque<u8>,
    dropped: u64,
}

impl LogRing {
    /// Takes a chunk; the oldest bytes go first.
    pub fn push(&mut self, chunk: &[u8]) {
        let kept = &chunk[chunk.len().saturating_sub(LOG_LIMIT_BYTES)..];
        let excess = (self.bytes.len() + kept.len()).saturating_sub(LOG_LIMIT_BYTES);
        self.bytes.drain(..excess);
        self.bytes.extend(kept);
        self.dropped += (excess + chunk.len() - kept.len()) as u64;
    }

    /// Bytes that are kept.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing arrived.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Whether the start is missing.
    pub fn truncated(&self) -> bool {
        self.dropped > 0
    }

    /// Bytes that are no longer kept.
    pub fn dropped_bytes(&self) -> u64 {
        self.dropped
    }

    /// What is kept, as two adjacent pieces.
    pub fn as_slices(&self) -> (&[u8], &[u8]) {
        self.bytes.as_slices()
    }

    /// What is kept, as text; bytes that are no text become U+FFFD. A character that lost its start is left out.
    pub fn to_text(&self) -> String {
        let (first, second) = self.bytes.as_slices();
        let bytes = [first, second].concat();
        let start = if self.truncated() {
            bytes.iter().take(3).take_while(|byte| **byte & 0xc0 == 0x80).count()
        } else {
            0
        };
        String::from_utf8_lossy(&bytes[start..]).into_owned()
    }
}

/// Splits text into pieces of at most `limit_bytes` (at least four) that end between characters.
pub fn chunks(text: &str, limit_bytes: usize) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let piece = crate::text::cut(rest, limit_bytes.max(4));
        rest = &rest[piece.len()..];
        (!piece.is_empty()).then_some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::{LOG_LIMIT_BYTES, LogRing, TAIL_LINE_BYTES, TailLines, chunks};

    #[test]
    fn the_last_lines_stay() {
        let mut tail = TailLines::default();
        for number in 0..100 {
            tail.push(format!("line {number}\r\n").as_bytes());
        }
        tail.push(b"unfinished");
        let lines = tail.into_lines();
        assert_eq!(
            (lines.len(), lines[0].as_str(), lines[39].as_str()),
            (40, "line 61", "unfinished")
        );
        assert!(TailLines::default().into_lines().is_empty());
    }

    #[test]
    fn long_lines_are_cut_with_a_note() {
        let mut tail = TailLines::default();
        tail.push("é".repeat(TAIL_LINE_BYTES).as_bytes());
        tail.push(b"\nnext\n");
        let lines = tail.into_lines();
        assert!(lines[0].ends_with("é… (16384 bytes more)"));
        assert_eq!(lines[1], "next");
    }

    #[test]
    fn the_log_keeps_its_end() {
        let mut log = LogRing::default();
        assert!(log.is_empty());
        log.push("é".as_bytes());
        log.push(&vec![b'a'; LOG_LIMIT_BYTES - 1]);
        assert!(log.truncated());
        assert_eq!((log.len(), log.dropped_bytes()), (LOG_LIMIT_BYTES, 1));
        assert!(log.to_text().starts_with('a'));
        log.push(&vec![b'b'; LOG_LIMIT_BYTES + 5]);
        assert_eq!(
            (log.len(), log.dropped_bytes()),
            (LOG_LIMIT_BYTES, LOG_LIMIT_BYTES as u64 + 6)
        );
        let (first, second) = log.as_slices();
        assert!(first.iter().chain(second).all(|byte| *byte == b'b'));
    }

    #[test]
    fn chunks_end_between_characters() {
        assert_eq!(chunks("aééé", 4).collect::<Vec<_>>(), ["aé", "éé"]);
        assert_eq!(chunks("", 4).count(), 0);
    }
}
