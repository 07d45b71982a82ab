//! Lines of ours among the bytes of a command's standard error.

use bytes::{Bytes, BytesMut};

/// Longest line of ours, without the mark.
const LONGEST: usize = 64;

/// A piece of the stream.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// The command's.
    Data(Bytes),
    /// Ours: what stands between the mark and the end of the line.
    Line(String),
}

/// Finds lines that begin with a mark nobody else knows. Bytes that may begin one are held until it is decided.
#[derive(Debug)]
pub(crate) struct MarkerFilter {
    mark: Vec<u8>,
    held: BytesMut,
}

impl MarkerFilter {
    pub(crate) fn new(mark: &str) -> Self {
        Self {
            mark: mark.as_bytes().to_vec(),
            held: BytesMut::new(),
        }
    }

    /// Takes the next bytes and returns what is decided.
    pub(crate) fn push(&mut self, chunk: &[u8]) -> Vec<Piece> {
        self.held.extend_from_slice(chunk);
        let mut pieces = Vec::new();
        loop {
            let Some(start) = find(&self.held, &self.mark) else {
                let keep = overlap(&self.held, &self.mark);
                data(&mut pieces, self.held.split_to(self.held.len() - keep));
                return pieces;
            };
            data(&mut pieces, self.held.split_to(start));
            let after = self.mark.len();
            match self.held[after..].iter().position(|byte| *byte == b'\n') {
                Some(length) if length <= LONGEST => {
                    let line = self.held.split_to(after + length + 1);
                    pieces.push(Piece::Line(
                        String::from_utf8_lossy(&line[after..after + length]).trim().to_owned(),
                    ));
                }
                None if self.held.len() - after <= LONGEST => return pieces,
                // Too long for one of ours: the command has the mark from somewhere.
                _ => data(&mut pieces, self.held.split_to(after)),
            }
        }
    }

    /// What was held when the stream ended.
    pub(crate) fn finish(&mut self) -> Bytes {
        self.held.split().freeze()
    }
}

fn data(pieces: &mut Vec<Piece>, bytes: BytesMut) {
    if !bytes.is_empty() {
        pieces.push(Piece::Data(bytes.freeze()));
    }
}

fn find(text: &[u8], mark: &[u8]) -> Option<usize> {
    text.windows(mark.len()).position(|window| window == mark)
}

/// Length of the longest end of the text that begins the mark.
fn overlap(text: &[u8], mark: &[u8]) -> usize {
    let longest = text.len().min(mark.len() - 1);
    (1..=longest)
        .rev()
        .find(|length| mark.starts_with(&text[text.len() - length..]))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run(chunks: &[&[u8]]) -> (Vec<u8>, Vec<String>) {
        let mut filter = MarkerFilter::new("mmx");
        let (mut bytes, mut lines) = (Vec::new(), Vec::new());
        for chunk in chunks {
            for piece in filter.push(chunk) {
                match piece {
                    Piece::Data(data) => bytes.extend_from_slice(&data),
                    Piece::Line(line) => lines.push(line),
                }
            }
        }
        bytes.extend_from_slice(&filter.finish());
        (bytes, lines)
    }

    #[test]
    fn a_line_is_taken_out_wherever_it_stands() {
        assert_eq!(
            run(&[b"abmmx start 7\ncd"]),
            (b"abcd".to_vec(), vec!["start 7".to_owned()])
        );
        assert_eq!(run(&[b"mmx exit 3\n"]), (vec![], vec!["exit 3".to_owned()]));
        assert_eq!(
            run(&[b"mmmmx a\nmmx b\n"]),
            (b"mm".to_vec(), vec!["a".to_owned(), "b".to_owned()])
        );
    }

    #[test]
    fn an_unfinished_or_overlong_line_is_data() {
        assert_eq!(run(&[b"mmx no end"]).0, b"mmx no end");
        let long = [b"mmx".as_slice(), &[b'a'; 100], b"\n"].concat();
        assert_eq!(run(&[&long]).0, long);
    }

    proptest! {
        #[test]
        fn where_the_stream_is_cut_does_not_matter(text in "[mx \n]{0,40}", cuts in prop::collection::vec(0..40_usize, 0..6)) {
            let bytes = text.as_bytes();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let chunks: Vec<&[u8]> = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
            prop_assert_eq!(run(&chunks), run(&[bytes]));
        }
    }
}
