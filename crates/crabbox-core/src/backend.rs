//! The traits that a provider implements.
//!
//! Two shapes are mandatory, one of them for each provider: [`SshLeaseBackend`] and [`DelegatedRunBackend`]. Everything
//! else is a capability reached by an accessor that returns `None` by default. A provider never owns a command, prints,
//! keeps a claim or decides about cleanup.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use async_trait::async_trait;

use crate::authority::VerifiedBinding;
use crate::error::{Error, Result};
use crate::labels::Labels;
use crate::machine::{Binding, Inventory, Machine, Observed, Outcome, Scope};
use crate::remote::{ByteWriter, ExecRequest, ExecStatus, HostDirectory, OutputSink, RemotePath, Upload};
use crate::request::{
    CheckpointObserved, CreateCheckpoint, CreateLease, DoctorReport, Journal, ListQuery, NativeCheckpoint, Probe,
    PublishedPort, Requirements, SizeEntry,
};
use crate::runtime::Runtime;
use crate::settings::Settings;
use crate::spec::{Feature, FeatureSet, ProviderKind, ProviderSpec};

/// Names a provider and opens it. Pure until [`connect`](Provider::connect), which pays for nothing.
pub trait Provider: Send + Sync {
    /// What the provider is.
    fn spec(&self) -> &'static ProviderSpec;

    /// Opens it.
    ///
    /// # Errors
    /// `Usage` for settings that contradict each other, `Prerequisite` for missing credentials or a host that cannot
    /// carry it.
    fn connect(&self, settings: Settings, runtime: Arc<Runtime>) -> Result<Box<dyn Backend>>;

    /// A hidden entry point of the executable that this provider starts as a child process of its own.
    fn helper(&self) -> Option<Helper> {
        None
    }
}

/// A hidden entry point: `crabbox <word> …`, dispatched before arguments are parsed.
#[derive(Clone, Copy)]
pub struct Helper {
    /// First argument, starting with two underscores.
    pub word: &'static str,
    /// Runs with the arguments after the word, before any thread or runtime exists.
    pub main: fn(&[std::ffi::OsString]) -> ExitCode,
}

impl std::fmt::Debug for Helper {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Helper")
            .field("word", &self.word)
            .finish_non_exhaustive()
    }
}

/// Which capability traits a backend implements. Declared in the spec, so that listings need no connection, and compared
/// with the backend at every connect, so that the two cannot disagree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// [`SshLeaseBackend`].
    pub ssh_lease: bool,
    /// [`DelegatedRunBackend`].
    pub delegated: bool,
    /// [`Pause`].
    pub pause: bool,
    /// [`Checkpoints`].
    pub checkpoints: bool,
    /// [`Files`].
    pub files: bool,
    /// [`HostWorkspace`].
    pub host_workspace: bool,
    /// [`Exposure`].
    pub exposure: bool,
    /// [`Sizes`].
    pub sizes: bool,
    /// [`Adopt`].
    pub adopt: bool,
}

impl Capabilities {
    /// None of them, to start a constant from.
    pub const NONE: Self = Self {
        ssh_lease: false,
        delegated: false,
        pause: false,
        checkpoints: false,
        files: false,
        host_workspace: false,
        exposure: false,
        sizes: false,
        adopt: false,
    };

    /// What a backend really implements.
    pub fn of(backend: &dyn Backend) -> Self {
        Self {
            ssh_lease: backend.ssh_lease().is_some(),
            delegated: backend.delegated().is_some(),
            pause: backend.pause().is_some(),
            checkpoints: backend.checkpoints().is_some(),
            files: backend.files().is_some(),
            host_workspace: backend.host_workspace().is_some(),
            exposure: backend.exposure().is_some(),
            sizes: backend.sizes().is_some(),
            adopt: backend.adopt().is_some(),
        }
    }

    /// The features that these capabilities mean for a provider of a kind.
    ///
    /// The engine writes sync, cleanup, downloads and session handles for every provider of either shape, so those follow
    /// from the shape.
    pub const fn features(self, kind: ProviderKind) -> FeatureSet {
        let mut set = FeatureSet::EMPTY;
        if matches!(kind, ProviderKind::ServiceControl) {
            return set;
        }
        if self.ssh_lease {
            set = set.union(FeatureSet::of(&[
                Feature::Ssh,
                Feature::CrabboxSync,
                Feature::Cleanup,
                Feature::RunSession,
            ]));
        }
        if self.delegated {
            set = set.union(FeatureSet::of(&[
                Feature::ArchiveSync,
                Feature::Cleanup,
                Feature::RunSession,
                Feature::RunDownloads,
            ]));
        }
        if self.pause {
            set = set.union(FeatureSet::of(&[Feature::PauseResume]));
        }
        if self.checkpoints {
            set = set.union(FeatureSet::of(&[
                Feature::WorkspaceCheckpoint,
                Feature::WorkspaceFork,
                Feature::WorkspaceRestore,
                Feature::ProviderSnapshot,
            ]));
        }
        if self.exposure {
            set = set.union(FeatureSet::of(&[Feature::UrlBridge]));
        }
        set
    }
}

/// Opens a provider and checks that it implements what it declares.
///
/// # Errors
/// Whatever `connect` returns; `Other` when declaration and implementation disagree, which is a defect of the provider.
pub fn open(provider: &dyn Provider, settings: Settings, runtime: Arc<Runtime>) -> Result<Box<dyn Backend>> {
    let spec = provider.spec();
    let backend = provider.connect(settings, runtime)?;
    let actual = Capabilities::of(&*backend);
    if actual == spec.capabilities {
        return Ok(backend);
    }
    Err(Error::other(format!(
        "provider {} declares {:?} but implements {actual:?}",
        spec.name, spec.capabilities
    ))
    .with_hint("this is a defect of the provider; please report it"))
}

/// What a connected provider can do. `None` means "cannot".
#[async_trait]
pub trait Backend: Send + Sync {
    /// Account, endpoint or project that resource ids are unique in; may be empty.
    fn scope(&self) -> Scope;

    /// Refuses what this host or account cannot honour, before anything is paid for.
    ///
    /// # Errors
    /// `Prerequisite`, naming what is demanded and what there is.
    fn admit(&self, requirements: &Requirements) -> Result<()>;

    /// Looks at the provider's readiness without changing anything.
    async fn doctor(&self, probe: Probe) -> Result<DoctorReport>;

    /// Lists machines.
    ///
    /// # Behaviour
    /// - Only machines that Crabbox made, unless the query asks for all.
    /// - Every page, or an inventory that says it is incomplete, or an error.
    async fn list(&self, query: ListQuery) -> Result<Inventory>;

    /// Machines reached over SSH.
    fn ssh_lease(&self) -> Option<&dyn SshLeaseBackend> {
        None
    }
    /// Sandboxes with an exec API of their own.
    fn delegated(&self) -> Option<&dyn DelegatedRunBackend> {
        None
    }
    /// Pause and resume.
    fn pause(&self) -> Option<&dyn Pause> {
        None
    }
    /// The vendor's own snapshots.
    fn checkpoints(&self) -> Option<&dyn Checkpoints> {
        None
    }
    /// Files out of a box faster than by running a command.
    fn files(&self) -> Option<&dyn Files> {
        None
    }
    /// Workspaces that are directories of this machine.
    fn host_workspace(&self) -> Option<&dyn HostWorkspace> {
        None
    }
    /// Ports and preview URLs.
    fn exposure(&self) -> Option<&dyn Exposure> {
        None
    }
    /// The vendor's catalog of machine types.
    fn sizes(&self) -> Option<&dyn Sizes> {
        None
    }
    /// Taking over a resource that has no claim here.
    fn adopt(&self) -> Option<&dyn Adopt> {
        None
    }
}

impl dyn Backend + '_ {
    /// The lifecycle that both shapes share.
    ///
    /// # Errors
    /// `Usage` for a provider that only controls services.
    pub fn lifecycle(&self) -> Result<&dyn Lifecycle> {
        if let Some(delegated) = self.delegated() {
            return Ok(delegated);
        }
        if let Some(lease) = self.ssh_lease() {
            return Ok(lease);
        }
        Err(Error::usage("this provider controls a service and leases no boxes")
            .with_hint("`crabbox providers` shows which providers can run commands"))
    }
}

/// What every leasing backend can do, whichever way its boxes are reached.
#[async_trait]
pub trait Lifecycle: Send + Sync {
    /// Creates exactly one machine with the given names and labels.
    ///
    /// # Behaviour
    /// - Tells the journal the resource id as soon as the vendor reveals it.
    /// - A lost answer is an error with `outcome_unknown`, never a second create.
    /// - The labels are on the machine from its first moment.
    async fn create(&self, request: &CreateLease, journal: &mut dyn Journal) -> Result<Machine>;

    /// Looks once. Never wakes, repairs or changes anything.
    ///
    /// # Behaviour
    /// - A timeout or 5xx is `Unknown`, never `Absent`.
    /// - With an unknown resource id, looks for the lease label.
    async fn inspect(&self, binding: &Binding) -> Result<Observed>;

    /// Replaces the mutable labels. Cheap and safe to call while a command runs.
    async fn update_labels(&self, machine: &Machine, labels: &Labels) -> Result<()>;

    /// Destroys what the engine verified under the claim lock.
    ///
    /// # Behaviour
    /// - A second call is harmless.
    /// - Every process of the box has ended when this returns [`Outcome::Deleted`].
    async fn destroy(&self, binding: &VerifiedBinding<'_>) -> Result<Outcome>;
}

/// Leases machines reached over SSH.
#[async_trait]
pub trait SshLeaseBackend: Lifecycle {
    /// Where and how to reach a machine.
    async fn endpoint(&self, machine: &Machine, access: Access) -> Result<SshEndpoint>;
}

/// Runs commands through the provider's own API.
#[async_trait]
pub trait DelegatedRunBackend: Lifecycle {
    /// Runs one command; see [`Remote::exec`](crate::remote::Remote::exec) for what that promises.
    async fn exec(&self, machine: &Machine, request: ExecRequest, output: &mut dyn OutputSink) -> Result<ExecStatus>;

    /// Puts one file, replacing what is there; missing directories are made.
    async fn upload(&self, machine: &Machine, destination: &RemotePath, upload: Upload) -> Result<()>;
}

/// Whether looking at an endpoint may change something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Only look.
    Peek,
    /// Wake the machine or mint a short-lived credential if that is needed to connect.
    Prepare,
}

/// Where and how to reach a machine over SSH.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SshEndpoint {
    /// Address or name.
    pub host: String,
    /// Ports to try in order, before a command starts and never after.
    pub ports: Vec<u16>,
    /// User name.
    pub user: String,
    /// The user name is itself a credential and must not be shown.
    pub user_is_secret: bool,
    /// Host key in OpenSSH format, when the provider knows it.
    pub host_key: Option<String>,
    /// Private key file, when it is not the lease's own.
    pub identity: Option<PathBuf>,
    /// Command that carries the connection, run by the system shell.
    pub proxy_command: Option<String>,
    /// Command that succeeds on the box when it is ready.
    pub ready_check: Option<String>,
}

impl SshEndpoint {
    /// An endpoint with the defaults of a machine that Crabbox prepared: ports 2222 and 22, user `crabbox`.
    pub fn new(host: impl Into<String>) -> Self {
        Self {
            host: host.into(),
            ports: vec![2222, 22],
            user: "crabbox".into(),
            user_is_secret: false,
            host_key: None,
            identity: None,
            proxy_command: None,
            ready_check: None,
        }
    }
}

/// Holds a box without processor time and lets it go on.
#[async_trait]
pub trait Pause: Send + Sync {
    /// Stops every process of the box where it is.
    async fn pause(&self, machine: &Machine) -> Result<()>;
    /// Lets them go on.
    async fn resume(&self, machine: &Machine) -> Result<()>;
}

/// The vendor's own snapshots of a box. A new box from one is [`CreateLease::restore_from`].
#[async_trait]
pub trait Checkpoints: Send + Sync {
    /// Whether these are the better choice over an archive when the user has no opinion.
    fn preferred(&self) -> bool;
    /// What [`create`](Self::create) will return, as far as it is known before the vendor is asked: enough for
    /// [`delete`](Self::delete), which then also accepts one that was never made. It is recorded first, so that a
    /// checkpoint whose client died can be deleted. `None` when only the vendor's answer reveals the identity.
    fn planned(&self, _request: &CreateCheckpoint) -> Option<NativeCheckpoint> {
        None
    }
    /// Takes one.
    async fn create(&self, machine: &Machine, request: &CreateCheckpoint) -> Result<NativeCheckpoint>;
    /// Looks at one.
    async fn inspect(&self, checkpoint: &NativeCheckpoint) -> Result<CheckpointObserved>;
    /// Puts the box back to one, discarding what it wrote since.
    async fn restore(&self, machine: &Machine, checkpoint: &NativeCheckpoint) -> Result<()>;
    /// Deletes one. Fails while a box still needs it.
    async fn delete(&self, checkpoint: &NativeCheckpoint) -> Result<()>;
}

/// Files out of a box faster than by running a command.
#[async_trait]
pub trait Files: Send + Sync {
    /// Gets one regular file and returns its length in bytes.
    async fn download(&self, machine: &Machine, source: &RemotePath, destination: ByteWriter<'_>) -> Result<u64>;
}

/// Workspaces that are directories of this machine, so that sync need not go through the box.
#[async_trait]
pub trait HostWorkspace: Send + Sync {
    /// The directory on this machine that is the given directory of the box; it is made if it does not exist.
    ///
    /// What lies in it was written by the box and is hostile.
    async fn directory(&self, machine: &Machine, path: &RemotePath) -> Result<HostDirectory>;
}

/// Ports of a box that can be reached from outside.
#[async_trait]
pub trait Exposure: Send + Sync {
    /// Ports published now.
    async fn ports(&self, machine: &Machine) -> Result<Vec<PublishedPort>>;
    /// Publishes one.
    async fn publish(&self, machine: &Machine, port: u16) -> Result<PublishedPort>;
    /// Takes it back.
    async fn unpublish(&self, machine: &Machine, port: u16) -> Result<()>;
}

/// The vendor's catalog of machine types.
#[async_trait]
pub trait Sizes: Send + Sync {
    /// Every type that the account can use.
    async fn sizes(&self) -> Result<Vec<SizeEntry>>;
}

/// Taking over a resource that has no claim here, at the user's explicit wish.
#[async_trait]
pub trait Adopt: Send + Sync {
    /// Finds the resource by the provider's own id.
    async fn adopt(&self, identifier: &str) -> Result<Machine>;
}
