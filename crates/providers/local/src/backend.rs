//! The contract's traits, for boxes on this machine.

use std::collections::VecDeque;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use crabbox_core::authority::VerifiedBinding;
use crabbox_core::backend::{Backend, Checkpoints, DelegatedRunBackend, Files, HostWorkspace, Lifecycle, Pause};
use crabbox_core::error::{Error, ErrorKind, IntoError as _, Result};
use crabbox_core::labels::Labels;
use crabbox_core::machine::{Absence, Binding, Inventory, Machine, MachineState, Observed, Outcome, ResourceId, Scope};
use crabbox_core::remote::{ByteWriter, ExecRequest, ExecStatus, HostDirectory, OutputSink, RemotePath, Upload};
use crabbox_core::request::{CreateLease, DoctorReport, Journal, ListQuery, Probe, Requirements};
use crabbox_core::runtime::{NoticeLevel, Runtime};
use crabbox_core::spec::{Egress, IsolationLevel, Persistence, TtlEnforcement};

use crate::boxes::{self, NewBox};
use crate::checkpoints::{self, blocking};
use crate::config::LocalConfig;
#[cfg(target_os = "linux")]
use crate::linux::{self, HostFacts, client};
use crate::plan::{Inputs, Plan};
use crate::store::{self, Layers, Store};
use crate::tree::{self, Copied};
use crate::{SPEC, plain};

/// Most handles of box directories that are kept open for those who were given their paths.
const MOST_HANDLES: usize = 64;

/// The connected provider.
pub(crate) struct Local {
    pub(crate) config: LocalConfig,
    pub(crate) runtime: Arc<Runtime>,
    pub(crate) store: Store,
    #[cfg(target_os = "linux")]
    host: tokio::sync::OnceCell<HostFacts>,
    handles: Mutex<VecDeque<OwnedFd>>,
}

impl Local {
    pub(crate) fn new(config: LocalConfig, runtime: Arc<Runtime>) -> Self {
        let store = Store::new(&runtime.directories.state);
        Self {
            config,
            runtime,
            store,
            #[cfg(target_os = "linux")]
            host: tokio::sync::OnceCell::new(),
            handles: Mutex::new(VecDeque::new()),
        }
    }

    /// Directory of a box that is there.
    fn directory(&self, machine: &Machine) -> Result<PathBuf> {
        let directory = self.store.directory(&machine.resource.id)?;
        if directory.is_dir() {
            Ok(directory)
        } else {
            Err(boxes::gone(&machine.resource.id))
        }
    }

    /// Whether a new box gets no network.
    fn isolates_network(&self, requirements: &Requirements) -> bool {
        self.config.network == "none" || requirements.egress == Some(Egress::None)
    }

    /// Asks a helper process what this host allows.
    #[cfg(target_os = "linux")]
    pub(crate) async fn look_at_host(&self) -> Result<HostFacts> {
        self.store.prepare()?;
        let drafting = {
            let store = self.store.clone();
            blocking(move || store.hold_drafts()).await?
        };
        let scratch = self.store.draft(&format!("probe-{}", crate::token(6)));
        store::make_private(&scratch)?;
        let facts = client::probe(&self.runtime.executable, &scratch).await;
        let _ = tree::remove(&scratch);
        drop(drafting);
        facts
    }

    /// The same, asked once; a good answer is remembered until the machine starts again.
    #[cfg(target_os = "linux")]
    async fn host(&self) -> Result<&HostFacts> {
        self.host
            .get_or_try_init(|| async {
                let cache = self.runtime.directories.cache.join("local");
                let name = host_cache_name();
                if let Ok(Some(facts)) = store::load(&cache, &name) {
                    return Ok(facts);
                }
                let facts = self.look_at_host().await?;
                // What is missing may be cured at any time, so only a good answer is kept.
                if facts.namespaces.is_none() && facts.overlay.is_none() && store::make_private(&cache).is_ok() {
                    let _ = store::replace(&cache, &name, &facts);
                }
                Ok(facts)
            })
            .await
    }

    /// Whether workspaces can be layered.
    #[cfg(target_os = "linux")]
    pub(crate) async fn overlay_works(&self) -> bool {
        self.host().await.is_ok_and(|facts| facts.overlay.is_none())
    }

    /// How a new box will be isolated: its plan, or `None` for a box without isolation.
    #[cfg(target_os = "linux")]
    async fn plan(&self, request: &CreateLease) -> Result<Option<Plan>> {
        let isolate_network = self.isolates_network(&request.requirements);
        if self.config.isolation != "none" {
            let facts = self.host().await?;
            match &facts.namespaces {
                None => {
                    let own = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
                    return Ok(Some(Plan::make(&Inputs {
                        config: &self.config,
                        environment: &self.runtime.environment,
                        directories: &self.runtime.directories,
                        privileged: linux::is_privileged(),
                        own,
                        isolate_network,
                    })));
                }
                Some(cause) if self.config.isolation == "container" => {
                    return Err(
                        Error::prerequisite(format!("this machine cannot isolate boxes: {cause}"))
                            .with_hint(linux::NAMESPACE_CURE),
                    );
                }
                Some(_) => {}
            }
        }
        self.refuse_demands_on_nothing(&request.requirements)?;
        Ok(None)
    }

    #[cfg(not(target_os = "linux"))]
    async fn plan(&self, request: &CreateLease) -> Result<Option<Plan>> {
        if self.config.isolation == "container" {
            return Err(Error::prerequisite("this operating system cannot isolate boxes")
                .with_hint("set local.isolation to none, or choose another provider with --provider"));
        }
        self.refuse_demands_on_nothing(&request.requirements)?;
        Ok(None)
    }

    /// What a box without isolation cannot honour.
    fn refuse_demands_on_nothing(&self, requirements: &Requirements) -> Result<()> {
        let demand = if requirements.isolation.is_some_and(|level| level > IsolationLevel::None) {
            "isolation"
        } else if self.isolates_network(requirements) {
            "a box without network"
        } else if requirements.ttl.is_some_and(|level| level > TtlEnforcement::None) {
            "a time to live that is enforced"
        } else {
            return Ok(());
        };
        #[cfg(target_os = "linux")]
        let cure = if self.config.isolation == "none" {
            "set local.isolation to auto, or choose another provider with --provider"
        } else {
            linux::NAMESPACE_CURE
        };
        #[cfg(not(target_os = "linux"))]
        let cure = "choose another provider with --provider";
        Err(Error::prerequisite(format!(
            "boxes on this machine are not isolated, so this cannot be had: {demand}"
        ))
        .with_hint(cure))
    }

    /// Makes the directory of a box and starts what holds it.
    async fn build(&self, id: &str, request: &CreateLease, plan: Option<Plan>) -> Result<Machine> {
        let now = self.runtime.clock.now();
        #[cfg(target_os = "linux")]
        let overlay = plan.is_some() && request.restore_from.is_some() && self.overlay_works().await;
        #[cfg(not(target_os = "linux"))]
        let overlay = false;
        let work = {
            let (store, id, request, plan) = (self.store.clone(), id.to_owned(), request.clone(), plan.clone());
            move || -> Result<PathBuf> {
                store.prepare()?;
                // Held so that the layers of a checkpoint are not collected before the box names them.
                let held = request.restore_from.as_ref().map(|_| store.hold_layers()).transpose()?;
                let (layers, copied) = match &request.restore_from {
                    Some(checkpoint) => checkpoints::start_from(&store, &checkpoint.image_id, overlay)?,
                    None => (Layers::first(Vec::new()), None),
                };
                let upper = layers.upper.clone();
                let directory = boxes::make(
                    &store,
                    &NewBox {
                        id: &id,
                        request: &request,
                        now,
                        plan: plan.as_ref(),
                        layers,
                    },
                )?;
                if let Some(layer) = copied {
                    checkpoints::copy_layer(&store, &layer, &directory.join(upper))?;
                }
                drop(held);
                boxes::sweep(&store, now);
                Ok(directory)
            }
        };
        let directory = blocking(work).await?;
        #[cfg(target_os = "linux")]
        if plan.is_some() {
            client::start(&self.runtime.executable, &directory).await?;
        }
        #[cfg(not(target_os = "linux"))]
        let _ = directory;
        boxes::look(&self.store, id, now)?.ok_or_else(|| boxes::gone(id))
    }

    /// Ends the processes of a box and removes its directory.
    async fn remove(&self, id: &str) -> Result<Outcome> {
        let directory = self.store.directory(id)?;
        let there = directory.is_dir();
        #[cfg(target_os = "linux")]
        if there {
            client::stop(&directory).await?;
        }
        let (store, id, now) = (self.store.clone(), id.to_owned(), self.runtime.clock.now());
        blocking(move || {
            boxes::discard(&store, &id)?;
            boxes::sweep(&store, now);
            store.collect_layers()
        })
        .await?;
        Ok(if there { Outcome::Deleted } else { Outcome::AlreadyGone })
    }

    /// Makes the workspace of a quiet box a layer; `false` when that cannot be done now.
    #[cfg(target_os = "linux")]
    pub(crate) async fn freeze(&self, machine: &Machine, directory: &Path, layer: &str) -> Result<bool> {
        if machine.isolation == IsolationLevel::None || !self.overlay_works().await {
            return Ok(false);
        }
        client::freeze(directory, layer).await
    }

    #[cfg(not(target_os = "linux"))]
    pub(crate) async fn freeze(&self, _machine: &Machine, _directory: &Path, _layer: &str) -> Result<bool> {
        Ok(false)
    }

    /// Copies the workspace of a box into a layer while its processes stand still.
    pub(crate) async fn copy_workspace(&self, machine: &Machine, directory: &Path, layer: &str) -> Result<Copied> {
        #[cfg(target_os = "linux")]
        if machine.isolation != IsolationLevel::None {
            let root = client::open_directory(directory, crate::WORK_ROOT, "").await?;
            let hold = client::hold(directory).await?;
            let copied = self.copy_into_layer(path_of(&root), layer).await;
            drop((hold, root));
            return copied;
        }
        let _ = machine;
        let layers: Layers = store::load(directory, "layers.json")?.unwrap_or(Layers::first(Vec::new()));
        self.copy_into_layer(directory.join(layers.upper), layer).await
    }

    async fn copy_into_layer(&self, source: PathBuf, layer: &str) -> Result<Copied> {
        let place = self.store.layers().join(layer);
        blocking(move || {
            let tree_of_layer = place.join("tree");
            store::make_private(&tree_of_layer)?;
            tree::copy(&source, &tree_of_layer)
                .and_then(|copied| tree::match_directory(&source, &tree_of_layer).map(|()| copied))
                .or_error(ErrorKind::Other, || "copy the workspace".to_owned())
                .inspect_err(|_| {
                    let _ = tree::remove(&place);
                })
        })
        .await
    }

    /// Starts a box again from layers.
    #[cfg(target_os = "linux")]
    pub(crate) async fn restart(&self, _machine: &Machine, directory: &Path, layers: Layers) -> Result<()> {
        client::restart(directory, layers).await
    }

    /// Starts a box again from a copy of a layer.
    pub(crate) async fn restart_from_copy(
        &self,
        machine: &Machine,
        directory: &Path,
        before: &Layers,
        layer: String,
    ) -> Result<()> {
        let next = before.next(Vec::new(), None);
        let (store, place, name) = (self.store.clone(), directory.join(&next.upper), next.upper.clone());
        blocking(move || {
            tree::remove(&place).or_error(ErrorKind::Other, || format!("remove {}", place.display()))?;
            store::make_private(&place)?;
            checkpoints::copy_layer(&store, &layer, &place)?;
            let source = store.layers().join(&layer).join("tree");
            tree::match_directory(&source, &place).or_error(ErrorKind::Other, || "copy the checkpoint".to_owned())
        })
        .await?;
        #[cfg(target_os = "linux")]
        if machine.isolation != IsolationLevel::None {
            return client::replace(directory, name).await;
        }
        let _ = (machine, name);
        // Without isolation the path of the workspace is known to everybody, so what is in it is replaced in place.
        let (old, new, spare) = (
            directory.join(&before.upper),
            directory.join(&next.upper),
            directory.join(format!("{}.previous", before.upper)),
        );
        blocking(move || {
            let failed = || "put the checkpoint into its place".to_owned();
            std::fs::rename(&old, &spare).or_error(ErrorKind::Other, failed)?;
            std::fs::rename(&new, &old).or_error(ErrorKind::Other, failed)?;
            tree::remove(&spare).or_error(ErrorKind::Other, failed)
        })
        .await
    }

    /// Keeps a handle open for somebody who was given its path.
    #[cfg(target_os = "linux")]
    fn keep(&self, handle: OwnedFd) -> PathBuf {
        let path = path_of(&handle);
        let mut handles = self.handles.lock().unwrap_or_else(PoisonError::into_inner);
        handles.push_back(handle);
        if handles.len() > MOST_HANDLES {
            handles.pop_front();
        }
        path
    }
}

/// A path that leads to an open directory. The last part is no link, so it can be opened without following any.
#[cfg(target_os = "linux")]
fn path_of(handle: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/.", handle.as_raw_fd()))
}

/// File of what was found out about this host: another after a restart, or for another user.
#[cfg(target_os = "linux")]
fn host_cache_name() -> String {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    format!("host-{}-{}.json", rustix::process::geteuid().as_raw(), boot.trim())
}

#[async_trait]
impl Backend for Local {
    /// Empty: ids are random, and the directory they name decides.
    fn scope(&self) -> Scope {
        Scope::default()
    }

    fn admit(&self, requirements: &Requirements) -> Result<()> {
        if let Some(level) = requirements.isolation.filter(|level| *level > SPEC.isolation_level) {
            return Err(Error::prerequisite(format!(
                "provider local isolates by {} at most, but the profile demands: {level}",
                SPEC.isolation_level
            ))
            .with_hint("choose a provider with stronger isolation; `crabbox providers` shows it"));
        }
        if requirements.egress == Some(Egress::Allowlist) {
            return Err(
                Error::prerequisite("provider local cannot filter egress by an allowlist")
                    .with_hint("demand egress none or open, or choose another provider"),
            );
        }
        if requirements.persistence == Some(Persistence::Durable) {
            return Err(
                Error::prerequisite("provider local keeps nothing for ever, but the profile demands: durable")
                    .with_hint("demand persistence checkpoint, or choose another provider"),
            );
        }
        if cfg!(not(target_os = "linux")) || self.config.isolation == "none" {
            self.refuse_demands_on_nothing(requirements)?;
        }
        Ok(())
    }

    async fn doctor(&self, _probe: Probe) -> Result<DoctorReport> {
        Ok(crate::doctor::report(self).await)
    }

    async fn list(&self, _query: ListQuery) -> Result<Inventory> {
        let (store, now) = (self.store.clone(), self.runtime.clock.now());
        blocking(move || boxes::list(&store, now))
            .await
            .map(Inventory::complete)
    }

    fn delegated(&self) -> Option<&dyn DelegatedRunBackend> {
        Some(self)
    }

    fn pause(&self) -> Option<&dyn Pause> {
        Some(self)
    }

    fn checkpoints(&self) -> Option<&dyn Checkpoints> {
        Some(self)
    }

    fn files(&self) -> Option<&dyn Files> {
        Some(self)
    }

    fn host_workspace(&self) -> Option<&dyn HostWorkspace> {
        Some(self)
    }
}

#[async_trait]
impl Lifecycle for Local {
    async fn create(&self, request: &CreateLease, journal: &mut dyn Journal) -> Result<Machine> {
        self.admit(&request.requirements)?;
        let plan = self.plan(request).await?;
        if plan.is_none() && self.config.isolation != "none" {
            self.runtime.notices.notice(
                NoticeLevel::Warning,
                "this machine cannot isolate boxes: commands run with all rights of your user; `crabbox doctor` says why",
            );
        }
        let id = format!("box-{}", crate::token(10));
        journal.resource_known(&ResourceId::new(&id)).await?;
        let built = self.build(&id, request, plan).await;
        match built {
            Ok(machine) => Ok(machine),
            Err(error) => {
                // Best effort: what remains is listed and can be destroyed.
                let _ = self.remove(&id).await;
                Err(error)
            }
        }
    }

    async fn inspect(&self, binding: &Binding) -> Result<Observed> {
        let (store, now) = (self.store.clone(), self.runtime.clock.now());
        let (resource, lease) = (binding.resource.clone(), binding.lease.clone());
        let looked = blocking(move || {
            let id = resource.as_ref().map(|resource| resource.id.as_str());
            let look = || match id {
                Some(id) => boxes::look(&store, id, now),
                None => Ok(boxes::list(&store, now)?
                    .into_iter()
                    .find(|machine| machine.labels.get("lease") == Some(lease.as_str()))),
            };
            match look()? {
                None if boxes::clear_remains(&store, id)? => look(),
                looked => Ok(looked),
            }
        })
        .await;
        Ok(match looked {
            Ok(Some(machine)) => Observed::Present(Box::new(machine)),
            Ok(None) if binding.resource.is_some() => Observed::Absent(Absence::NotFound),
            Ok(None) => Observed::Absent(Absence::NotInInventory),
            Err(error) => Observed::Unknown(error),
        })
    }

    async fn update_labels(&self, machine: &Machine, labels: &Labels) -> Result<()> {
        let (store, id, labels) = (self.store.clone(), machine.resource.id.clone(), labels.clone());
        blocking(move || boxes::relabel(&store, &id, &labels)).await
    }

    async fn destroy(&self, binding: &VerifiedBinding<'_>) -> Result<Outcome> {
        self.remove(&binding.resource().id).await
    }
}

#[async_trait]
impl DelegatedRunBackend for Local {
    async fn exec(&self, machine: &Machine, request: ExecRequest, output: &mut dyn OutputSink) -> Result<ExecStatus> {
        let directory = self.store.directory(&machine.resource.id)?;
        #[cfg(target_os = "linux")]
        if machine.isolation != IsolationLevel::None {
            return client::exec(&directory, request, output).await;
        }
        plain::exec(&directory, &self.runtime.environment, request, output).await
    }

    async fn upload(&self, machine: &Machine, destination: &RemotePath, upload: Upload) -> Result<()> {
        let directory = self.directory(machine)?;
        #[cfg(target_os = "linux")]
        if machine.isolation != IsolationLevel::None {
            return client::upload(&directory, destination.as_str(), upload).await;
        }
        let _ = directory;
        plain::upload(destination, upload).await
    }
}

#[async_trait]
impl Pause for Local {
    async fn pause(&self, machine: &Machine) -> Result<()> {
        let directory = self.directory(machine)?;
        #[cfg(target_os = "linux")]
        if machine.isolation != IsolationLevel::None {
            return client::pause(&directory).await;
        }
        let _ = directory;
        Err(not_held())
    }

    async fn resume(&self, machine: &Machine) -> Result<()> {
        let directory = self.directory(machine)?;
        #[cfg(target_os = "linux")]
        if machine.isolation != IsolationLevel::None {
            return client::resume(&directory).await;
        }
        let _ = directory;
        // A box that was never paused goes on as it is.
        match machine.state {
            MachineState::Paused => Err(not_held()),
            _ => Ok(()),
        }
    }
}

/// Nobody holds the processes of a box without isolation.
fn not_held() -> Error {
    Error::prerequisite("a box without isolation cannot be paused: nothing holds its processes")
        .with_hint("use a machine that allows namespaces; `crabbox doctor` says what is missing")
}

#[async_trait]
impl Files for Local {
    async fn download(&self, machine: &Machine, source: &RemotePath, destination: ByteWriter<'_>) -> Result<u64> {
        let directory = self.directory(machine)?;
        #[cfg(target_os = "linux")]
        if machine.isolation != IsolationLevel::None {
            return client::download(&directory, source.as_str(), destination).await;
        }
        let _ = directory;
        plain::download(source, destination).await
    }
}

#[async_trait]
impl HostWorkspace for Local {
    async fn directory(&self, machine: &Machine, path: &RemotePath) -> Result<HostDirectory> {
        let directory = self.directory(machine)?;
        let below = Path::new(path.as_str())
            .strip_prefix(&machine.work_root)
            .ok()
            .and_then(Path::to_str)
            .ok_or_else(|| {
                Error::usage(format!("not a workspace of the box: {path}"))
                    .with_hint(format!("workspaces lie below {}", machine.work_root))
            })?;
        #[cfg(target_os = "linux")]
        if machine.isolation != IsolationLevel::None {
            let handle = client::open_directory(&directory, &machine.work_root, below).await?;
            let owner = linux::is_privileged().then_some((crate::plan::OUTER_ID, crate::plan::OUTER_ID));
            return Ok(HostDirectory {
                path: self.keep(handle),
                owner,
            });
        }
        let _ = below;
        let host = plain::host_path(path);
        store::make_private(&host)?;
        let _ = directory;
        Ok(HostDirectory {
            path: host,
            owner: None,
        })
    }
}
