//! Stored files that could not be understood.

use std::ffi::OsStr;

use crabbox_core::id::hex;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::read::ReadFailure;

/// Longest file name, in bytes, that is shown as it is.
const LONGEST_SHOWN: usize = 160;

/// What is wrong with a stored file. The names are part of the `claims list` contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ProblemCode {
    /// The name is not one that we would choose.
    InvalidFilename,
    /// The content is not JSON of the right shape.
    InvalidJson,
    /// The file is larger than any record of ours.
    ClaimTooLarge,
    /// The record names no lease: an unfinished reservation.
    EmptyLeaseId,
    /// The record belongs to another name: it was copied or renamed.
    LeaseIdMismatch,
    /// The disk failed or the permission is missing.
    ReadError,
    /// A link, directory, pipe or device.
    NonRegularFile,
    /// JSON of the right shape with impossible values.
    InvalidClaim,
    /// Written by a newer version in a format that this one does not know.
    UnsupportedVersion,
    /// More problems exist than are listed.
    ProblemsTruncated,
}

/// One stored file that could not be understood.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[non_exhaustive]
pub struct Problem {
    /// File name, or `sha256:<16 hex>` of one that is unsafe to print.
    pub file: String,
    /// What is wrong.
    pub code: ProblemCode,
    /// One line for a person.
    pub message: String,
}

impl Problem {
    pub(crate) fn new(name: &OsStr, code: ProblemCode, message: impl Into<String>) -> Self {
        Self {
            file: shown(name),
            code,
            message: message.into(),
        }
    }

    pub(crate) fn unreadable(name: &OsStr, failure: &ReadFailure) -> Self {
        let code = match failure {
            ReadFailure::NonRegular => ProblemCode::NonRegularFile,
            ReadFailure::TooLarge(_) => ProblemCode::ClaimTooLarge,
            ReadFailure::Changed | ReadFailure::Io(_) => ProblemCode::ReadError,
        };
        Self::new(name, code, failure.to_string())
    }
}

/// A file name that is safe to print.
fn shown(name: &OsStr) -> String {
    match name.to_str() {
        Some(text) if text.len() <= LONGEST_SHOWN && !text.chars().any(is_unprintable) => text.to_owned(),
        _ => format!("sha256:{}", &hex(&Sha256::digest(name.as_encoded_bytes()))[..16]),
    }
}

/// Whether a character could change what a terminal shows around it.
pub(crate) fn is_unprintable(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// Text of a stored record, safe for a terminal.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .fold(String::with_capacity(text.len()), |mut out, character| {
            if is_unprintable(character) {
                out.extend(character.escape_unicode());
            } else {
                out.push(character);
            }
            out
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_fool_a_terminal_are_fingerprints() {
        assert_eq!(shown(OsStr::new("cbx_abcdef123456.json")), "cbx_abcdef123456.json");
        for name in ["a\nb.json".to_owned(), "\u{202e}x.json".to_owned(), "x".repeat(161)] {
            let shown = shown(OsStr::new(&name));
            assert!(shown.starts_with("sha256:") && shown.len() == 23, "{shown}");
        }
        assert_eq!(printable("a\u{1b}[31m"), "a\\u{1b}[31m");
    }
}
