//! Requests and outcomes of every workflow.

mod checkpoint;
mod run;

use std::path::PathBuf;
use std::time::Duration;

use crabbox_core::request::Check;
use crabbox_core::{Error, LeaseId, LeaseView, Outcome, Slug};
use crabbox_evidence::timing::TimingReport;
use serde::Serialize;

pub use checkpoint::{
    CheckpointCreateRequest, CheckpointForkRequest, CheckpointMode, CheckpointRestoreRequest, ForkOutcome,
    RestoreOutcome,
};
pub use run::{CommandSource, ExitSource, RunOutcome, RunRequest, ScriptReader, StopAfter};

use crate::event::LeaseInfo;

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
