//! The engine: what every workflow shares.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crabbox_config::Loaded;
use crabbox_core::runtime::Runtime;
use crabbox_core::{Backend, Error, Provider, ProviderSpec, Result, backend};
use crabbox_state::process::Client;
use crabbox_state::{CheckpointStore, ClaimStore, Dirs, Disk, Journal, KeyStore, RunStore};
use tokio_util::sync::CancellationToken;

use crate::event::{Event, EventSink, NoticesAsEvents, Silent};
use crate::registry::Registry;
use crate::step::Step;

/// Everything `crabbox` does, as a library. Cheap to clone; clones share everything.
#[derive(Clone)]
pub struct Engine {
    pub(crate) shared: Arc<Shared>,
}

/// What every workflow shares.
pub(crate) struct Shared {
    pub(crate) registry: Registry,
    pub(crate) config: Loaded,
    pub(crate) runtime: Arc<Runtime>,
    pub(crate) events: Arc<dyn EventSink>,
    pub(crate) directory: PathBuf,
    pub(crate) cancel: CancellationToken,
    pub(crate) stores: Stores,
    /// Whose turn it is to allocate a slug.
    pub(crate) allocation: tokio::sync::Mutex<()>,
}

/// What stays on this machine.
pub(crate) struct Stores {
    /// Claims, flushed to disk before the effect they announce.
    pub(crate) claims: ClaimStore,
    /// Claims of boxes that end with this machine's power.
    pub(crate) quick_claims: ClaimStore,
    /// The journal, flushed to disk before the effect it announces.
    pub(crate) journal: Journal,
    /// The journal of boxes that end with this machine's power.
    pub(crate) quick_journal: Journal,
    pub(crate) keys: KeyStore,
    pub(crate) runs: RunStore,
    pub(crate) checkpoints: CheckpointStore,
    /// For looking whether the state directory can be written.
    pub(crate) probe: Disk,
}

/// Puts an [`Engine`] together.
pub struct EngineBuilder {
    registry: Registry,
    config: Loaded,
    runtime: Runtime,
    events: Arc<dyn EventSink>,
    directory: PathBuf,
    cancel: CancellationToken,
    disk: Disk,
}

impl EngineBuilder {
    /// Takes events.
    #[must_use]
    pub fn events(mut self, events: Arc<dyn EventSink>) -> Self {
        self.events = events;
        self
    }

    /// Ends every workflow in order when it is cancelled: boxes are still given back.
    #[must_use]
    pub fn cancel(mut self, cancel: CancellationToken) -> Self {
        self.cancel = cancel;
        self
    }

    /// Writes through this disk, so that tests can stop before any single effect.
    #[must_use]
    pub fn disk(mut self, disk: Disk) -> Self {
        self.disk = disk;
        self
    }

    /// The engine.
    pub fn build(mut self) -> Engine {
        self.runtime.notices = Arc::new(NoticesAsEvents(Arc::clone(&self.events)));
        let directories = &self.runtime.directories;
        let mut dirs = Dirs::under(&directories.state);
        dirs.config.clone_from(&directories.config);
        dirs.state.clone_from(&directories.state);
        dirs.cache.clone_from(&directories.cache);
        dirs.trusted = trusted(&self.runtime);
        let disk = self.disk;
        let quick = disk.unsynced();
        let clock = Arc::clone(&self.runtime.clock);
        let client = Client::current();
        let stores = Stores {
            claims: ClaimStore::new(&dirs, disk.clone()),
            quick_claims: ClaimStore::new(&dirs, quick.clone()),
            journal: Journal::new(&dirs, disk.clone(), client.clone()),
            quick_journal: Journal::new(&dirs, quick, client.clone()),
            keys: KeyStore::new(&dirs, disk.clone()),
            runs: RunStore::new(&dirs, disk.clone(), client, Arc::new(move || clock.now())),
            probe: disk.clone(),
            checkpoints: CheckpointStore::new(&dirs, disk),
        };
        Engine {
            shared: Arc::new(Shared {
                registry: self.registry,
                config: self.config,
                runtime: Arc::new(self.runtime),
                events: self.events,
                directory: self.directory,
                cancel: self.cancel,
                stores,
                allocation: tokio::sync::Mutex::new(()),
            }),
        }
    }
}

impl Engine {
    /// Starts from providers, config, the outside world and the directory that commands refer to.
    pub fn builder(
        registry: Registry,
        config: Loaded,
        runtime: Runtime,
        directory: impl Into<PathBuf>,
    ) -> EngineBuilder {
        EngineBuilder {
            registry,
            config,
            runtime,
            events: Arc::new(Silent),
            directory: directory.into(),
            cancel: CancellationToken::new(),
            disk: Disk::new(),
        }
    }

    /// The providers of this build.
    pub fn registry(&self) -> &Registry {
        &self.shared.registry
    }

    /// The config.
    pub fn config(&self) -> &Loaded {
        &self.shared.config
    }

    /// The directory that commands refer to.
    pub fn directory(&self) -> &Path {
        &self.shared.directory
    }

    /// Records of runs on this machine.
    pub fn runs(&self) -> &RunStore {
        &self.shared.stores.runs
    }

    /// Claims of this machine.
    pub fn claims(&self) -> &ClaimStore {
        &self.shared.stores.claims
    }

    /// Checkpoint records of this machine.
    pub fn checkpoints(&self) -> &CheckpointStore {
        &self.shared.stores.checkpoints
    }

    pub(crate) fn emit(&self, event: Event) {
        self.shared.events.event(&event);
    }

    pub(crate) fn step(&self, step: Step) {
        self.shared.events.event(&Event::Step(step));
    }

    pub(crate) fn warn(&self, line: impl Into<String>) {
        self.emit(Event::Notice {
            level: crabbox_core::runtime::NoticeLevel::Warning,
            line: line.into(),
        });
    }

    pub(crate) fn info(&self, line: impl Into<String>) {
        self.emit(Event::Notice {
            level: crabbox_core::runtime::NoticeLevel::Info,
            line: line.into(),
        });
    }

    pub(crate) fn now(&self) -> jiff::Timestamp {
        self.shared.runtime.clock.now()
    }

    pub(crate) fn monotonic(&self) -> Duration {
        self.shared.runtime.clock.monotonic()
    }

    pub(crate) fn stores(&self) -> &Stores {
        &self.shared.stores
    }

    /// The selected provider and whether the selection is the embedded default.
    pub(crate) fn selected(&self) -> Result<(Arc<dyn Provider>, bool)> {
        match &self.shared.config.config.provider {
            Some(selection) => Ok((Arc::clone(self.shared.registry.get(&selection.name)?), false)),
            None => Ok((Arc::clone(self.shared.registry.fallback()?), true)),
        }
    }

    /// Opens a provider.
    pub(crate) fn connect(&self, provider: &dyn Provider) -> Result<Arc<dyn Backend>> {
        let spec: &ProviderSpec = provider.spec();
        let settings = self.shared.config.config.provider_settings(spec.name, spec.section)?;
        Ok(Arc::from(backend::open(
            provider,
            settings,
            Arc::clone(&self.shared.runtime),
        )?))
    }

    /// Waits for work or for the end of the operation, whichever comes first.
    pub(crate) async fn unless_cancelled<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            biased;
            () = self.shared.cancel.cancelled() => Err(interrupted()),
            result = work => result,
        }
    }

    pub(crate) fn refuse_if_cancelled(&self) -> Result<()> {
        if self.shared.cancel.is_cancelled() {
            Err(interrupted())
        } else {
            Ok(())
        }
    }
}

/// Directories above which symbolic links are the system's business.
fn trusted(runtime: &Runtime) -> Vec<PathBuf> {
    let variable = |name: &str| {
        runtime
            .environment
            .get(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let parents = [&runtime.directories.config, &runtime.directories.state];
    let parents = parents
        .into_iter()
        .filter_map(|path| path.parent())
        .map(Path::to_path_buf);
    ["HOME", "TMPDIR"]
        .into_iter()
        .filter_map(variable)
        .chain(parents)
        .chain([PathBuf::from("/tmp")])
        .collect()
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Engine")
            .field("directory", &self.shared.directory)
            .finish_non_exhaustive()
    }
}

pub(crate) fn interrupted() -> Error {
    Error::cancelled("interrupted")
}

/// Runs work that may wait for a lock or a disk away from the threads that carry output.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(failure) if failure.is_panic() => std::panic::resume_unwind(failure.into_panic()),
        Err(_) => Err(interrupted()),
    }
}
