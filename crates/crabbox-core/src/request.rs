//! What the engine asks of a backend, and what it gets back.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::id::{CheckpointId, LeaseId, Slug};
use crate::labels::Labels;
use crate::machine::ResourceId;
use crate::spec::{Egress, IsolationLevel, Persistence, Target, TtlEnforcement};

/// What a profile demands of a box. A provider that cannot honour it is refused before anything is paid for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Requirements {
    /// Weakest isolation that will do.
    pub isolation: Option<IsolationLevel>,
    /// Widest egress that will do; also what the box is asked to have.
    pub egress: Option<Egress>,
    /// Shortest persistence that will do.
    pub persistence: Option<Persistence>,
    /// Weakest enforcement of the time to live that will do.
    pub ttl: Option<TtlEnforcement>,
}

/// Asks for exactly one machine. The engine has allocated every name in it and written them down durably.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CreateLease {
    /// Lease identity.
    pub lease: LeaseId,
    /// Friendly name.
    pub slug: Slug,
    /// Name for the resource: `crabbox-<slug>-<8 hex>`.
    pub name: String,
    /// Token of this create attempt; also the label [`ATTEMPT`](crate::labels::ATTEMPT).
    pub attempt: String,
    /// Labels to put on the resource when it is created, not after.
    pub labels: Labels,
    /// Operating system.
    pub target: Target,
    /// Class name, to be mapped by the class table.
    pub class: String,
    /// Exact machine type, which overrides the class.
    pub server_type: Option<String>,
    /// Longest life; zero means that only idleness ends the box.
    pub ttl: Duration,
    /// Longest idle time.
    pub idle_timeout: Duration,
    /// Whether the box outlives the command that created it.
    pub keep: bool,
    /// Public half of the lease's SSH key in OpenSSH format, for providers reached over SSH.
    pub ssh_public_key: Option<String>,
    /// What the profile demands.
    pub requirements: Requirements,
    /// Start from this checkpoint instead of an image.
    pub restore_from: Option<NativeCheckpoint>,
}

impl CreateLease {
    /// A request with the names that every provider needs and default times.
    pub fn new(lease: LeaseId, slug: Slug, attempt: impl Into<String>, labels: Labels, target: Target) -> Self {
        Self {
            name: lease.resource_name(Some(&slug)),
            lease,
            slug,
            attempt: attempt.into(),
            labels,
            target,
            class: String::new(),
            server_type: None,
            ttl: crate::labels::DEFAULT_TTL,
            idle_timeout: crate::labels::DEFAULT_IDLE_TIMEOUT,
            keep: false,
            ssh_public_key: None,
            requirements: Requirements::default(),
            restore_from: None,
        }
    }
}

/// Asks for machines.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct ListQuery {
    /// Also machines that Crabbox did not make.
    pub all: bool,
    /// Past every cache.
    pub refresh: bool,
}

impl ListQuery {
    /// Every machine that Crabbox made, past every cache.
    pub fn refreshed() -> Self {
        Self {
            all: false,
            refresh: true,
        }
    }
}

/// How closely [`Backend::doctor`](crate::backend::Backend::doctor) looks.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct Probe {
    /// Also check what costs time, such as reaching machines. Never what costs money.
    pub deep: bool,
}

/// Verdict of one check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckStatus {
    /// Fine.
    Ok,
    /// Works, but not as well as it could.
    Warning,
    /// Something needed is not there.
    Missing,
    /// Broken.
    Failed,
}

impl CheckStatus {
    /// Whether `doctor` exits 1 because of it.
    pub const fn is_problem(self) -> bool {
        matches!(self, Self::Missing | Self::Failed)
    }
}

/// One thing that `doctor` looked at.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// Short name, such as `user-namespaces`.
    pub check: String,
    /// Verdict.
    pub status: CheckStatus,
    /// What was seen and, unless it is fine, the cure.
    pub message: String,
    /// Facts, never secrets.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub details: BTreeMap<String, String>,
}

impl Check {
    /// A check without details.
    pub fn new(check: impl Into<String>, status: CheckStatus, message: impl Into<String>) -> Self {
        Self {
            check: check.into(),
            status,
            message: message.into(),
            details: BTreeMap::new(),
        }
    }
}

/// What a provider says about its own readiness.
#[derive(Clone, Debug, Default, Serialize)]
pub struct DoctorReport {
    /// Checks, most basic first.
    pub checks: Vec<Check>,
}

/// A vendor's own snapshot or image of a box.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
pub struct NativeCheckpoint {
    /// Provider name.
    pub provider: String,
    /// What kind it is, such as `docker-commit`.
    pub kind: String,
    /// Identity at the provider.
    pub image_id: String,
    /// Name at the provider.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// State at the provider.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub state: String,
    /// Size in bytes, 0 if unknown.
    #[serde(skip_serializing_if = "is_zero")]
    pub size_bytes: u64,
    /// Further facts the provider needs to find it again.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl NativeCheckpoint {
    /// A ready checkpoint.
    pub fn new(provider: impl Into<String>, kind: impl Into<String>, image_id: impl Into<String>) -> Self {
        Self {
            provider: provider.into(),
            kind: kind.into(),
            image_id: image_id.into(),
            state: "ready".into(),
            ..Self::default()
        }
    }
}

/// Asks for a checkpoint of a box.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CreateCheckpoint {
    /// Its identity, already reserved in the local store.
    pub id: CheckpointId,
    /// Name for people.
    pub name: String,
    /// Absolute directory of the workspace on the box.
    pub workdir: crate::remote::RemotePath,
}

impl CreateCheckpoint {
    /// A request.
    pub fn new(id: CheckpointId, name: impl Into<String>, workdir: crate::remote::RemotePath) -> Self {
        Self {
            id,
            name: name.into(),
            workdir,
        }
    }
}

/// What one look at a vendor's snapshot showed.
#[derive(Debug)]
pub enum CheckpointObserved {
    /// It is there, in this state.
    Present(NativeCheckpoint),
    /// It is gone, by an authoritative answer.
    Absent,
    /// Nobody can tell.
    Unknown(crate::error::Error),
}

/// Where the engine's record of an operation is kept while a backend works.
///
/// A backend tells the journal what it created as soon as the vendor reveals it. The record is durable when the call
/// returns, so that a crash right after still leaves enough to find the resource again.
#[async_trait::async_trait]
pub trait Journal: Send {
    /// Records the identity of the resource that this attempt created.
    async fn resource_known(&mut self, resource: &ResourceId) -> Result<()>;

    /// Records a fact that the backend needs to undo or finish this attempt, such as an operation id.
    async fn note(&mut self, key: &str, value: &str) -> Result<()>;
}

/// A machine type with its price, as a vendor lists it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SizeEntry {
    /// Name to use with `--type`.
    pub name: String,
    /// Virtual processors.
    pub vcpu: u32,
    /// Memory in GB.
    pub ram_gb: f64,
    /// Disk in GB.
    pub disk_gb: u32,
    /// Regions that have it.
    pub regions: Vec<String>,
    /// Price of an hour in millionths of the vendor's currency unit.
    pub price_per_hour_micro: Option<u64>,
}

/// A port of a box that can be reached from outside.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PublishedPort {
    /// Port on the box.
    pub port: u16,
    /// Where it can be reached.
    pub url: String,
    /// When it was published, if known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub published_at: Option<Timestamp>,
}
