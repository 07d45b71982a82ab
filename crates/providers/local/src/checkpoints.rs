//! Checkpoints of a workspace: stacks of read-only layers, shared by boxes and other checkpoints.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use async_trait::async_trait;
use crabbox_core::backend::Checkpoints;
use crabbox_core::error::{Error, ErrorKind, IntoError as _, Result};
use crabbox_core::machine::Machine;
use crabbox_core::request::{CheckpointObserved, CreateCheckpoint, NativeCheckpoint};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::backend::Local;
use crate::store::{self, Layers, Store};
use crate::tree::{self, Copied};

/// Most layers under a workspace. Each costs a look-up per missing file; a copy starts over with one.
const MOST_LAYERS: usize = 20;

/// What a checkpoint is made of.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CheckpointRecord {
    /// Name for people.
    pub(crate) name: String,
    /// When it was taken.
    pub(crate) created_at: Timestamp,
    /// Names of layers, newest first.
    pub(crate) layers: Vec<String>,
    /// `layer`, `reflink` or `copy`.
    pub(crate) method: String,
    /// Length of its files in bytes, 0 if nobody counted.
    pub(crate) size_bytes: u64,
}

impl Store {
    /// The record of a checkpoint; `None` when there is none.
    ///
    /// # Errors
    /// `Identity` for an id that none of ours can have.
    pub(crate) fn checkpoint(&self, id: &str) -> Result<Option<CheckpointRecord>> {
        // Ids of checkpoints and boxes have the same alphabet.
        self.directory(id)?;
        store::load(&self.checkpoints(), &format!("{id}.json"))
    }

    /// Layers of every box and checkpoint. The layers must be held.
    fn used_layers(&self) -> Result<BTreeSet<String>> {
        let mut used = BTreeSet::new();
        for id in store::names(&self.boxes())? {
            let layers: Option<Layers> = store::load(&self.boxes().join(id), "layers.json")?;
            used.extend(layers.into_iter().flat_map(|layers| layers.lower));
        }
        for file in store::names(&self.checkpoints())? {
            if !file.starts_with('.') {
                let record: Option<CheckpointRecord> = store::load(&self.checkpoints(), &file)?;
                used.extend(record.into_iter().flat_map(|record| record.layers));
            }
        }
        Ok(used)
    }

    /// Removes layers that nothing uses.
    pub(crate) fn collect_layers(&self) -> Result<()> {
        let present = store::names(&self.layers())?;
        if present.is_empty() {
            return Ok(());
        }
        let _held = self.hold_layers()?;
        let used = self.used_layers()?;
        for name in present.into_iter().filter(|name| !used.contains(name)) {
            let path = self.layers().join(&name);
            tree::remove(&path).or_error(ErrorKind::Other, || format!("remove {}", path.display()))?;
        }
        Ok(())
    }

    /// A box that started from a checkpoint and still needs it.
    fn user_of(&self, checkpoint: &str) -> Result<Option<String>> {
        for id in self.ids()? {
            let layers: Option<Layers> = store::load(&self.boxes().join(&id), "layers.json")?;
            if layers.is_some_and(|layers| layers.checkpoint.as_deref() == Some(checkpoint)) {
                return Ok(Some(id));
            }
        }
        Ok(None)
    }
}

/// The workspace of a new box that starts from a checkpoint, as layers; `copied` when it must be filled by copying.
pub(crate) fn start_from(store: &Store, id: &str, overlay: bool) -> Result<(Layers, Option<String>)> {
    let record = store.checkpoint(id)?.ok_or_else(|| missing(id))?;
    if overlay {
        return Ok((Layers::first(record.layers).of_checkpoint(id), None));
    }
    match record.layers.as_slice() {
        [only] => Ok((Layers::first(Vec::new()), Some(only.clone()))),
        _ => Err(Error::prerequisite(format!(
            "the checkpoint has layers, and this machine cannot combine them now: {id}"
        ))
        .with_hint("`crabbox doctor --provider local` says why overlays do not work here")),
    }
}

/// Fills a plain workspace from a layer.
pub(crate) fn copy_layer(store: &Store, layer: &str, destination: &Path) -> Result<Copied> {
    let source = store.layers().join(layer).join("tree");
    tree::copy(&source, destination).or_error(ErrorKind::Other, || {
        format!("copy the checkpoint from {}", source.display())
    })
}

fn missing(id: &str) -> Error {
    Error::identity(format!("no such checkpoint on this machine: {id}"))
        .with_hint("`crabbox checkpoint list` shows those that are there")
}

fn reference(id: &str) -> NativeCheckpoint {
    NativeCheckpoint::new(crate::SPEC.name, "local-layers", id)
}

fn observed(id: &str, record: &CheckpointRecord) -> NativeCheckpoint {
    let mut checkpoint = reference(id);
    checkpoint.name.clone_from(&record.name);
    checkpoint.size_bytes = record.size_bytes;
    checkpoint.metadata.insert("method".into(), record.method.clone());
    checkpoint
        .metadata
        .insert("layers".into(), record.layers.len().to_string());
    checkpoint
}

#[async_trait]
impl Checkpoints for Local {
    fn preferred(&self) -> bool {
        true
    }

    fn planned(&self, request: &CreateCheckpoint) -> Option<NativeCheckpoint> {
        Some(reference(request.id.as_str()))
    }

    async fn create(&self, machine: &Machine, request: &CreateCheckpoint) -> Result<NativeCheckpoint> {
        let id = request.id.as_str();
        let directory = self.store.directory(&machine.resource.id)?;
        if self.store.checkpoint(id)?.is_some() {
            return Err(Error::identity(format!("the checkpoint is there already: {id}")));
        }
        let layer = format!("layer-{}", crate::token(8));
        let before: Layers =
            store::load(&directory, "layers.json")?.ok_or_else(|| crate::boxes::gone(&machine.resource.id))?;
        // Held until the record names the layer, so that nobody takes it for unused.
        let held = {
            let store = self.store.clone();
            blocking(move || store.hold_layers()).await?
        };
        let mut record = CheckpointRecord {
            name: request.name.clone(),
            created_at: self.runtime.clock.now(),
            layers: Vec::new(),
            method: "layer".into(),
            size_bytes: 0,
        };
        if before.lower.len() < MOST_LAYERS && self.freeze(machine, &directory, &layer).await? {
            record.layers.push(layer);
            record.layers.extend(before.lower);
        } else {
            let copied = self.copy_workspace(machine, &directory, &layer).await?;
            record.layers.push(layer);
            record.size_bytes = copied.bytes;
            let shared = copied.shared > 0 && copied.shared == copied.files;
            record.method = if shared { "reflink" } else { "copy" }.into();
        }
        store::replace(&self.store.checkpoints(), &format!("{id}.json"), &record)?;
        drop(held);
        Ok(observed(id, &record))
    }

    async fn inspect(&self, checkpoint: &NativeCheckpoint) -> Result<CheckpointObserved> {
        Ok(match self.store.checkpoint(&checkpoint.image_id) {
            Ok(Some(record)) => {
                let whole = record
                    .layers
                    .iter()
                    .all(|layer| self.store.layers().join(layer).join("tree").is_dir());
                let mut present = observed(&checkpoint.image_id, &record);
                if !whole {
                    present.state = "failed".into();
                }
                CheckpointObserved::Present(present)
            }
            Ok(None) => CheckpointObserved::Absent,
            Err(error) => CheckpointObserved::Unknown(error),
        })
    }

    async fn restore(&self, machine: &Machine, checkpoint: &NativeCheckpoint) -> Result<()> {
        let directory = self.store.directory(&machine.resource.id)?;
        let held = {
            let store = self.store.clone();
            blocking(move || store.hold_layers()).await?
        };
        let overlay = machine.isolation != crabbox_core::spec::IsolationLevel::None && self.overlay_works().await;
        let (layers, copied) = start_from(&self.store, &checkpoint.image_id, overlay)?;
        let before: Layers =
            store::load(&directory, "layers.json")?.ok_or_else(|| crate::boxes::gone(&machine.resource.id))?;
        match copied {
            None => self.restart(machine, &directory, layers).await?,
            Some(layer) => self.restart_from_copy(machine, &directory, &before, layer).await?,
        }
        drop(held);
        let store = self.store.clone();
        blocking(move || store.collect_layers()).await
    }

    async fn delete(&self, checkpoint: &NativeCheckpoint) -> Result<()> {
        let (store, id) = (self.store.clone(), checkpoint.image_id.clone());
        blocking(move || {
            let path = store.checkpoints().join(format!("{id}.json"));
            if store.checkpoint(&id)?.is_none() {
                return Ok(());
            }
            {
                let _held = store.hold_layers()?;
                if let Some(user) = store.user_of(&id)? {
                    return Err(
                        Error::identity(format!("a box still needs the checkpoint {id}: {user}"))
                            .with_hint("stop the box first; `crabbox list --provider local` shows it"),
                    );
                }
                fs::remove_file(&path).or_error(ErrorKind::Other, || format!("remove {}", path.display()))?;
            }
            store.collect_layers()
        })
        .await
    }
}

/// Runs work on files without holding up the runtime.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .or_error(ErrorKind::Other, || "work with files".to_owned())?
}
