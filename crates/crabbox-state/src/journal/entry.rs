//! One entry of the journal.

use std::collections::BTreeMap;

use crabbox_core::LeaseId;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::process::Client;

/// Version of the format. A higher one is never rewritten by this program.
pub const SCHEMA_VERSION: u32 = 1;

/// How far a lease has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// The provider may have been asked to create something.
    Prepared,
    /// The lease is ready and in use.
    Acquired,
    /// The provider may have been asked to destroy it.
    Releasing,
}

/// What happens to the lease when its client ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Purpose {
    /// It goes with the command it was made for.
    OneShot,
    /// It stays until somebody stops it or it expires.
    Kept,
}

/// The resource at the provider.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
pub struct Resource {
    /// Id or name, opaque here.
    pub id: String,
    /// Identity that is never used again, where `id` is not one.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub immutable_id: String,
    /// Fields of other versions.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

impl Resource {
    /// Names a resource. An empty immutable id means that the provider has none.
    pub fn new(id: impl Into<String>, immutable_id: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            immutable_id: immutable_id.into(),
            unknown: Map::new(),
        }
    }
}

/// What is known about one lease that was asked for and not yet given back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Entry {
    /// [`SCHEMA_VERSION`] of the writer.
    pub schema_version: u32,
    /// 32 hex digits, new with every write.
    pub revision: String,
    /// How far the lease has come.
    pub state: Stage,
    /// The lease; equals the file's stem.
    pub lease_id: LeaseId,
    /// Friendly name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub slug: String,
    /// Canonical provider name.
    pub provider: String,
    /// Account, endpoint or project, opaque here.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub provider_scope: String,
    /// What happens when the client ends.
    pub purpose: Purpose,
    /// Token of the create attempt, `cat_` and 32 hex digits, by which the resource can be found at the provider.
    pub attempt: String,
    /// RFC 3339, UTC, seconds.
    pub created_at: String,
    /// The process that works on the lease.
    pub client: Client,
    /// The resource, once it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<Resource>,
    /// Facts that the provider needs to finish or undo its part.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub notes: BTreeMap<String, String>,
    /// Fields of other versions.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

/// What is about to be asked of a provider.
#[derive(Clone, Debug)]
pub struct Intent {
    /// The new lease.
    pub lease: LeaseId,
    /// Friendly name; may be empty.
    pub slug: String,
    /// Canonical provider name.
    pub provider: String,
    /// Account, endpoint or project; may be empty.
    pub provider_scope: String,
    /// What happens when the client ends.
    pub purpose: Purpose,
    /// Token of the create attempt; see [`random::attempt_token`](crate::random::attempt_token).
    pub attempt: String,
}
