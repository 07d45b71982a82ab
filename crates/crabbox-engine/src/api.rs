//! Requests and outcomes of every workflow.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use crabbox_core::request::{Check, Requirements};
use crabbox_core::{CheckpointId, Error, LeaseId, LeaseView, Outcome, RunId, Slug, StatusView};
use crabbox_evidence::junit::Summary;
pub use crabbox_evidence::timing::ExitSource;
use crabbox_evidence::timing::TimingReport;
use serde::Serialize;

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

/// Asks for a box without a command.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct WarmupRequest {
    /// Slug for the lease.
    pub slug: Option<String>,
    /// Whether automatic cleanup must leave it alone until it expires or is stopped.
    pub keep: bool,
    /// Take over a lease that another checkout has claimed.
    pub reclaim: bool,
}

impl Default for WarmupRequest {
    fn default() -> Self {
        Self {
            slug: None,
            keep: true,
            reclaim: false,
        }
    }
}

/// A warm box.
#[derive(Debug)]
#[non_exhaustive]
pub struct WarmupOutcome {
    /// The box.
    pub lease: LeaseInfo,
    /// Times, for `--timing-json`.
    pub timing: TimingReport,
}

/// Asks for the selected provider's boxes.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ListRequest {
    /// Also what Crabbox did not make.
    pub all: bool,
    /// Past every cache.
    pub refresh: bool,
    /// Only this peer group.
    pub pond: Option<String>,
}

/// Boxes of a provider.
#[derive(Debug)]
#[non_exhaustive]
pub struct ListOutcome {
    /// The boxes.
    pub leases: Vec<LeaseView>,
    /// Whether every page was read.
    pub complete: bool,
}

/// Asks for one box's state.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct StatusRequest {
    /// Lease id or slug.
    pub id: String,
    /// Look again until it is ready; each look is handed to `on_look`.
    pub wait: Option<Duration>,
}

/// Asks for a box's end.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct StopRequest {
    /// Lease id or slug.
    pub id: String,
    /// Take over a resource without a claim first.
    pub reclaim: bool,
}

/// What became of a box.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct StopOutcome {
    /// Lease identity.
    pub lease: LeaseId,
    /// Friendly name.
    pub slug: Option<Slug>,
    /// Canonical provider name.
    pub provider: String,
    /// Resource id at the provider.
    pub server: String,
    /// Name at the provider.
    pub name: String,
    /// What happened.
    pub outcome: Outcome,
}

/// One thing that cleanup looked at.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct CleanupItem {
    /// `delete` or `skip`; with `--dry-run` what would be done.
    pub action: &'static str,
    /// Canonical provider name.
    pub provider: String,
    /// Resource id at the provider; `-` when the record names none.
    pub server: String,
    /// Name at the provider.
    pub name: String,
    /// Lease, if known.
    pub lease: Option<LeaseId>,
    /// Why.
    pub reason: String,
    /// Why it did not work, if it did not.
    #[serde(skip)]
    pub error: Option<Error>,
}

/// What cleanup did or would do.
#[derive(Debug, Default, Serialize)]
#[non_exhaustive]
pub struct CleanupReport {
    /// Everything it looked at.
    pub items: Vec<CleanupItem>,
}

/// What `heartbeat` shows.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct HeartbeatView {
    /// Lease identity.
    pub id: String,
    /// Friendly name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slug: Option<String>,
    /// Canonical provider name.
    pub provider: String,
    /// State now.
    pub state: String,
    /// Last use, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_touched_at: Option<String>,
    /// Longest idle time, Go text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<String>,
    /// When it expires, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
}

/// How to take a checkpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CheckpointMode {
    /// The provider's own if it prefers that, an archive otherwise.
    #[default]
    Auto,
    /// The provider's own.
    Native,
    /// An archive of the workspace on this machine.
    Archive,
    /// Only the record: which checkout, where.
    Recipe,
}

/// Asks for a checkpoint of a box.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct CheckpointCreateRequest {
    /// Lease id or slug.
    pub id: String,
    /// Name for people.
    pub name: Option<String>,
    /// How.
    pub mode: CheckpointMode,
    /// Workspace on the box, when it is not the canonical one.
    pub workdir: Option<String>,
    /// Take over a lease that another checkout has claimed.
    pub reclaim: bool,
}

/// Asks for a box to be put back to a checkpoint.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CheckpointRestoreRequest {
    /// The checkpoint.
    pub checkpoint: CheckpointId,
    /// Lease id or slug.
    pub id: String,
    /// Workspace on the box, when it is not the canonical one.
    pub workdir: Option<String>,
    /// Empty the workspace first.
    pub clear: bool,
    /// Only say what would be done.
    pub dry_run: bool,
    /// Take over a lease that another checkout has claimed.
    pub reclaim: bool,
}

impl CheckpointRestoreRequest {
    /// Restores a checkpoint into a lease, emptying its workspace first.
    pub fn new(checkpoint: CheckpointId, id: impl Into<String>) -> Self {
        Self {
            checkpoint,
            id: id.into(),
            workdir: None,
            clear: true,
            dry_run: false,
            reclaim: false,
        }
    }
}

/// Asks for new boxes from a checkpoint.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CheckpointForkRequest {
    /// The checkpoint.
    pub checkpoint: CheckpointId,
    /// How many.
    pub count: usize,
    /// Slug; numbered when there are several.
    pub slug: Option<String>,
    /// Command for each, with placeholders `{{index}} {{total}} {{lease}} {{slug}}`.
    pub command: Vec<String>,
    /// Keep the boxes afterwards.
    pub keep: bool,
    /// Workspace on the box, when it is not the canonical one.
    pub workdir: Option<String>,
    /// Only say what would be done.
    pub dry_run: bool,
}

impl CheckpointForkRequest {
    /// One kept box from a checkpoint, without a command.
    pub fn new(checkpoint: CheckpointId) -> Self {
        Self {
            checkpoint,
            count: 1,
            slug: None,
            command: Vec::new(),
            keep: true,
            workdir: None,
            dry_run: false,
        }
    }
}

/// One box made from a checkpoint.
#[derive(Debug)]
#[non_exhaustive]
pub struct ForkOutcome {
    /// 1-based index.
    pub index: usize,
    /// The box, unless it could not be made.
    pub lease: Option<LeaseInfo>,
    /// Workspace on the box.
    pub workdir: String,
    /// Command as it was run, for people; empty without one.
    pub command: String,
    /// Exit status of the command, if one ran.
    pub exit_code: Option<i32>,
    /// What failed.
    pub error: Option<Error>,
}

/// Asks for files to be copied between this machine and a box.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CopyRequest {
    /// Lease id or slug.
    pub id: String,
    /// What to copy.
    pub source: CopyPath,
    /// Where to.
    pub destination: CopyPath,
    /// Follow symbolic links of this machine.
    pub follow_links: bool,
}

impl CopyRequest {
    /// A copy that keeps symbolic links.
    pub fn new(id: impl Into<String>, source: CopyPath, destination: CopyPath) -> Self {
        Self {
            id: id.into(),
            source,
            destination,
            follow_links: false,
        }
    }
}

/// One side of a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CopyPath {
    /// A path of this machine.
    Here(PathBuf),
    /// A path of the box: absolute, or relative to the workspace.
    Box(String),
}

/// What a copy moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct CopyOutcome {
    /// Regular files.
    pub files: u64,
    /// Bytes.
    pub bytes: u64,
}

/// Asks for a check of this machine and the selected provider.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct DoctorRequest {
    /// Every provider of this build.
    pub all: bool,
    /// Also what costs time.
    pub deep: bool,
}

/// What `doctor` found about this machine and one provider.
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct DoctorOutcome {
    /// No check is `missing` or `failed`.
    pub ok: bool,
    /// Canonical provider name; empty when none is selected.
    pub provider: String,
    /// The checks.
    pub checks: Vec<Check>,
}

/// One lease for which this machine has a claim, resolved to a box.
#[derive(Debug)]
#[non_exhaustive]
pub struct InspectOutcome {
    /// What `status` shows.
    pub status: StatusView,
    /// What the profile demands.
    pub requirements: Requirements,
}
