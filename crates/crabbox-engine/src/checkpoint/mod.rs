//! Checkpoints: create, list, inspect, restore, delete, prune. Forks are in [`fork`].

mod archive;
mod audit;
mod fork;

use std::sync::Arc;
use std::time::Duration;

use crabbox_core::remote::{ExecRequest, RemotePath};
use crabbox_core::request::{CreateCheckpoint, NativeCheckpoint};
use crabbox_core::{Backend, CheckpointId, Error, Result};
use crabbox_state::checkpoints::{CheckpointRecord, CheckpointRepo};
use crabbox_state::random;

pub use audit::CheckpointAudit;
pub use fork::ForkOutput;

use crate::api::{CheckpointCreateRequest, CheckpointMode, CheckpointRestoreRequest, RestoreOutcome};
use crate::checkout::Checkout;
use crate::engine::Engine;
use crate::lease::Lease;

/// Kind of a checkpoint whose workspace is an archive on this machine.
const ARCHIVE: &str = "workspace-archive";

/// State of a provider's checkpoint from the moment that it may exist until it is known to.
const CREATING: &str = "creating";

/// Kind of a checkpoint that is only a record.
const RECIPE: &str = "recipe";

impl Engine {
    /// Takes a checkpoint of a box's workspace.
    ///
    /// # Errors
    /// `Usage` when the provider has no checkpoints of its own and they were asked for; `Remote` when the box fails. Then
    /// the reserved record is gone again, unless a resource of the provider is known by then.
    pub async fn checkpoint_create(&self, request: CheckpointCreateRequest) -> Result<CheckpointRecord> {
        let checkout = self.source()?;
        let lease = self.take(&request.id, &checkout.root_text(), request.reclaim).await?;
        let workdir = match &request.workdir {
            Some(path) => path.parse()?,
            None => lease.workdir(checkout.name())?,
        };
        let is_native = native_wanted(&*lease.backend, lease.spec.name, request.mode)?;
        let _workspace = self.lock_workspace(&lease).await?;
        let mut record = self.new_record(&lease, &checkout, &workdir, request.name.unwrap_or_default())?;
        let id = self.checkpoints().reserve(&record)?;
        record.id = id.to_string();
        let filled = match (request.mode, is_native) {
            (CheckpointMode::Recipe, _) => {
                RECIPE.clone_into(&mut record.kind);
                Ok(())
            }
            (_, true) => {
                self.unless_cancelled(self.take_native(&lease, &id, &workdir, &mut record))
                    .await
            }
            (_, false) => {
                self.unless_cancelled(self.take_archive(&lease, &id, &workdir, &mut record))
                    .await
            }
        };
        let written = filled.and_then(|()| self.checkpoints().write(&record));
        if let Err(error) = written {
            // On its own time: a cancelled operation still cleans up after itself.
            if record.native.state == CREATING
                && let Some(capability) = lease.backend.checkpoints()
            {
                match capability.delete(&native(&record)).await {
                    Ok(()) => record.native.image_id.clear(),
                    Err(second) => self.warn(format!("could not undo checkpoint {id}: {second}")),
                }
            }
            if record.native.image_id.is_empty() {
                self.checkpoints().remove(&id)?;
            }
            return Err(error);
        }
        Ok(record)
    }

    fn new_record(
        &self,
        lease: &Lease,
        checkout: &Checkout,
        workdir: &RemotePath,
        name: String,
    ) -> Result<CheckpointRecord> {
        let source = &checkout.source;
        let mut record = CheckpointRecord::new(&random::checkpoint_id()?, ARCHIVE, self.now());
        record.name = name;
        env!("CARGO_PKG_VERSION").clone_into(&mut record.crabbox_version);
        record.provider.clone_from(&lease.info.provider);
        record.lease_id = lease.id().to_string();
        record.slug = lease.info.slug.as_ref().map(ToString::to_string).unwrap_or_default();
        record.target_os = lease.info.target.os.to_string();
        record.windows_mode = lease
            .info
            .target
            .windows_mode
            .map(|mode| mode.to_string())
            .unwrap_or_default();
        record.server_type.clone_from(&lease.info.server_type);
        record.workdir = workdir.to_string();
        let mut repo = CheckpointRepo::default();
        repo.root = checkout.root_text();
        source.name().clone_into(&mut repo.name);
        repo.remote_url = source.remote().map(|remote| remote.address.clone()).unwrap_or_default();
        repo.head = source.head().unwrap_or_default().to_owned();
        repo.base_ref = source.base_ref().unwrap_or_default().to_owned();
        record.repo = repo;
        Ok(record)
    }

    async fn take_native(
        &self,
        lease: &Lease,
        id: &CheckpointId,
        workdir: &RemotePath,
        record: &mut CheckpointRecord,
    ) -> Result<()> {
        let capability = lease.backend.checkpoints().ok_or_else(|| no_native(lease.spec.name))?;
        let request = CreateCheckpoint::new(id.clone(), record.name.clone(), workdir.clone());
        if let Some(planned) = capability.planned(&request) {
            record.kind.clone_from(&planned.kind);
            store_native(record, &planned);
            CREATING.clone_into(&mut record.native.state);
            self.checkpoints().write(record)?;
        }
        let native = capability.create(&lease.machine, &request).await?;
        record.kind.clone_from(&native.kind);
        store_native(record, &native);
        Ok(())
    }

    /// Reads every record, newest first.
    ///
    /// # Errors
    /// When the directory cannot be read. A damaged record is a warning.
    pub fn checkpoint_list(&self) -> Result<Vec<CheckpointRecord>> {
        let (records, problems) = self.checkpoints().list()?;
        for problem in problems {
            self.warn(format!("ignoring a damaged checkpoint: {}", problem.file));
        }
        Ok(records)
    }

    /// Puts a box's workspace back to a checkpoint.
    ///
    /// # Errors
    /// `Usage` when the checkpoint cannot be restored in place; `Identity` when it or the lease does not exist; `Remote`
    /// when the box fails.
    pub async fn checkpoint_restore(&self, request: CheckpointRestoreRequest) -> Result<RestoreOutcome> {
        let mut record = self.checkpoints().require(&request.checkpoint)?;
        let checkout = self.source()?;
        if record.kind == RECIPE {
            return Err(recipe_only(&request.checkpoint));
        }
        let lease = self.take(&request.id, &checkout.root_text(), request.reclaim).await?;
        let workdir = match &request.workdir {
            Some(path) => path.parse()?,
            None => lease.workdir(checkout.name())?,
        };
        let outcome = |record| RestoreOutcome {
            record,
            lease: lease.id().clone(),
            workdir: workdir.to_string(),
        };
        if request.dry_run {
            return Ok(outcome(record));
        }
        let _workspace = self.lock_workspace(&lease).await?;
        let restored = async {
            if record.kind == ARCHIVE {
                return self
                    .restore_archive(&lease, &request.checkpoint, &workdir, request.clear)
                    .await;
            }
            let capability = lease.backend.checkpoints().ok_or_else(|| no_native(lease.spec.name))?;
            if record.provider != lease.info.provider {
                return Err(
                    Error::usage(format!("checkpoint belongs to provider: `{}`", record.provider))
                        .with_hint("fork it instead: `crabbox checkpoint fork`"),
                );
            }
            capability.restore(&lease.machine, &native(&record)).await?;
            self.place(&lease, &record, &workdir).await
        };
        self.unless_cancelled(restored).await?;
        record = self.checkpoints().touch(&request.checkpoint, self.now())?;
        Ok(outcome(record))
    }

    /// Deletes a checkpoint: the provider's resource first, the record only after that succeeded.
    ///
    /// # Errors
    /// `Identity` when there is none; whatever the provider returns.
    pub async fn checkpoint_delete(
        &self,
        id: &CheckpointId,
        local_only: bool,
        dry_run: bool,
    ) -> Result<CheckpointRecord> {
        let record = self.checkpoints().require(id)?;
        if dry_run {
            return Ok(record);
        }
        if !record.native.image_id.is_empty() && !local_only {
            let backend = self.backend_of(&record)?;
            let capability = backend.checkpoints().ok_or_else(|| no_native(&record.provider))?;
            self.unless_cancelled(capability.delete(&native(&record))).await?;
        }
        self.checkpoints().remove(id)?;
        Ok(record)
    }

    /// Deletes checkpoints that are old and unused. Both ages must match where both are given.
    ///
    /// # Errors
    /// `Usage` without a positive age. Stops at the first deletion that fails.
    pub async fn checkpoint_prune(&self, prune: Prune) -> Result<Vec<CheckpointRecord>> {
        let ages = [prune.older_than, prune.unused_for];
        if !ages.iter().flatten().any(|age| !age.is_zero()) {
            return Err(Error::usage("prune needs an age").with_hint("use --older-than or --unused-for, such as 7d"));
        }
        let now = self.now();
        let old = |time: &str, age: Option<Duration>| {
            age.is_none_or(|age| {
                time.parse::<jiff::Timestamp>()
                    .is_ok_and(|time| time.checked_add(age).is_ok_and(|at| at <= now))
            })
        };
        let mut pruned = Vec::new();
        for record in self.checkpoint_list()? {
            let is_native = !record.native.image_id.is_empty();
            let of_kind = prune.native.is_none_or(|wanted| wanted == is_native);
            if !of_kind || !old(&record.created_at, prune.older_than) || !old(&record.last_used_at, prune.unused_for) {
                continue;
            }
            pruned.push(
                self.checkpoint_delete(&record.id.parse()?, prune.local_only, prune.dry_run)
                    .await?,
            );
        }
        Ok(pruned)
    }

    fn backend_of(&self, record: &CheckpointRecord) -> Result<Arc<dyn Backend>> {
        let provider = Arc::clone(self.shared.registry.get(&record.provider)?);
        self.connect(&*provider)
    }

    /// Moves a workspace that a native checkpoint brought to where this lease looks for it.
    async fn place(&self, lease: &Lease, record: &CheckpointRecord, workdir: &RemotePath) -> Result<()> {
        if record.workdir == workdir.as_str() {
            return Ok(());
        }
        let script = r#"if [ -d "$1" ] && [ ! -e "$2" ]; then mkdir -p -- "${2%/*}" && mv -- "$1" "$2"; else mkdir -p -- "$2"; fi"#;
        let request = ExecRequest::script(script, [record.workdir.as_str(), workdir.as_str()]);
        lease.remote()?.output(request).await.map(drop)
    }
}

/// Which checkpoints to delete.
#[derive(Clone, Copy, Debug, Default)]
pub struct Prune {
    /// Age since creation.
    pub older_than: Option<Duration>,
    /// Age since the last use.
    pub unused_for: Option<Duration>,
    /// Only native ones, or only the others.
    pub native: Option<bool>,
    /// Leave the provider's resources alone.
    pub local_only: bool,
    /// Only say what would be done.
    pub dry_run: bool,
}

fn native_wanted(backend: &dyn Backend, provider: &str, mode: CheckpointMode) -> Result<bool> {
    match (mode, backend.checkpoints()) {
        (CheckpointMode::Archive | CheckpointMode::Recipe, _) => Ok(false),
        (CheckpointMode::Auto, capability) => Ok(capability.is_some_and(|capability| capability.preferred())),
        (CheckpointMode::Native, Some(_)) => Ok(true),
        (CheckpointMode::Native, None) => Err(no_native(provider)),
    }
}

fn no_native(provider: &str) -> Error {
    Error::usage(format!("provider has no checkpoints of its own: `{provider}`")).with_hint("use --mode archive")
}

fn recipe_only(id: &CheckpointId) -> Error {
    Error::usage(format!("checkpoint holds no workspace: `{id}`"))
        .with_hint("it is only a record; create one with --mode archive or --mode native")
}

fn store_native(record: &mut CheckpointRecord, native: &NativeCheckpoint) {
    record.native.provider.clone_from(&native.provider);
    record.native.image_id.clone_from(&native.image_id);
    record.native.kind.clone_from(&native.kind);
    record.native.name.clone_from(&native.name);
    record.native.state.clone_from(&native.state);
    record.native.direct = true;
    record.native.metadata.clone_from(&native.metadata);
    record.archive_bytes = i64::try_from(native.size_bytes).unwrap_or(i64::MAX);
}

fn native(record: &CheckpointRecord) -> NativeCheckpoint {
    let stored = &record.native;
    let mut native = NativeCheckpoint::new(&record.provider, &stored.kind, &stored.image_id);
    native.name.clone_from(&stored.name);
    native.state.clone_from(&stored.state);
    native.metadata.clone_from(&stored.metadata);
    native
}
