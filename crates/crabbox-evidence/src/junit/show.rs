//! Test results for people. Names and messages are hostile.

use std::fmt::Write as _;

use super::{FailedTest, Summary};
use crate::text::hostile;

impl Summary {
    /// The line during a run.
    pub fn run_line(&self) -> String {
        format!(
            "test results files={} tests={} failures={} errors={} skipped={}",
            self.files.len(),
            self.tests,
            self.failures,
            self.errors,
            self.skipped
        )
    }

    /// What `results` prints.
    pub fn to_text(&self) -> String {
        let mut text = format!(
            "results format={} files={} suites={} tests={} failures={} errors={} skipped={} time={:.3}s\n",
            self.format,
            self.files.len(),
            self.suites,
            self.tests,
            self.failures,
            self.errors,
            self.skipped,
            self.time_seconds
        );
        if !self.failed.is_empty() {
            text.push_str("failed:\n");
            text.push_str(&self.failed_rows());
        }
        text
    }

    /// What `results --failed-only` prints.
    pub fn failed_text(&self) -> String {
        if self.failed.is_empty() {
            "no failed test cases recorded\n".to_owned()
        } else {
            self.failed_rows()
        }
    }

    fn failed_rows(&self) -> String {
        let mut rows: String = self
            .failed
            .iter()
            .map(|failed| format!("  {}\n", failed.row()))
            .collect();
        if self.failed_omitted > 0 {
            // Writing to a string cannot fail.
            let _ = writeln!(rows, "  +{} more", self.failed_omitted);
        }
        rows
    }
}

impl FailedTest {
    /// `CLASS.NAME`, or the name alone.
    pub fn full_name(&self) -> String {
        let name = if self.classname.is_empty() {
            self.name.clone()
        } else {
            format!("{}.{}", self.classname, self.name)
        };
        hostile(&name).into_owned()
    }

    /// `LOCATION KIND(8) CLASS.NAME — first message line`, safe to show.
    pub fn row(&self) -> String {
        let location = [&self.file, &self.suite].into_iter().find(|place| !place.is_empty());
        let mut row = format!(
            "{} {:8} {}",
            location.map_or("-".into(), |place| hostile(place)),
            self.kind.as_str(),
            self.full_name()
        );
        if let Some(line) = self.message.lines().map(str::trim).find(|line| !line.is_empty()) {
            let _ = write!(row, " — {}", hostile(line));
        }
        row
    }
}

/// The error of a run whose command succeeded although tests failed. Scripts look for its start.
pub fn policy_message(summary: &Summary) -> String {
    format!(
        "JUnit results contain {} failures and {} errors",
        summary.failures, summary.errors
    )
}

/// The line that announces [`policy_message`].
pub fn policy_line(summary: &Summary) -> String {
    format!("test results policy: {}", policy_message(summary))
}

impl Summary {
    /// Whether failed tests turn a successful command into a failed run with exit code 1.
    pub fn fails_run(&self, exit_code: i32, fail_on_failures: bool) -> bool {
        exit_code == 0 && fail_on_failures && self.has_failures()
    }
}

#[cfg(test)]
mod tests {
    use super::{policy_line, policy_message};
    use crate::junit::tests::file;
    use crate::junit::{Summary, read_reports};

    #[test]
    fn results_are_shown_safely() {
        let report = "<testsuite name='s\u{202e}' time='1.23456'>\
             <testcase classname='c' name='a\u{1b}[31m'><failure message='&#10; first&#10;second'/></testcase>\
             <testcase name='b' file='b.rs'><error/></testcase></testsuite>";
        let summary = read_reports(vec![file("r.xml", report, true)]).summary.unwrap();
        let text = [
            summary.run_line(),
            policy_line(&summary),
            summary.to_text(),
            summary.failed_text(),
            Summary::default().to_text(),
            Summary::default().failed_text(),
        ]
        .join("\n");
        insta::assert_snapshot!(text, @r#"
        test results files=1 tests=2 failures=1 errors=1 skipped=0
        test results policy: JUnit results contain 1 failures and 1 errors
        results format=junit files=1 suites=1 tests=2 failures=1 errors=1 skipped=0 time=0.000s
        failed:
          s\u202e failure  c.a\u001b[31m — first
          b.rs error    b

          s\u202e failure  c.a\u001b[31m — first
          b.rs error    b

        results format=junit files=0 suites=0 tests=0 failures=0 errors=0 skipped=0 time=0.000s

        no failed test cases recorded
        "#);
    }

    #[test]
    fn the_policy_needs_success_and_failures() {
        let mut summary = Summary {
            failures: 2,
            errors: 1,
            ..Summary::default()
        };
        assert!(summary.fails_run(0, true));
        assert!(!summary.fails_run(0, false) && !summary.fails_run(3, true));
        assert_eq!(
            policy_message(&summary),
            "JUnit results contain 2 failures and 1 errors"
        );
        (summary.failures, summary.errors) = (0, 0);
        assert!(!summary.fails_run(0, true));
    }
}
