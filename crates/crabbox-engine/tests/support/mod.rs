//! A vendor in memory whose boxes are directories and whose commands are real processes.
#![expect(clippy::unwrap_used, reason = "a broken fixture fails the test")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use crabbox_core::backend::{Capabilities, Checkpoints, DelegatedRunBackend};
use crabbox_core::machine::Absence;
use crabbox_core::remote::{ExecRequest, ExecStatus, OutputSink, OutputStream, RemotePath, Stdin, Upload};
use crabbox_core::request::{
    CheckpointObserved, CreateCheckpoint, DoctorReport, ListQuery, NativeCheckpoint, Probe, Requirements,
};
use crabbox_core::runtime::{Environment, Runtime};
use crabbox_core::section::SectionSchema;
use crabbox_core::spec::{
    CatalogFacts, CoordinatorMode, Egress, FeatureSet, IsolationLevel, Persistence, TtlEnforcement,
};
use crabbox_core::{
    Backend, Binding, CreateLease, Error, Inventory, Journal, Labels, Lifecycle, Machine, Observed, Outcome, Provider,
    ProviderKind, ProviderSpec, ResourceId, Result, Scope, Settings, Target, VerifiedBinding,
};
use crabbox_engine::{Engine, Event, EventSink, Registry, Step};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

static SECTION: SectionSchema = SectionSchema::empty("acme");

pub(crate) static SPEC: ProviderSpec = ProviderSpec {
    name: "acme",
    aliases: &["acme-cloud"],
    family: "acme",
    kind: ProviderKind::DelegatedRun,
    targets: &[Target::LINUX],
    capabilities: Capabilities {
        delegated: true,
        checkpoints: true,
        ..Capabilities::NONE
    },
    extra_features: FeatureSet::EMPTY,
    isolation_level: IsolationLevel::Container,
    persistence: Persistence::Ephemeral,
    egress: Egress::Open,
    ttl: TtlEnforcement::None,
    coordinator: CoordinatorMode::Never,
    classes: None,
    work_root: "/unused",
    section: &SECTION,
    immutable_labels: &[],
    outlives_host: true,
    catalog: CatalogFacts {
        category: "delegated-sandbox",
        location: "provider-managed",
        summary: "a test vendor",
    },
};

/// What goes wrong next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing.
    #[default]
    None,
    /// The create call commits, but its answer is lost before the resource id is known.
    CreateAnswerLost,
    /// The create call commits and reveals the id, then fails.
    CreateFailsAfterId,
    /// Nothing is created.
    CreateRefused,
    /// The create call never returns.
    CreateHangs,
    /// Nobody can tell whether a box is there.
    InspectUnknown,
    /// The vendor accepts the destruction and does not finish it.
    DestroyPending,
    /// The vendor refuses to destroy.
    DestroyFails,
    /// The vendor takes a checkpoint, but its answer is lost.
    CheckpointAnswerLost,
    /// The vendor takes a checkpoint and never answers.
    CheckpointHangs,
}

/// One account of the vendor, shared by every connection to it.
#[derive(Default)]
pub(crate) struct Account {
    pub(crate) machines: Mutex<BTreeMap<String, Machine>>,
    pub(crate) fault: Mutex<Fault>,
    pub(crate) creates: Mutex<usize>,
    pub(crate) destroyed: Mutex<Vec<String>>,
    pub(crate) checkpoints: Mutex<Vec<String>>,
}

impl Account {
    pub(crate) fn fail_with(&self, fault: Fault) {
        *self.fault.lock().unwrap() = fault;
    }

    pub(crate) fn ids(&self) -> Vec<String> {
        self.machines.lock().unwrap().keys().cloned().collect()
    }

    fn fault(&self) -> Fault {
        *self.fault.lock().unwrap()
    }
}

pub(crate) struct Acme {
    pub(crate) account: Arc<Account>,
    pub(crate) disks: PathBuf,
}

impl Provider for Acme {
    fn spec(&self) -> &'static ProviderSpec {
        &SPEC
    }

    fn connect(&self, _settings: Settings, _runtime: Arc<Runtime>) -> Result<Box<dyn Backend>> {
        Ok(Box::new(Connection {
            account: Arc::clone(&self.account),
            disks: self.disks.clone(),
        }))
    }
}

struct Connection {
    account: Arc<Account>,
    disks: PathBuf,
}

impl Connection {
    fn disk(&self, machine: &Machine) -> PathBuf {
        self.disks.join(&machine.resource.id)
    }
}

#[async_trait]
impl Backend for Connection {
    fn scope(&self) -> Scope {
        Scope("account:1".into())
    }

    fn admit(&self, requirements: &Requirements) -> Result<()> {
        match requirements.egress {
            Some(Egress::None) => Err(Error::prerequisite("acme cannot cut the network")),
            _ => Ok(()),
        }
    }

    async fn doctor(&self, _probe: Probe) -> Result<DoctorReport> {
        Ok(DoctorReport::default())
    }

    async fn list(&self, _query: ListQuery) -> Result<Inventory> {
        Ok(Inventory::complete(
            self.account.machines.lock().unwrap().values().cloned().collect(),
        ))
    }

    fn delegated(&self) -> Option<&dyn DelegatedRunBackend> {
        Some(self)
    }

    fn checkpoints(&self) -> Option<&dyn Checkpoints> {
        Some(self)
    }
}

#[async_trait]
impl Checkpoints for Connection {
    fn preferred(&self) -> bool {
        true
    }

    fn planned(&self, request: &CreateCheckpoint) -> Option<NativeCheckpoint> {
        Some(NativeCheckpoint::new("acme", "acme-image", request.id.as_str()))
    }

    async fn create(&self, _machine: &Machine, request: &CreateCheckpoint) -> Result<NativeCheckpoint> {
        self.account.checkpoints.lock().unwrap().push(request.id.to_string());
        match self.account.fault() {
            Fault::CheckpointAnswerLost => Err(Error::other("connection reset")),
            Fault::CheckpointHangs => std::future::pending().await,
            _ => Ok(NativeCheckpoint::new("acme", "acme-image", request.id.as_str())),
        }
    }

    async fn inspect(&self, checkpoint: &NativeCheckpoint) -> Result<CheckpointObserved> {
        let there = self.account.checkpoints.lock().unwrap().contains(&checkpoint.image_id);
        Ok(if there {
            CheckpointObserved::Present(checkpoint.clone())
        } else {
            CheckpointObserved::Absent
        })
    }

    async fn restore(&self, _machine: &Machine, _checkpoint: &NativeCheckpoint) -> Result<()> {
        Err(Error::usage("acme restores nothing in place"))
    }

    async fn delete(&self, checkpoint: &NativeCheckpoint) -> Result<()> {
        self.account
            .checkpoints
            .lock()
            .unwrap()
            .retain(|id| *id != checkpoint.image_id);
        Ok(())
    }
}

#[async_trait]
impl Lifecycle for Connection {
    async fn create(&self, request: &CreateLease, journal: &mut dyn Journal) -> Result<Machine> {
        let number = {
            let mut creates = self.account.creates.lock().unwrap();
            *creates += 1;
            *creates
        };
        let fault = self.account.fault();
        if fault == Fault::CreateRefused {
            return Err(Error::readiness("acme has no capacity").with_facts(|facts| facts.capacity = true));
        }
        let resource = ResourceId::new(&request.name).with_immutable(format!("uid-{number}"));
        let mut machine = Machine::new("acme", resource.clone(), request.labels.clone(), request.target);
        machine.work_root = self
            .disks
            .join(&request.name)
            .join("work")
            .to_string_lossy()
            .into_owned();
        std::fs::create_dir_all(&machine.work_root).unwrap();
        self.account
            .machines
            .lock()
            .unwrap()
            .insert(request.name.clone(), machine.clone());
        match fault {
            Fault::CreateAnswerLost => {
                return Err(Error::other("connection reset").with_facts(|facts| facts.outcome_unknown = true));
            }
            Fault::CreateHangs => std::future::pending().await,
            _ => {}
        }
        journal.resource_known(&resource).await?;
        if fault == Fault::CreateFailsAfterId {
            return Err(Error::other("acme answered 500"));
        }
        Ok(machine)
    }

    async fn inspect(&self, binding: &Binding) -> Result<Observed> {
        if self.account.fault() == Fault::InspectUnknown {
            return Ok(Observed::Unknown(Error::other("acme answered 503")));
        }
        let machines = self.account.machines.lock().unwrap();
        let found = match &binding.resource {
            Some(resource) => machines.get(&resource.id),
            None => machines
                .values()
                .find(|machine| machine.lease().as_ref() == Some(&binding.lease)),
        };
        Ok(match found {
            Some(machine) => Observed::Present(Box::new(machine.clone())),
            None => Observed::Absent(Absence::NotFound),
        })
    }

    async fn update_labels(&self, machine: &Machine, labels: &Labels) -> Result<()> {
        let mut machines = self.account.machines.lock().unwrap();
        let machine = machines
            .get_mut(&machine.resource.id)
            .ok_or_else(|| Error::identity("gone"))?;
        machine.labels = labels.clone();
        Ok(())
    }

    async fn destroy(&self, binding: &VerifiedBinding<'_>) -> Result<Outcome> {
        match self.account.fault() {
            Fault::DestroyPending => return Ok(Outcome::Pending),
            Fault::DestroyFails => return Err(Error::other("acme answered 500")),
            _ => {}
        }
        let id = binding.resource().id.clone();
        self.account.machines.lock().unwrap().remove(&id);
        let _ = std::fs::remove_dir_all(self.disks.join(&id));
        self.account.destroyed.lock().unwrap().push(id);
        Ok(Outcome::Deleted)
    }
}

#[async_trait]
impl DelegatedRunBackend for Connection {
    async fn exec(&self, machine: &Machine, request: ExecRequest, output: &mut dyn OutputSink) -> Result<ExecStatus> {
        let workdir = request
            .workdir
            .map_or_else(|| self.disk(machine), |path| PathBuf::from(path.as_str()));
        let mut command = std::process::Command::new(&request.argv[0]);
        command.args(&request.argv[1..]).current_dir(workdir).envs(&request.env);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = tokio::process::Command::from(command)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let feed = tokio::spawn(async move {
            match request.stdin {
                Stdin::Empty => {}
                Stdin::Bytes(bytes) => drop(stdin.write_all(&bytes).await),
                Stdin::Stream(mut reader) => drop(tokio::io::copy(&mut reader, &mut stdin).await),
            }
        });
        let (mut stdout, mut stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let (mut out, mut err) = (vec![0; 4096], vec![0; 4096]);
        let (mut out_open, mut err_open) = (true, true);
        while out_open || err_open {
            tokio::select! {
                () = request.cancel.cancelled() => return Err(Error::cancelled("interrupted")),
                read = stdout.read(&mut out), if out_open => match read.unwrap() {
                    0 => out_open = false,
                    n => output.write(OutputStream::Stdout, Bytes::copy_from_slice(&out[..n])).await?,
                },
                read = stderr.read(&mut err), if err_open => match read.unwrap() {
                    0 => err_open = false,
                    n => output.write(OutputStream::Stderr, Bytes::copy_from_slice(&err[..n])).await?,
                },
            }
        }
        feed.abort();
        Ok(ExecStatus::exited(child.wait().await.unwrap().code().unwrap_or(137)))
    }

    async fn upload(&self, _machine: &Machine, destination: &RemotePath, mut upload: Upload) -> Result<()> {
        use std::os::unix::fs::PermissionsExt as _;
        let path = Path::new(destination.as_str());
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut bytes = Vec::new();
        upload.content.read_to_end(&mut bytes).await.unwrap();
        std::fs::write(path, bytes).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(upload.mode)).unwrap();
        Ok(())
    }
}

/// A home, a checkout and an account, and engines on them.
pub(crate) struct World {
    pub(crate) root: tempfile::TempDir,
    pub(crate) account: Arc<Account>,
    pub(crate) events: Arc<Log>,
}

/// Remembers events.
#[derive(Default)]
pub(crate) struct Log(pub(crate) Mutex<Vec<Event>>);

impl EventSink for Log {
    fn event(&self, event: &Event) {
        self.0.lock().unwrap().push(event.clone());
    }
}

impl Log {
    pub(crate) fn steps(&self) -> Vec<Step> {
        let pick = |event: &Event| match event {
            Event::Step(step) => Some(*step),
            _ => None,
        };
        self.0.lock().unwrap().iter().filter_map(pick).collect()
    }
}

impl World {
    pub(crate) fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        for name in ["checkout", "disks", "home"] {
            std::fs::create_dir(root.path().join(name)).unwrap();
        }
        std::fs::write(
            root.path().join("checkout/.crabbox.yaml"),
            "provider: acme\nsync:\n  source: directory\n",
        )
        .unwrap();
        std::fs::write(root.path().join("checkout/hello.txt"), "hello\n").unwrap();
        Self {
            root,
            account: Arc::default(),
            events: Arc::default(),
        }
    }

    pub(crate) fn checkout(&self) -> PathBuf {
        self.root.path().join("checkout")
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.root.path().join("home/.config/crabbox/state")
    }

    pub(crate) fn engine(&self) -> Engine {
        self.engine_in(&self.checkout())
    }

    pub(crate) fn engine_in(&self, directory: &Path) -> Engine {
        self.builder(directory).build()
    }

    pub(crate) fn builder(&self, directory: &Path) -> crabbox_engine::EngineBuilder {
        let provider = Acme {
            account: Arc::clone(&self.account),
            disks: self.root.path().join("disks"),
        };
        let environment = Environment::new([
            ("HOME", self.root.path().join("home").to_str().unwrap()),
            ("PATH", "/usr/local/bin:/usr/bin:/bin"),
        ]);
        Engine::open_with(Registry::new().with(provider), directory, environment)
            .unwrap()
            .events(Arc::clone(&self.events) as Arc<dyn EventSink>)
    }

    /// What is recorded about leases: claims, journal entries and key directories.
    pub(crate) fn records(&self) -> Vec<String> {
        let mut names = Vec::new();
        for directory in ["claims", "journal"] {
            let Ok(entries) = std::fs::read_dir(self.state().join(directory)) else {
                continue;
            };
            names.extend(entries.map(|entry| format!("{directory}/{}", entry.unwrap().file_name().to_string_lossy())));
        }
        names
    }
}

/// Keeps output as text.
#[derive(Default)]
pub(crate) struct Text {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

#[async_trait]
impl OutputSink for Text {
    async fn write(&mut self, stream: OutputStream, chunk: Bytes) -> Result<()> {
        let text = String::from_utf8_lossy(&chunk);
        match stream {
            OutputStream::Stdout => self.stdout.push_str(&text),
            OutputStream::Stderr => self.stderr.push_str(&text),
        }
        Ok(())
    }
}
