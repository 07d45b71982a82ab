//! How the process ends: an exit status, and the lines that explain it.

use std::time::Duration;

use crabbox_core::{Error, ErrorKind};
use crabbox_evidence::timing::{ExitSource, TimingReport};
use serde::Serialize;

use crate::output::{ErrorFormat, Output, READER_GONE, ReaderGone, escape};

/// How a command ended.
#[derive(Debug, Default)]
pub(crate) struct Ending {
    status: Status,
    last_line: Option<String>,
}

#[derive(Debug, Default)]
enum Status {
    #[default]
    Success,
    /// A status whose reason is already on standard output.
    Explained(u8),
    /// The remote command's own status.
    Command {
        code: u8,
        source: ExitSource,
        lease: Option<String>,
    },
    /// Ours, with another exit status than its kind's.
    Failed { error: Error, code: u8 },
}

impl Ending {
    /// Everything went well.
    pub(crate) fn success() -> Self {
        Self::default()
    }

    /// An exit status whose reason was printed as data.
    pub(crate) fn explained(code: u8) -> Self {
        Self {
            status: Status::Explained(code),
            last_line: None,
        }
    }

    /// The remote command's own exit status.
    pub(crate) fn of_command(code: u8, source: ExitSource, lease: Option<String>) -> Self {
        let status = if code == 0 {
            Status::Success
        } else {
            Status::Command { code, source, lease }
        };
        Self {
            status,
            last_line: None,
        }
    }

    /// An error with the exit status that the engine chose for it.
    pub(crate) fn failed(error: Error, code: u8) -> Self {
        Self {
            status: Status::Failed { error, code },
            last_line: None,
        }
    }

    /// A failure before there was any outcome, with the times that are promised for every end.
    ///
    /// # Errors
    /// The failure itself, when nobody reads the output any more.
    pub(crate) fn timed_failure(
        failure: anyhow::Error,
        command: &str,
        mut timing: TimingReport,
        elapsed: Duration,
    ) -> anyhow::Result<Self> {
        let failure = with_cure(failure, &[command.to_owned()]);
        if failure.chain().any(|cause| cause.is::<ReaderGone>()) {
            return Err(failure);
        }
        let error = ours(failure);
        let code = error.kind().exit_code();
        timing.end_to_end = elapsed;
        timing.set_error(code.into(), &error);
        let line = timing.to_json()?;
        Ok(Self::failed(error, code).with_last_line(Some(line)))
    }

    /// Whether the exit status will be 0.
    pub(crate) fn is_success(&self) -> bool {
        matches!(self.status, Status::Success | Status::Explained(0))
    }

    /// Adds what other programs expect as the last line of standard error.
    #[must_use]
    pub(crate) fn with_last_line(mut self, line: Option<String>) -> Self {
        self.last_line = line;
        self
    }
}

/// The error as other programs read it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report<'a> {
    kind: &'a str,
    message: &'a str,
    cause: Option<String>,
    hint: Option<&'a str>,
    lease: Option<&'a str>,
    retryable: bool,
    exit_code: u8,
    exit_source: &'a str,
}

/// Prints what there is to say and returns the exit status.
pub(crate) fn conclude(result: anyhow::Result<Ending>, format: ErrorFormat, output: &Output) -> u8 {
    output.finish_progress();
    let ending = match result {
        Ok(ending) => ending,
        Err(failure) if failure.chain().any(|cause| cause.is::<ReaderGone>()) => return READER_GONE,
        Err(failure) => {
            let error = ours(failure);
            let code = error.kind().exit_code();
            Ending::failed(error, code)
        }
    };
    if output.is_closed() {
        return READER_GONE;
    }
    // Both are promised to be last. Whoever asks for both reads the error, which names the exit status, after the times.
    match format {
        ErrorFormat::Text => {
            let code = text(&ending.status, output);
            if let Some(line) = &ending.last_line {
                output.last_line(line);
            }
            code
        }
        ErrorFormat::Json => {
            if let Some(line) = &ending.last_line {
                output.last_line(line);
            }
            json(&ending.status, output)
        }
    }
}

fn text(status: &Status, output: &Output) -> u8 {
    match status {
        Status::Success => 0,
        Status::Explained(code) => *code,
        Status::Command { code, .. } => {
            output.last_line(&command_message(*code));
            *code
        }
        Status::Failed { error, code } => {
            if let Some(hint) = error.hint() {
                output.last_line(&format!("{} {}", output.paint("36", "hint:"), escape(hint)));
            }
            // Words of a box may be part of it, such as the name of a file.
            output.last_line(&escape(&error.to_string()));
            *code
        }
    }
}

fn json(status: &Status, output: &Output) -> u8 {
    match status {
        Status::Success => 0,
        Status::Explained(code) => *code,
        Status::Command { code, source, lease } => {
            let message = command_message(*code);
            let report = Report {
                kind: "command",
                message: &message,
                cause: None,
                hint: None,
                lease: lease.as_deref(),
                retryable: false,
                exit_code: *code,
                exit_source: match source {
                    ExitSource::Signal => "signal",
                    _ => "command",
                },
            };
            object(&report, output)
        }
        Status::Failed { error, code } => {
            let report = Report {
                kind: error.kind().as_str(),
                message: error.message(),
                cause: cause(error),
                hint: error.hint(),
                lease: error.lease(),
                retryable: error.is_retryable(),
                exit_code: *code,
                exit_source: "crabbox",
            };
            object(&report, output)
        }
    }
}

fn object(report: &Report<'_>, output: &Output) -> u8 {
    match serde_json::to_string(report) {
        Ok(line) => output.last_line(&line),
        Err(error) => output.last_line(&error.to_string()),
    }
    report.exit_code
}

/// Other programs look for this line.
fn command_message(code: u8) -> String {
    format!("remote command exited {code}")
}

fn cause(error: &Error) -> Option<String> {
    use std::error::Error as _;
    let mut texts = Vec::new();
    let mut next = error.source();
    while let Some(cause) = next {
        texts.push(cause.to_string());
        // Our own errors already render their causes.
        next = if cause.is::<Error>() { None } else { cause.source() };
    }
    (!texts.is_empty()).then(|| texts.join(": "))
}

/// Adds the cure that always helps to an error that the user can mend and that names none of its own.
pub(crate) fn with_cure(failure: anyhow::Error, path: &[String]) -> anyhow::Error {
    if failure.chain().any(|cause| cause.is::<ReaderGone>()) {
        return failure;
    }
    let error = ours(failure);
    let cure = match (error.hint(), error.kind()) {
        (None, ErrorKind::Usage) => format!("see `crabbox {} --help`", path.join(" ")),
        (None, ErrorKind::Prerequisite) => "`crabbox doctor` checks this machine and the provider".to_owned(),
        _ => return error.into(),
    };
    error.with_hint(cure).into()
}

/// Finds our own error wherever it is, so that words put around it never hide its kind.
fn ours(failure: anyhow::Error) -> Error {
    let words: Vec<String> = failure
        .chain()
        .take_while(|cause| !cause.is::<Error>())
        .map(ToString::to_string)
        .collect();
    match failure.downcast::<Error>() {
        Ok(error) => words.iter().rev().fold(error, |error, words| error.context(words)),
        Err(failure) => Error::new(ErrorKind::Other, words.join(": ")).with_facts(|facts| {
            let inner = failure.chain().find_map(|cause| cause.downcast_ref::<Error>());
            *facts = inner.map(Error::facts).unwrap_or_default();
        }),
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn words_around_an_error_keep_its_kind_and_cure() {
        let inner = Error::identity("no lease matches: `amber-crab`").with_hint("see `crabbox list`");
        let result: anyhow::Result<()> = Err(inner.into());
        let error = ours(result.context("outer").context("outermost").unwrap_err());
        assert_eq!(error.kind(), ErrorKind::Identity);
        assert_eq!(error.hint(), Some("see `crabbox list`"));
        assert_eq!(error.to_string(), "outermost: outer: no lease matches: `amber-crab`");
    }

    #[test]
    fn a_foreign_error_is_one_line_of_no_special_kind() {
        let foreign = std::io::Error::other("disk on fire");
        let error = ours(anyhow::Error::new(foreign).context("cannot read"));
        assert_eq!(error.kind(), ErrorKind::Other);
        assert_eq!(error.to_string(), "cannot read: disk on fire");
    }
}
