//! Machines as providers report them, and how sure one can be about them.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::id::{LeaseId, Slug};
use crate::labels::Labels;
use crate::spec::{IsolationLevel, Target};

/// Account, endpoint or project that a resource id is unique in; opaque, may be empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Scope(pub String);

impl fmt::Display for Scope {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Identity of a resource at its provider.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ResourceId {
    /// What the provider's API calls the resource; may be a name that can be used again.
    pub id: String,
    /// An id that is never used again, where `id` can be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub immutable: Option<String>,
}

impl ResourceId {
    /// A resource whose id is never used again.
    pub fn new(id: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            immutable: None,
        }
    }

    /// Adds the id that is never used again.
    #[must_use]
    pub fn with_immutable(mut self, immutable: impl Into<String>) -> Self {
        self.immutable = Some(immutable.into());
        self
    }
}

impl fmt::Display for ResourceId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.id)
    }
}

/// State of a machine, in the words of the Go implementation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum MachineState {
    /// Being created.
    Provisioning,
    /// Usable.
    Ready,
    /// Held without processor time.
    Paused,
    /// Switched off; what it wrote is kept.
    Stopped,
    /// Being destroyed.
    Deleting,
    /// Broken; the vendor will not repair it.
    Failed,
}

impl MachineState {
    /// The word used in output.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Provisioning => "provisioning",
            Self::Ready => "ready",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
            Self::Deleting => "deleting",
            Self::Failed => "failed",
        }
    }

    /// Whether waiting longer cannot make it ready.
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Failed | Self::Deleting)
    }
}

impl fmt::Display for MachineState {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.as_str())
    }
}

/// One machine or sandbox as its provider reports it now.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Machine {
    /// Canonical provider name.
    pub provider: String,
    /// Identity at the provider.
    pub resource: ResourceId,
    /// Name at the provider.
    pub name: String,
    /// State now.
    pub state: MachineState,
    /// Labels as the provider stores them.
    pub labels: Labels,
    /// Operating system.
    pub target: Target,
    /// Machine type, empty if the provider has none.
    pub server_type: String,
    /// Processor architecture, such as `amd64`, if known.
    pub architecture: Option<String>,
    /// Public address or name, if it has one.
    pub host: Option<String>,
    /// Private address, if it has one.
    pub private_host: Option<String>,
    /// Region or place, if known.
    pub location: Option<String>,
    /// Isolation that this very box has.
    pub isolation: IsolationLevel,
    /// When it was created, if known.
    pub created_at: Option<Timestamp>,
    /// Absolute directory on the box below which workspaces live.
    pub work_root: String,
    /// Further facts for people, never secrets.
    pub metadata: BTreeMap<String, String>,
}

impl Machine {
    /// A ready machine with the facts that every provider knows.
    pub fn new(provider: impl Into<String>, resource: ResourceId, labels: Labels, target: Target) -> Self {
        Self {
            provider: provider.into(),
            name: resource.id.clone(),
            resource,
            state: MachineState::Ready,
            labels,
            target,
            server_type: String::new(),
            architecture: None,
            host: None,
            private_host: None,
            location: None,
            isolation: IsolationLevel::None,
            created_at: None,
            work_root: String::new(),
            metadata: BTreeMap::new(),
        }
    }

    /// The lease that its labels name.
    pub fn lease(&self) -> Option<LeaseId> {
        self.labels.get("lease")?.parse().ok()
    }

    /// The slug that its labels name.
    pub fn slug(&self) -> Option<Slug> {
        self.labels.get("slug")?.parse().ok()
    }
}

/// What this side recorded about a resource: enough to look at it, never enough to destroy it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Binding {
    /// Canonical provider name.
    pub provider: String,
    /// Account or endpoint.
    pub scope: Scope,
    /// Lease identity.
    pub lease: LeaseId,
    /// Resource identity, unknown when the create call's answer was lost.
    pub resource: Option<ResourceId>,
    /// Token of the create attempt, written as a label; proves ownership when the resource id is unknown.
    pub attempt: Option<String>,
    /// Labels that must still have these values; an empty value must be absent.
    pub required_labels: BTreeMap<String, String>,
}

impl Binding {
    /// A binding of a lease to a resource.
    pub fn new(provider: impl Into<String>, scope: Scope, lease: LeaseId, resource: Option<ResourceId>) -> Self {
        Self {
            provider: provider.into(),
            scope,
            lease,
            resource,
            attempt: None,
            required_labels: BTreeMap::new(),
        }
    }

    /// Adds the token of the create attempt.
    #[must_use]
    pub fn with_attempt(mut self, attempt: Option<String>) -> Self {
        self.attempt = attempt;
        self
    }

    /// Adds labels that must still have these values.
    #[must_use]
    pub fn with_required_labels(mut self, labels: BTreeMap<String, String>) -> Self {
        self.required_labels = labels;
        self
    }
}

/// Why a resource is known to be gone.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Absence {
    /// The provider answered with authority that this id does not exist.
    NotFound,
    /// A complete inventory does not contain it.
    NotInInventory,
    /// Another resource has its name now; the recorded one is gone.
    Replaced {
        /// Identity of the resource that has the name now.
        by: ResourceId,
    },
}

/// What one look at a resource showed.
#[derive(Debug)]
pub enum Observed {
    /// It is there.
    Present(Box<Machine>),
    /// It is gone, and this is the proof.
    Absent(Absence),
    /// Nobody can tell: a timeout, a 5xx, an incomplete list. Never counts as absent.
    Unknown(Error),
}

/// What became of a resource that should be destroyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Destroyed now.
    Deleted,
    /// It was gone already, with proof.
    AlreadyGone,
    /// Switched off but kept; claim and key stay.
    Stopped,
    /// Deliberately kept; claim and key stay.
    Retained,
    /// The provider has accepted the request and is not done; claim and key stay until it is.
    Pending,
}

impl Outcome {
    /// Whether the resource is proven gone, so that claim and key may go.
    pub const fn is_gone(self) -> bool {
        matches!(self, Self::Deleted | Self::AlreadyGone)
    }
}

/// Machines of a provider.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Inventory {
    /// The machines.
    pub machines: Vec<Machine>,
    /// Whether every page was read. An incomplete inventory proves nothing about what it lacks.
    pub complete: bool,
}

impl Inventory {
    /// Every machine there is.
    pub fn complete(machines: Vec<Machine>) -> Self {
        Self {
            machines,
            complete: true,
        }
    }

    /// Some machines, with others possibly missing.
    pub fn incomplete(machines: Vec<Machine>) -> Self {
        Self {
            machines,
            complete: false,
        }
    }
}
