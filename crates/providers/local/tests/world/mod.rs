//! A state directory of its own, a connected backend, and the engine's part in short.
#![allow(dead_code, clippy::allow_attributes, reason = "each test file uses its own share")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crabbox_core::authority::{HeldLock, verify};
use crabbox_core::backend::{Backend, open};
use crabbox_core::error::Result;
use crabbox_core::id::{LeaseId, Slug};
use crabbox_core::labels::{LabelInputs, Labels};
use crabbox_core::machine::{Binding, Machine, Observed, Outcome, ResourceId};
use crabbox_core::remote::{Capture, ExecRequest, ExecStatus};
use crabbox_core::request::{CreateLease, Journal, ListQuery, NativeCheckpoint, Requirements};
use crabbox_core::runtime::{Directories, Environment, NoticeLevel, Notices, Runtime};
use crabbox_core::section::Section as _;
use crabbox_core::settings::Settings;
use crabbox_core::spec::Target;
use crabbox_provider_local::{LocalConfig, LocalProvider};

pub(crate) struct World {
    pub(crate) root: tempfile::TempDir,
    pub(crate) backend: Box<dyn Backend>,
    pub(crate) notices: Arc<Heard>,
}

#[derive(Debug, Default)]
pub(crate) struct Heard(pub(crate) Mutex<Vec<String>>);

impl Notices for Heard {
    fn notice(&self, _level: NoticeLevel, line: &str) {
        self.0.lock().unwrap().push(line.to_owned());
    }
}

#[derive(Debug, Default)]
pub(crate) struct Noted(pub(crate) Vec<ResourceId>);

#[async_trait::async_trait]
impl Journal for Noted {
    async fn resource_known(&mut self, resource: &ResourceId) -> Result<()> {
        self.0.push(resource.clone());
        Ok(())
    }
    async fn note(&mut self, _key: &str, _value: &str) -> Result<()> {
        Ok(())
    }
}

pub(crate) struct Lock(pub(crate) LeaseId);

impl HeldLock for Lock {
    fn lease(&self) -> &LeaseId {
        &self.0
    }
}

/// How a box differs from the usual one.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    pub(crate) ttl: Duration,
    pub(crate) idle: Duration,
    pub(crate) requirements: Requirements,
    pub(crate) restore_from: Option<NativeCheckpoint>,
}

impl Default for Wish {
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(600),
            idle: Duration::from_secs(600),
            requirements: Requirements::default(),
            restore_from: None,
        }
    }
}

pub(crate) fn helper() -> PathBuf {
    // The tests may run as another user, who cannot reach the build directory.
    #[expect(clippy::disallowed_methods, reason = "the parent test says where the copy is")]
    let copy = std::env::var_os("CRABBOX_TEST_HELPER");
    copy.map_or_else(
        || PathBuf::from(env!("CARGO_BIN_EXE_crabbox-local-helper")),
        PathBuf::from,
    )
}

impl World {
    pub(crate) fn new(pairs: &[(&str, &str)]) -> Self {
        Self::with_environment(
            pairs,
            Environment::new([("PATH", "/usr/local/bin:/usr/bin:/bin"), ("HOME", "/root")]),
        )
    }

    pub(crate) fn with_environment(pairs: &[(&str, &str)], environment: Environment) -> Self {
        let root = tempfile::tempdir().unwrap();
        let notices = Arc::new(Heard::default());
        let backend = connect(root.path(), pairs, environment, notices.clone());
        Self { root, backend, notices }
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.root.path().join("state")
    }

    pub(crate) fn directory(&self, machine: &Machine) -> PathBuf {
        self.state().join("local/boxes").join(&machine.resource.id)
    }

    pub(crate) async fn create(&self) -> Machine {
        self.create_with(Wish::default()).await.unwrap()
    }

    pub(crate) async fn create_with(&self, wish: Wish) -> Result<Machine> {
        let mut journal = Noted::default();
        let request = request(wish);
        let machine = self.backend.delegated().unwrap().create(&request, &mut journal).await?;
        assert_eq!(journal.0, std::slice::from_ref(&machine.resource));
        Ok(machine)
    }

    pub(crate) async fn exec(&self, machine: &Machine, request: ExecRequest) -> Result<(ExecStatus, String, String)> {
        let mut capture = Capture::new(64 * 1024 * 1024);
        let status = self
            .backend
            .delegated()
            .unwrap()
            .exec(machine, request, &mut capture)
            .await?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok((status, text(capture.stdout()), text(capture.stderr())))
    }

    /// Runs a shell script and returns its status and what it printed, errors behind.
    pub(crate) async fn sh(&self, machine: &Machine, script: &str) -> (i32, String) {
        let (status, stdout, stderr) = self.exec(machine, ExecRequest::script(script, [""; 0])).await.unwrap();
        (status.code, stdout + &stderr)
    }

    pub(crate) async fn list(&self) -> Vec<Machine> {
        let inventory = self.backend.list(ListQuery::default()).await.unwrap();
        assert!(inventory.complete);
        inventory.machines
    }

    pub(crate) async fn inspect(&self, machine: &Machine) -> Observed {
        self.backend
            .delegated()
            .unwrap()
            .inspect(&binding(machine))
            .await
            .unwrap()
    }

    pub(crate) async fn destroy(&self, machine: &Machine) -> Outcome {
        let lock = Lock(machine.lease().unwrap());
        let verified = verify(&lock, &binding(machine), &self.backend.scope(), machine.clone()).unwrap();
        self.backend.delegated().unwrap().destroy(&verified).await.unwrap()
    }

    /// Process ids of the supervisor and of the first process of a box.
    pub(crate) fn processes(&self, machine: &Machine) -> (i32, i32) {
        let text = std::fs::read_to_string(self.directory(machine).join("run.json")).unwrap();
        let run: serde_json::Value = serde_json::from_str(&text).unwrap();
        let pid = |name: &str| i32::try_from(run[name]["pid"].as_i64().unwrap()).unwrap();
        (pid("supervisor"), pid("first"))
    }
}

pub(crate) fn connect(
    root: &Path,
    pairs: &[(&str, &str)],
    environment: Environment,
    notices: Arc<Heard>,
) -> Box<dyn Backend> {
    let directories = Directories {
        config: root.join("config"),
        state: root.join("state"),
        cache: root.join("cache"),
    };
    let mut runtime = Runtime::new(directories, helper(), environment);
    runtime.notices = notices;
    let settings = Settings::from_pairs(LocalConfig::SCHEMA, pairs).unwrap();
    open(&LocalProvider, settings, Arc::new(runtime)).unwrap()
}

pub(crate) fn request(wish: Wish) -> CreateLease {
    let bytes: [u8; 6] = {
        let mut bytes = [0; 6];
        getrandom::fill(&mut bytes).unwrap();
        bytes
    };
    let lease: LeaseId = format!("cbx_{}", crabbox_core::id::hex(&bytes)).parse().unwrap();
    let slug = Slug::for_lease(&lease);
    let labels = Labels::for_lease(
        &LabelInputs {
            lease: &lease,
            slug: &slug,
            provider: "local",
            profile: "default",
            class: "",
            server_type: "",
            target: Target::LINUX,
            provider_key: "",
            keep: false,
            ttl: wish.ttl,
            idle_timeout: wish.idle,
            attempt: "cat_1",
        },
        jiff::Timestamp::now(),
    );
    let mut request = CreateLease::new(lease, slug, "cat_1", labels, Target::LINUX);
    request.ttl = wish.ttl;
    request.idle_timeout = wish.idle;
    request.requirements = wish.requirements;
    request.restore_from = wish.restore_from;
    request
}

pub(crate) fn binding(machine: &Machine) -> Binding {
    Binding::new(
        "local",
        crabbox_core::machine::Scope::default(),
        machine.lease().unwrap(),
        Some(machine.resource.clone()),
    )
    .with_required_labels(BTreeMap::new())
}

/// Whether a process of this machine is alive.
pub(crate) fn alive(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// Waits until something holds, for at most ten seconds.
pub(crate) async fn eventually(mut holds: impl FnMut() -> bool) -> bool {
    for _ in 0..1000 {
        if holds() {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    false
}

/// Runs every test of the calling test executable again as an ordinary user, who owns nothing but a temporary directory.
#[expect(
    clippy::disallowed_methods,
    reason = "a child with another user, which no runner offers"
)]
pub(crate) fn again_as_ordinary_user() {
    use std::os::unix::fs::{PermissionsExt as _, chown};
    use std::os::unix::process::CommandExt as _;
    const ORDINARY: u32 = 64_123;
    if !rustix::process::geteuid().is_root() {
        // Then all the other tests are run by an ordinary user already.
        return;
    }
    let place = tempfile::Builder::new().prefix("cbx-user-").tempdir_in("/tmp").unwrap();
    let open = |path: &Path| std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    open(place.path());
    let (tests, supervisor, own) = (
        place.path().join("tests"),
        place.path().join("helper"),
        place.path().join("own"),
    );
    std::fs::copy(std::env::current_exe().unwrap(), &tests).unwrap();
    std::fs::copy(helper(), &supervisor).unwrap();
    std::fs::create_dir(&own).unwrap();
    chown(&own, Some(ORDINARY), Some(ORDINARY)).unwrap();
    for path in [&tests, &supervisor] {
        open(path);
    }
    let output = std::process::Command::new(&tests)
        .args(["--skip", "ordinary_user", "--test-threads", "2"])
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("CRABBOX_TEST_HELPER", &supervisor)
        .env("TMPDIR", &own)
        .current_dir(&own)
        .uid(ORDINARY)
        .gid(ORDINARY)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
