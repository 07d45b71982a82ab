//! The shapes of runs and events, which are those of the coordinator.

use crabbox_core::RunId;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::time::{millis, optional_millis};

/// How a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunState {
    /// Its client works on it.
    Running,
    /// The command ended with status 0.
    Succeeded,
    /// The command ended otherwise, or the run ended without it.
    Failed,
}

impl RunState {
    /// The name, as in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
        }
    }
}

/// One recorded run. Empty optional fields are left out; fields of other versions survive.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct RunRecord {
    /// Identity.
    pub id: RunId,
    /// Lease that ran it; empty before there is one.
    #[serde(rename = "leaseID", default)]
    pub lease_id: String,
    /// Every lease it used, when a lease was replaced.
    #[serde(rename = "leaseIDs", default, skip_serializing_if = "Vec::is_empty")]
    pub lease_ids: Vec<String>,
    /// Friendly name of the lease.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub slug: String,
    /// Who ran it.
    #[serde(default)]
    pub owner: String,
    /// Organisation of the owner.
    #[serde(default)]
    pub org: String,
    /// Owners of the leases.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lease_owners: Vec<String>,
    /// Canonical provider name.
    #[serde(default)]
    pub provider: String,
    /// Target system.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub target: String,
    /// Windows mode.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub windows_mode: String,
    /// Machine class.
    #[serde(default)]
    pub class: String,
    /// Provider's machine type.
    #[serde(default)]
    pub server_type: String,
    /// The command as it was given.
    #[serde(default)]
    pub command: Vec<String>,
    /// The caller's words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub label: String,
    /// How the run stands.
    pub state: RunState,
    /// The step it is in, or ended in.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub phase: String,
    /// Exit status of the command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Whose status that is: the command's or ours.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub exit_source: String,
    /// Milliseconds of syncing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sync_ms: Option<u64>,
    /// Milliseconds of the command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command_ms: Option<u64>,
    /// Milliseconds from start to end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
    /// Bytes of the log that are kept.
    #[serde(default)]
    pub log_bytes: u64,
    /// Whether the log's beginning was dropped.
    #[serde(default)]
    pub log_truncated: bool,
    /// The step that blocked the run.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub blocked_stage: String,
    /// Whether trying again may help.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub retry_likely: String,
    /// Summary of the test results: `{format, files, suites, tests, failures, errors, skipped, timeSeconds, failed}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub results: Option<Value>,
    /// Load of the box: `{start?, end?, samples?}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub telemetry: Option<Value>,
    /// When the run began.
    #[serde(with = "millis")]
    pub started_at: Timestamp,
    /// When something last happened.
    #[serde(default, with = "optional_millis", skip_serializing_if = "Option::is_none")]
    pub last_event_at: Option<Timestamp>,
    /// Events so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_count: Option<u64>,
    /// When the run ended.
    #[serde(default, with = "optional_millis", skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// Fields of other versions.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

impl RunRecord {
    /// Makes the record of a run that begins.
    pub fn new(id: RunId, command: Vec<String>, started_at: Timestamp) -> Self {
        Self {
            id,
            lease_id: String::new(),
            lease_ids: Vec::new(),
            slug: String::new(),
            owner: String::new(),
            org: String::new(),
            lease_owners: Vec::new(),
            provider: String::new(),
            target: String::new(),
            windows_mode: String::new(),
            class: String::new(),
            server_type: String::new(),
            command,
            label: String::new(),
            state: RunState::Running,
            phase: "starting".to_owned(),
            exit_code: None,
            exit_source: String::new(),
            sync_ms: None,
            command_ms: None,
            duration_ms: None,
            log_bytes: 0,
            log_truncated: false,
            blocked_stage: String::new(),
            retry_likely: String::new(),
            results: None,
            telemetry: None,
            started_at,
            last_event_at: None,
            event_count: None,
            ended_at: None,
            unknown: Map::new(),
        }
    }

    /// Whether the run used a lease, named by id or slug.
    pub fn used_lease(&self, lease: &str) -> bool {
        self.lease_id == lease || self.slug == lease || self.lease_ids.iter().any(|id| id == lease)
    }
}

/// Something that happened in a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct RunEvent {
    /// The run.
    #[serde(rename = "runID")]
    pub run_id: RunId,
    /// 1, 2, 3, …
    pub seq: u64,
    /// What happened.
    #[serde(flatten)]
    pub input: EventInput,
    /// When.
    #[serde(with = "millis")]
    pub created_at: Timestamp,
}

/// What the caller says about an event. Empty fields are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
pub struct EventInput {
    /// Such as `sync.started`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The step; derived from the type when empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub phase: String,
    /// `stdout` or `stderr`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub stream: String,
    /// Words for a person.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Output of the command, or details.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub data: String,
    /// Lease.
    #[serde(rename = "leaseID", skip_serializing_if = "String::is_empty")]
    pub lease_id: String,
    /// Friendly name of the lease.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub slug: String,
    /// Canonical provider name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub provider: String,
    /// Target system.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub target: String,
    /// Windows mode.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub windows_mode: String,
    /// Machine class.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub class: String,
    /// Provider's machine type.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub server_type: String,
    /// Exit status of the command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
}

impl EventInput {
    /// Makes an event of a type.
    pub fn new(kind: impl Into<String>) -> Self {
        Self {
            kind: kind.into(),
            ..Self::default()
        }
    }

    /// Adds words for a person.
    #[must_use]
    pub fn with_message(mut self, message: impl Into<String>) -> Self {
        self.message = message.into();
        self
    }
}

/// The step that a type of event stands for; `None` leaves the run in the step it is in.
pub fn phase_of(kind: &str) -> Option<&'static str> {
    Some(match kind {
        "run.started" => "starting",
        "leasing.started" | "lease.replace.started" => "leasing",
        "lease.created" | "lease.replace.finished" => "leased",
        "bootstrap.waiting" => "bootstrap",
        "sync.started" => "sync",
        "sync.finished" => "synced",
        "actions.hydrate.started" | "actions.hydrate.failed" | "actions.hydrate.finished" => "hydrate",
        "script.uploaded" => "script",
        "command.started" | "stdout" | "stderr" => "command",
        "lease.released" => "released",
        "run.failed" => "failed",
        _ => return None,
    })
}
