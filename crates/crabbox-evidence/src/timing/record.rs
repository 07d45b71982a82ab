//! The ledger of timings: one JSON object per line.

use std::fmt::Write as _;
use std::path::Path;

use crabbox_core::Result;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::TimingReport;
use crate::{json, private_file};

/// Version of a ledger line.
pub const RECORD_SCHEMA_VERSION: u32 = 1;

/// What was measured, so that like is compared with like.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Benchmark {
    /// [`command_fingerprint`] of the command.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub command_fingerprint: String,
    /// The command for people, redacted by the caller.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub command_display: String,
    /// [`repository_fingerprint`] of the repository.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub repo_fingerprint: String,
    /// Name of the repository.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub repo_name: String,
    /// Commit of the repository.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub repo_head: String,
    /// The provider's family.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub provider_family: String,
    /// The provider's kind.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub provider_kind: String,
    /// The provider's category.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub provider_category: String,
    /// Whether the box was made for this run; absent when unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cold_run: Option<bool>,
    /// Number of the repetition, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repeat_index: Option<u32>,
}

/// One line of the ledger.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TimingRecord {
    /// [`RECORD_SCHEMA_VERSION`].
    pub schema_version: u32,
    /// When the run ended.
    pub recorded_at: Timestamp,
    /// What wrote the line, such as `run`.
    pub source: String,
    /// What was measured.
    pub benchmark: Benchmark,
    /// How long it took.
    pub timing: TimingReport,
}

impl TimingRecord {
    /// A line of the current version.
    pub fn new(recorded_at: Timestamp, source: impl Into<String>, benchmark: Benchmark, timing: TimingReport) -> Self {
        Self {
            schema_version: RECORD_SCHEMA_VERSION,
            recorded_at,
            source: source.into(),
            benchmark,
            timing,
        }
    }

    /// Appends the line to a ledger, which is created when it is missing. Returns the line to tell the user.
    ///
    /// # Errors
    ///
    /// `Usage` when the file cannot be written.
    pub fn append_to(&self, path: &Path) -> Result<String> {
        private_file::append_line(path, &json::line(self)?)?;
        Ok(format!(
            "benchmark timing record appended path={} observations=1",
            path.display()
        ))
    }
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .fold("sha256:".to_owned(), |mut text, byte| {
            // Writing to a string cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// Names a command: `sha256:` of its argument vector as a JSON array.
///
/// # Errors
///
/// `Other` when encoding fails, which no text can cause.
pub fn command_fingerprint<S: AsRef<str>>(argv: &[S]) -> Result<String> {
    let argv: Vec<&str> = argv.iter().map(AsRef::as_ref).collect();
    // The array is hashed as Go spells it, HTML characters escaped, so that old ledgers stay comparable.
    let text = json::line(&argv)?
        .replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('&', "\\u0026");
    Ok(sha256(text.as_bytes()))
}

/// Names a state of a repository: `sha256:` of its name, remote and commit.
pub fn repository_fingerprint(name: &str, remote: &str, head: &str) -> String {
    sha256(format!("v1\nname={name}\nremote={remote}\nhead={head}\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::{Benchmark, TimingRecord, command_fingerprint, repository_fingerprint};
    use crate::timing::TimingReport;

    #[test]
    fn a_record_is_one_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("timings.jsonl");
        let benchmark = Benchmark {
            command_fingerprint: command_fingerprint(&["a", "&&", "b"]).unwrap(),
            repo_fingerprint: repository_fingerprint("n", "r", "h"),
            cold_run: Some(false),
            ..Benchmark::default()
        };
        let at: Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
        let record = TimingRecord::new(at, "run", benchmark, TimingReport::new("local"));
        let told = record.append_to(&path).unwrap();
        assert_eq!(
            told,
            format!(
                "benchmark timing record appended path={} observations=1",
                path.display()
            )
        );
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(serde_json::from_str::<TimingRecord>(text.trim_end()).unwrap(), record);
        insta::assert_snapshot!(text, @r#"{"schemaVersion":1,"recordedAt":"2026-01-02T03:04:05Z","source":"run","benchmark":{"commandFingerprint":"sha256:9a2d8f6e3825fab055c1a5a5fc2510787252c6403ba4c6b3939f81a6a9b80c30","repoFingerprint":"sha256:8f7443b4136f7b2c20244a56ef3442df92e9717f01a4cd1639bd031aab08fbcd","coldRun":false},"timing":{"provider":"local","syncMs":0,"syncSkipped":false,"commandMs":0,"totalMs":0,"endToEndMs":0,"exitCode":0}}"#);
    }

    #[test]
    fn fingerprints_are_those_of_sha256sum() {
        assert_eq!(
            command_fingerprint(&["a", "&&"]).unwrap(),
            "sha256:a5b602734843a8c3710b0eb74c9ca5b5addbb431057029b0ad2e79a25ac8ae0e"
        );
        assert_eq!(
            repository_fingerprint("n", "r", "h"),
            "sha256:8f7443b4136f7b2c20244a56ef3442df92e9717f01a4cd1639bd031aab08fbcd"
        );
    }
}
