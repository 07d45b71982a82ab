//! What is left of a checkpoint, here and at its provider.

use crabbox_core::request::CheckpointObserved;
use crabbox_core::{CheckpointId, Error, Result};
use crabbox_state::checkpoints::CheckpointRecord;
use serde::Serialize;

use super::{ARCHIVE, RECIPE, native};
use crate::engine::Engine;

/// What is left of a checkpoint and what to do about it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckpointAudit {
    /// The record.
    pub record: CheckpointRecord,
    /// State of what is on this machine: `available`, `missing_archive`, `invalid_archive`, `metadata_only`,
    /// `metadata_available`.
    pub local_state: &'static str,
    /// State at the provider: `not_applicable`, `missing_ref`, `missing`, `unknown` or the provider's own word.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub provider_state: String,
    /// What to do, such as `restore_or_fork`, `delete_local` or `check_auth_or_provider`.
    pub next_action: &'static str,
    /// Why nobody can tell.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub error: String,
}

impl Engine {
    /// Looks at a checkpoint, also at its provider when `verify` is set.
    ///
    /// # Errors
    /// `Identity` when there is no such checkpoint.
    pub async fn checkpoint_inspect(&self, id: &CheckpointId, verify: bool) -> Result<CheckpointAudit> {
        let record = self.checkpoints().require(id)?;
        self.checkpoint_audit(record, verify).await
    }

    /// Looks at what is left of a record.
    ///
    /// # Errors
    /// None but those of the record itself; what the provider says is in the audit.
    pub async fn checkpoint_audit(&self, record: CheckpointRecord, verify: bool) -> Result<CheckpointAudit> {
        let not_applicable = || "not_applicable".to_owned();
        let (local_state, provider_state, next_action, error) = match record.kind.as_str() {
            RECIPE => ("metadata_only", not_applicable(), "inspect", String::new()),
            ARCHIVE => match std::fs::symlink_metadata(self.checkpoints().archive_path(&record.id.parse()?)) {
                Ok(metadata) if metadata.is_file() => ("available", not_applicable(), "restore_or_fork", String::new()),
                Ok(_) => ("invalid_archive", not_applicable(), "delete_or_recreate", String::new()),
                Err(_) => ("missing_archive", not_applicable(), "delete_or_recreate", String::new()),
            },
            _ if record.native.image_id.is_empty() => (
                "metadata_available",
                "missing_ref".to_owned(),
                "delete_local",
                String::new(),
            ),
            _ if !verify => (
                "metadata_available",
                record.native.state.clone(),
                "fork_or_delete",
                String::new(),
            ),
            _ => {
                let (state, action, error) = match self.observe(&record).await {
                    Ok(CheckpointObserved::Present(native)) => {
                        (native.state.clone(), action(&native.state), String::new())
                    }
                    Ok(CheckpointObserved::Absent) => ("missing".to_owned(), "delete_local", String::new()),
                    Ok(CheckpointObserved::Unknown(error)) | Err(error) => {
                        ("unknown".to_owned(), cure(&error), error.to_string())
                    }
                };
                ("metadata_available", state, action, error)
            }
        };
        Ok(CheckpointAudit {
            record,
            local_state,
            provider_state,
            next_action,
            error,
        })
    }

    async fn observe(&self, record: &CheckpointRecord) -> Result<CheckpointObserved> {
        let backend = self.backend_of(record)?;
        let capability = backend
            .checkpoints()
            .ok_or_else(|| super::no_native(&record.provider))?;
        self.unless_cancelled(capability.inspect(&native(record))).await
    }
}

fn action(state: &str) -> &'static str {
    match state {
        "available" | "ready" | "succeeded" | "completed" => "fork_or_delete",
        "failed" | "invalid" => "delete",
        _ => "wait_or_delete",
    }
}

fn cure(error: &Error) -> &'static str {
    match error.kind() {
        crabbox_core::ErrorKind::Usage => "check_config",
        crabbox_core::ErrorKind::Readiness => "check_runtime",
        _ => "check_auth_or_provider",
    }
}
