//! Requests and outcomes of checkpoints and forks.

use crabbox_core::{CheckpointId, Error, LeaseId, Slug};
use crabbox_state::checkpoints::CheckpointRecord;

use crate::event::LeaseInfo;

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

/// A box that was put back to a checkpoint.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RestoreOutcome {
    /// The checkpoint.
    pub record: CheckpointRecord,
    /// The box.
    pub lease: LeaseId,
    /// Workspace on the box.
    pub workdir: String,
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
    /// Provider of the box.
    pub provider: String,
    /// The provider's resource that the box is made from; empty for an archive.
    pub resource: String,
    /// Slug that was asked for.
    pub slug: Option<Slug>,
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
