//! The request and the outcome of a run.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use crabbox_core::{Error, Result, RunId};
use crabbox_evidence::junit::Summary;
pub use crabbox_evidence::timing::ExitSource;
use crabbox_evidence::timing::TimingReport;

use crate::event::LeaseInfo;

/// When a run gives its box back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StopAfter {
    /// If this run created it and nothing asks to keep it.
    #[default]
    Auto,
    /// Always, also a box that existed before.
    Always,
    /// When the run succeeds.
    Success,
    /// When the run fails.
    Failure,
    /// Never.
    Never,
}

impl StopAfter {
    /// The word used in flags and output.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Always => "always",
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Never => "never",
        }
    }
}

/// What a run executes.
#[derive(Clone, Debug, Default)]
pub enum CommandSource {
    /// Nothing; only with [`RunRequest::sync_only`].
    #[default]
    None,
    /// Program and arguments. One word with shell characters, or several with shell operators among them, are evaluated by
    /// the box's shell, as the specification of the command line says.
    Words(Vec<String>),
    /// Words joined with spaces and evaluated by the box's shell.
    Shell(Vec<String>),
    /// A script file of this machine and its arguments.
    ScriptFile {
        /// The script.
        path: PathBuf,
        /// Its arguments.
        args: Vec<String>,
    },
    /// A script in memory and its arguments.
    ScriptBytes {
        /// The script.
        script: Bytes,
        /// Its arguments.
        args: Vec<String>,
    },
    /// A script that is read when nothing speaks against the run any more, and its arguments.
    ScriptReader {
        /// Where the script comes from.
        script: ScriptReader,
        /// Its arguments.
        args: Vec<String>,
    },
}

/// Reads a script, such as one from standard input, at most once per run. It may wait for whoever writes the script.
#[derive(Clone)]
pub struct ScriptReader(Arc<dyn Fn() -> Result<Bytes> + Send + Sync>);

impl ScriptReader {
    /// Reads by calling `read`.
    pub fn new(read: impl Fn() -> Result<Bytes> + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }

    pub(crate) fn read(&self) -> Result<Bytes> {
        (self.0)()
    }
}

impl std::fmt::Debug for ScriptReader {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("ScriptReader")
    }
}

/// Asks for one run. Everything about the box that is not here comes from the engine's config.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct RunRequest {
    /// What to execute.
    pub command: CommandSource,
    /// An existing lease: id or slug.
    pub id: Option<String>,
    /// Slug for a new lease.
    pub slug: Option<String>,
    /// Do not release a box that this run creates.
    pub keep: bool,
    /// Do not release it when the run fails.
    pub keep_on_failure: bool,
    /// Final release policy.
    pub stop_after: StopAfter,
    /// Take over a lease that another checkout has claimed.
    pub reclaim: bool,
    /// New idle timeout of an existing lease; one that is created has that of the config.
    pub idle_timeout: Option<Duration>,
    /// Skip sync.
    pub no_sync: bool,
    /// Only sync.
    pub sync_only: bool,
    /// Empty the workspace first.
    pub full_resync: bool,
    /// Compare contents instead of size and time.
    pub checksum: Option<bool>,
    /// Pass the size guardrails.
    pub force_sync_large: bool,
    /// More about sync in events.
    pub debug: bool,
    /// Names or `PREFIX*` added to the environment allowlist.
    pub allow_env: Vec<String>,
    /// Dotenv-style files of this machine.
    pub env_from_profile: Vec<PathBuf>,
    /// Preset of the profile.
    pub preset: Option<String>,
    /// Value of the placeholder `scenario`.
    pub scenario: Option<String>,
    /// Values of other placeholders.
    pub preset_vars: BTreeMap<String, String>,
    /// Look at the box's tools first.
    pub preflight: bool,
    /// Comma-separated tools to look at.
    pub preflight_tools: Option<String>,
    /// JUnit files below the workspace.
    pub junit: Option<Vec<String>>,
    /// Find JUnit files.
    pub results_auto: Option<bool>,
    /// Failing tests make a successful command fail.
    pub fail_on_test_failures: Option<bool>,
    /// Standard output goes to this file only.
    pub capture_stdout: Option<PathBuf>,
    /// Standard error goes to this file only.
    pub capture_stderr: Option<PathBuf>,
    /// Recorded, changes nothing: bundles are always written on failure.
    pub capture_on_fail: bool,
    /// Files to fetch after success, each `remote=local`.
    pub downloads: Vec<String>,
    /// Where to write the session handle.
    pub lease_output: Option<PathBuf>,
    /// Where to append the timing record.
    pub timing_record: Option<PathBuf>,
    /// Label of the run record.
    pub label: Option<String>,
    /// Absolute workspace on the box, when it is not the canonical one.
    pub workdir: Option<String>,
    /// Forward standard input to the command.
    pub stdin: Option<Bytes>,
}

impl RunRequest {
    /// A run of a program and its arguments.
    pub fn command<S: Into<String>>(words: impl IntoIterator<Item = S>) -> Self {
        Self {
            command: CommandSource::Words(words.into_iter().map(Into::into).collect()),
            ..Self::default()
        }
    }
}

/// How a run ended. There is one as soon as anything was created or touched; refusals before that are errors.
#[derive(Debug)]
#[non_exhaustive]
pub struct RunOutcome {
    /// Exit status for the process.
    pub exit_code: u8,
    /// Whose it is.
    pub exit_source: ExitSource,
    /// The run record.
    pub run: RunId,
    /// The box, once there was one.
    pub lease: Option<LeaseInfo>,
    /// Workspace on the box; what `--sync-only` prints.
    pub workdir: Option<String>,
    /// Times and verdicts, for `--timing-json`.
    pub timing: TimingReport,
    /// Test results, if any were collected.
    pub results: Option<Summary>,
    /// Hash of the tree that the command saw.
    pub executed_tree: Option<String>,
    /// Failure bundle, if one was written.
    pub bundle: Option<PathBuf>,
    /// Whether the box was given back.
    pub released: bool,
    /// What failed besides the command, or instead of it.
    pub error: Option<Error>,
}
