//! Test results of the box, read from JUnit reports.
//!
//! Reports are hostile: sizes, depth and the number of entries are limited, nothing outside the report is ever read, and
//! entities that a document defines itself are refused.

mod attributes;
mod discover;
mod parse;
mod show;

pub use discover::{
    AUTO_MAX_FILES, AUTO_MAX_TOTAL_BYTES, Collected, Discovery, MARKER_FILE, NAME_PATTERNS, PRUNED_DIRECTORIES,
};
pub use parse::MAX_FILE_BYTES;
pub use show::{policy_line, policy_message};

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Failed entries that a summary keeps; counts go on.
pub const MAX_FAILED: usize = 1_000;

/// A report that came from the box.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResultFile {
    /// Path relative to the workdir.
    pub name: String,
    /// Content.
    pub bytes: Vec<u8>,
    /// The user named it, rather than discovery.
    pub explicit: bool,
}

/// How a test failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FailureKind {
    /// The test did not hold.
    Failure,
    /// The test could not be completed.
    Error,
}

impl FailureKind {
    /// `failure` or `error`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Failure => "failure",
            Self::Error => "error",
        }
    }
}

/// One failed test.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedTest {
    /// Suite.
    #[serde(default)]
    pub suite: String,
    /// Test.
    #[serde(default)]
    pub name: String,
    /// Class of the test.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub classname: String,
    /// Source file of the test.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub file: String,
    /// What the test said.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Type of the failure, such as an exception's name.
    #[serde(rename = "type", default, skip_serializing_if = "String::is_empty")]
    pub failure_type: String,
    /// How it failed.
    pub kind: FailureKind,
}

/// The results of all reports of a run.
///
/// JSON: `{format:"junit", files[], suites, tests, failures, errors, skipped, timeSeconds, failed[]}`, and
/// `failedOmitted` when more than [`MAX_FAILED`] entries failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// Always `junit`.
    pub format: String,
    /// Reports that were read, in the order of their names.
    pub files: Vec<String>,
    /// Suites.
    pub suites: u64,
    /// Tests.
    pub tests: u64,
    /// Tests that did not hold.
    pub failures: u64,
    /// Tests that could not be completed.
    pub errors: u64,
    /// Tests that did not run.
    pub skipped: u64,
    /// Time that the tests took.
    pub time_seconds: f64,
    /// Failed tests, in the order of their reports.
    pub failed: Vec<FailedTest>,
    /// Failed tests that are not listed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub failed_omitted: u64,
}

fn is_zero(value: &u64) -> bool {
    *value == 0
}

impl Default for Summary {
    fn default() -> Self {
        Self {
            format: "junit".to_owned(),
            files: Vec::new(),
            suites: 0,
            tests: 0,
            failures: 0,
            errors: 0,
            skipped: 0,
            time_seconds: 0.0,
            failed: Vec::new(),
            failed_omitted: 0,
        }
    }
}

impl Summary {
    /// Adds the results of another summary, for runs that were split.
    pub fn merge(&mut self, other: Self) {
        self.files.extend(other.files);
        self.suites = self.suites.saturating_add(other.suites);
        self.tests = self.tests.saturating_add(other.tests);
        self.failures = self.failures.saturating_add(other.failures);
        self.errors = self.errors.saturating_add(other.errors);
        self.skipped = self.skipped.saturating_add(other.skipped);
        self.time_seconds += other.time_seconds;
        let room = MAX_FAILED.saturating_sub(self.failed.len());
        let omitted = other.failed.len().saturating_sub(room) as u64;
        self.failed.extend(other.failed.into_iter().take(room));
        self.failed_omitted = self
            .failed_omitted
            .saturating_add(other.failed_omitted)
            .saturating_add(omitted);
    }

    /// Whether anything failed.
    pub fn has_failures(&self) -> bool {
        self.failures > 0 || self.errors > 0 || !self.failed.is_empty()
    }
}

/// What was made of the reports of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Results {
    /// The results; absent when no report could be read.
    pub summary: Option<Summary>,
    /// Reports that could not be read, one line each.
    pub warnings: Vec<String>,
}

/// Reads reports. A bad one is a warning, the others still count. A discovered report never replaces one that the user
/// named.
pub fn read_reports(files: Vec<ResultFile>) -> Results {
    let mut by_name: BTreeMap<String, ResultFile> = BTreeMap::new();
    for mut file in files {
        file.name = normal(&file.name);
        match by_name.get(&file.name) {
            Some(known) if known.explicit || !file.explicit => {}
            _ => {
                by_name.insert(file.name.clone(), file);
            }
        }
    }
    let mut total = Summary::default();
    let mut warnings = Vec::new();
    for file in by_name.into_values() {
        match parse::parse(&file.bytes) {
            Ok(mut summary) => {
                summary.files = vec![file.name];
                total.merge(summary);
            }
            Err(reason) => {
                warnings.push(crate::text::hostile(&format!("skip junit {}: {reason}", file.name)).into_owned())
            }
        }
    }
    Results {
        summary: (!total.files.is_empty()).then_some(total),
        warnings,
    }
}

/// The path without `./` and repeated slashes.
fn normal(name: &str) -> String {
    let parts: Vec<&str> = name.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    if name.starts_with('/') {
        format!("/{}", parts.join("/"))
    } else {
        parts.join("/")
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::{MAX_FAILED, ResultFile, Summary, read_reports};

    pub(crate) fn file(name: &str, text: &str, explicit: bool) -> ResultFile {
        ResultFile {
            name: name.to_owned(),
            bytes: text.as_bytes().to_vec(),
            explicit,
        }
    }

    #[test]
    fn reports_are_merged_by_name() {
        let results = read_reports(vec![
            file(
                "b.xml",
                r#"<testsuite name="b" tests="3" failures="1" time="1.5"/>"#,
                false,
            ),
            file(
                "./a.xml",
                r#"<testsuite name="explicit"><testcase name="t"/></testsuite>"#,
                true,
            ),
            file("a.xml", r#"<testsuite name="found" tests="100"/>"#, false),
            file("c.xml", "<html/>", false),
        ]);
        assert_eq!(
            results.warnings,
            ["skip junit c.xml: root is not testsuites or testsuite: html"]
        );
        let summary = results.summary.unwrap();
        assert_eq!(summary.files, ["a.xml", "b.xml"]);
        assert_eq!((summary.suites, summary.tests, summary.failures), (2, 4, 1));
        insta::assert_snapshot!(crate::json::line(&summary).unwrap(), @r#"{"format":"junit","files":["a.xml","b.xml"],"suites":2,"tests":4,"failures":1,"errors":0,"skipped":0,"timeSeconds":1.5,"failed":[]}"#);
    }

    #[test]
    fn nothing_readable_is_no_summary() {
        let results = read_reports(vec![file("a\u{1b}.xml", "<", true)]);
        assert!(results.summary.is_none());
        assert!(
            results.warnings[0].starts_with("skip junit a\\u001b.xml: "),
            "{:?}",
            results.warnings
        );
    }

    #[test]
    fn the_list_of_failed_tests_is_bounded() {
        let cases = "<testcase name='t'><failure/></testcase>".repeat(MAX_FAILED + 10);
        let text = format!("<testsuite>{cases}</testsuite>");
        let summary = read_reports(vec![file("a", &text, true), file("b", &text, true)])
            .summary
            .unwrap();
        assert_eq!(
            (summary.failed.len(), summary.failed_omitted),
            (MAX_FAILED, MAX_FAILED as u64 + 20)
        );
        assert_eq!(summary.failures, 2 * (MAX_FAILED as u64 + 10));
        let copy: Summary = serde_json::from_str(&crate::json::line(&summary).unwrap()).unwrap();
        assert_eq!(copy, summary);
    }
}
