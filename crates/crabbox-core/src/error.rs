//! The one error that crosses a crate boundary.

use std::borrow::Cow;
use std::fmt;

/// Result of everything in the contract.
pub type Result<T, E = Error> = std::result::Result<T, E>;

type Cause = Box<dyn std::error::Error + Send + Sync + 'static>;

/// What the user must change. Closed: a new kind breaks callers on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// Anything without a better name: network, I/O, an interrupted operation.
    Other,
    /// The request itself: arguments, config, an unsupported combination, a local file.
    Usage,
    /// Credentials or a provider prerequisite missing or refused.
    Prerequisite,
    /// Identity or ownership: not found, ambiguous, held by somebody else.
    Identity,
    /// Readiness or capacity: a wait that ran out, a capability that is not there.
    Readiness,
    /// Sync: manifest, guardrail, transfer, prune.
    Sync,
    /// A step on the box around the command, never the command itself.
    Remote,
}

impl ErrorKind {
    /// Exit status of the process; see `docs/reference/exit-codes.md`.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Other => 1,
            Self::Usage => 2,
            Self::Prerequisite => 3,
            Self::Identity => 4,
            Self::Readiness => 5,
            Self::Sync => 6,
            Self::Remote => 7,
        }
    }

    /// Machine-readable name, as in `--error-format json`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Other => "other",
            Self::Usage => "usage",
            Self::Prerequisite => "prerequisite",
            Self::Identity => "identity",
            Self::Readiness => "readiness",
            Self::Sync => "sync",
            Self::Remote => "remote",
        }
    }
}

/// Facts that decisions branch on, set where method and answer are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Facts {
    /// The same call may succeed if it is made again, and making it again is safe.
    pub retryable: bool,
    /// The vendor has no machine of this class, region or market now.
    pub capacity: bool,
    /// The account's limit is reached.
    pub quota: bool,
    /// The effect may have happened although its answer was lost.
    pub outcome_unknown: bool,
    /// The user or a deadline ended the operation.
    pub cancelled: bool,
}

/// An error with its kind, its cause and its cure.
///
/// The message is lower case, one line, without a final period, value last. The hint says what to do and is printed on
/// the line before the message.
#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: ErrorKind,
    message: Cow<'static, str>,
    hint: Option<Cow<'static, str>>,
    lease: Option<String>,
    facts: Facts,
    source: Option<Cause>,
}

macro_rules! constructors {
    ($($(#[$doc:meta])* $name:ident => $kind:ident),+ $(,)?) => {$(
        $(#[$doc])*
        pub fn $name(message: impl Into<Cow<'static, str>>) -> Self {
            Self::new(ErrorKind::$kind, message)
        }
    )+};
}

impl Error {
    /// Makes an error of a kind.
    pub fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Inner {
            kind,
            message: message.into(),
            hint: None,
            lease: None,
            facts: Facts::default(),
            source: None,
        }))
    }

    constructors! {
        /// Makes an error of kind [`ErrorKind::Other`].
        other => Other,
        /// Makes an error of kind [`ErrorKind::Usage`].
        usage => Usage,
        /// Makes an error of kind [`ErrorKind::Prerequisite`].
        prerequisite => Prerequisite,
        /// Makes an error of kind [`ErrorKind::Identity`].
        identity => Identity,
        /// Makes an error of kind [`ErrorKind::Readiness`].
        readiness => Readiness,
        /// Makes an error of kind [`ErrorKind::Sync`].
        sync => Sync,
        /// Makes an error of kind [`ErrorKind::Remote`].
        remote => Remote,
    }

    /// Makes the error of an operation that the user or a deadline ended.
    pub fn cancelled(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Other, message).with_facts(|facts| facts.cancelled = true)
    }

    /// Adds the cure.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Adds the lease that the error is about.
    #[must_use]
    pub fn with_lease(mut self, lease: impl Into<String>) -> Self {
        self.0.lease = Some(lease.into());
        self
    }

    /// Adds the cause. Its text is appended to the message when it is displayed.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Cause>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Changes the facts.
    #[must_use]
    pub fn with_facts(mut self, change: impl FnOnce(&mut Facts)) -> Self {
        change(&mut self.0.facts);
        self
    }

    /// Puts words before the message, keeping kind, hint, facts and cause.
    #[must_use]
    pub fn context(mut self, words: impl fmt::Display) -> Self {
        self.0.message = format!("{words}: {}", self.0.message).into();
        self
    }

    /// Changes the kind, for a caller that knows better what the user must change.
    #[must_use]
    pub fn with_kind(mut self, kind: ErrorKind) -> Self {
        self.0.kind = kind;
        self
    }

    /// What the user must change.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The message without its cause.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The cure, if one is known.
    pub fn hint(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// The lease that the error is about.
    pub fn lease(&self) -> Option<&str> {
        self.0.lease.as_deref()
    }

    /// Facts that decisions branch on.
    pub fn facts(&self) -> Facts {
        self.0.facts
    }

    /// Whether the same call may be made again.
    pub fn is_retryable(&self) -> bool {
        self.0.facts.retryable
    }

    /// Whether the user or a deadline ended the operation.
    pub fn is_cancelled(&self) -> bool {
        self.0.facts.cancelled
    }
}

/// The message and every cause on one line, control characters escaped.
impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_line(formatter, &self.0.message)?;
        let mut cause = self.0.source.as_deref().map(|cause| cause as &dyn std::error::Error);
        while let Some(error) = cause {
            formatter.write_str(": ")?;
            write_line(formatter, &error.to_string())?;
            // Our own errors already render their causes.
            if error.is::<Self>() {
                break;
            }
            cause = error.source();
        }
        Ok(())
    }
}

fn write_line(formatter: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    for character in text.trim_end().chars() {
        match character {
            '\n' | '\r' | '\t' => formatter.write_str(" ")?,
            control if control.is_control() => write!(formatter, "{}", control.escape_default())?,
            plain => fmt::Write::write_char(formatter, plain)?,
        }
    }
    Ok(())
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|cause| cause as _)
    }
}

/// Adds words to whatever failed.
pub trait ResultExt<T> {
    /// Puts words before the message of our own error.
    fn context(self, words: impl fmt::Display) -> Result<T>;
}

impl<T> ResultExt<T> for Result<T> {
    fn context(self, words: impl fmt::Display) -> Self {
        self.map_err(|error| error.context(words))
    }
}

/// Turns a foreign error into ours.
pub trait IntoError<T> {
    /// Makes an error of a kind whose message is `words` and whose cause is the foreign error.
    fn or_error(self, kind: ErrorKind, words: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<Cause>> IntoError<T> for std::result::Result<T, E> {
    fn or_error(self, kind: ErrorKind, words: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|cause| Error::new(kind, words()).with_source(cause))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_those_of_the_specification() {
        let kinds = [
            ErrorKind::Other,
            ErrorKind::Usage,
            ErrorKind::Prerequisite,
            ErrorKind::Identity,
            ErrorKind::Readiness,
            ErrorKind::Sync,
            ErrorKind::Remote,
        ];
        assert_eq!(kinds.map(ErrorKind::exit_code), [1, 2, 3, 4, 5, 6, 7]);
    }

    #[test]
    fn an_error_is_one_line_with_all_its_causes() {
        let cause = std::io::Error::other("disk\nfull\u{1b}[31m");
        let error = Error::sync("write manifest").with_source(cause).context("run");
        assert_eq!(error.to_string(), "run: write manifest: disk full\\u{1b}[31m");
        assert_eq!(error.kind(), ErrorKind::Sync);
    }

    #[test]
    fn nested_errors_of_ours_render_their_causes_once() {
        let inner = Error::other("inner").with_source(std::io::Error::other("root"));
        let outer = Error::usage("outer").with_source(inner);
        assert_eq!(outer.to_string(), "outer: inner: root");
    }
}
