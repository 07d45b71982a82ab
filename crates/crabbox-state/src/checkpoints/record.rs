//! The shape of a checkpoint record.

use std::collections::BTreeMap;

use crabbox_core::CheckpointId;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::time::seconds;

/// What is known about one checkpoint. Times are RFC 3339, UTC, seconds. Empty fields are left out, except the id, the
/// kind and the times; fields of other versions survive.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
pub struct CheckpointRecord {
    /// Identity; equals the directory's name.
    pub id: String,
    /// The caller's name for it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Such as `workspace-archive` or `recipe`.
    pub kind: String,
    /// When it was made.
    pub created_at: String,
    /// When it was last restored or forked.
    pub last_used_at: String,
    /// Version that made it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub crabbox_version: String,
    /// Canonical provider name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub provider: String,
    /// Lease it was made of.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub lease_id: String,
    /// Friendly name of that lease.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub slug: String,
    /// Target system.
    #[serde(rename = "targetOS", skip_serializing_if = "String::is_empty")]
    pub target_os: String,
    /// Windows mode.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub windows_mode: String,
    /// Provider's machine type.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub server_type: String,
    /// Host the machine is bound to.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub host_id: String,
    /// Directory on the box.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub workdir: String,
    /// Bare file name of the archive.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub archive_path: String,
    /// Whether the box had a desktop.
    #[serde(skip_serializing_if = "is_false")]
    pub desktop: bool,
    /// Size of the archive in bytes.
    #[serde(skip_serializing_if = "is_zero")]
    pub archive_bytes: i64,
    /// The provider's image or snapshot.
    pub native: NativeCheckpoint,
    /// The checkout it was made of.
    pub repo: CheckpointRepo,
    /// Fields of other versions.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

/// An image or snapshot at the provider.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
pub struct NativeCheckpoint {
    /// Canonical provider name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub provider: String,
    /// Provider's id of the image.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub image_id: String,
    /// Provider's kind of image.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// Name at the provider.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// State at the provider when it was last looked at.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub state: String,
    /// Region.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub region: String,
    /// Account that owns it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub account_id: String,
    /// Project that owns it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub project: String,
    /// Resource it was made of, or is.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub resource: String,
    /// Processor architecture.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub architecture: String,
    /// Snapshots that belong to the image.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub snapshot_ids: Vec<String>,
    /// Whether it was made without a coordinator.
    #[serde(skip_serializing_if = "is_false")]
    pub direct: bool,
    /// Whether the machine kept running.
    #[serde(skip_serializing_if = "is_false")]
    pub no_reboot: bool,
    /// `disk-snapshot` or `image`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub strategy: String,
    /// What only the provider understands.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// Fields of other versions.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

/// The checkout of a checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
pub struct CheckpointRepo {
    /// Absolute root.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub root: String,
    /// Name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Where it came from.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub remote_url: String,
    /// Commit.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub head: String,
    /// Branch or commit that changes are measured against.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub base_ref: String,
    /// Fields of other versions.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

impl CheckpointRecord {
    /// Makes the record of a new checkpoint.
    pub fn new(id: &CheckpointId, kind: impl Into<String>, now: Timestamp) -> Self {
        Self {
            id: id.to_string(),
            kind: kind.into(),
            created_at: seconds(now),
            last_used_at: seconds(now),
            ..Self::default()
        }
    }

    /// Whether a resource at the provider is known, so that the record must not be lost.
    pub fn has_native_resource(&self) -> bool {
        !self.native.image_id.is_empty()
    }

    /// When it was made, if the record says so.
    pub fn created(&self) -> Option<Timestamp> {
        self.created_at.parse().ok()
    }

    /// When it was last restored or forked, if the record says so.
    pub fn last_used(&self) -> Option<Timestamp> {
        self.last_used_at.parse().ok()
    }
}

fn is_zero(number: &i64) -> bool {
    *number == 0
}

fn is_false(value: &bool) -> bool {
    !*value
}
