//! The plainest provider: a box is a directory of this machine, its processes are children. It isolates nothing.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a provider for tests only"
)]

mod backend;
mod run;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use crabbox_core::backend::{Backend, Capabilities};
use crabbox_core::error::Result;
use crabbox_core::runtime::{Directories, Environment, Runtime};
use crabbox_core::section::SectionSchema;
use crabbox_core::spec::{
    CatalogFacts, CoordinatorMode, Egress, FeatureSet, IsolationLevel, Persistence, ProviderKind, TtlEnforcement,
};
use crabbox_core::{Provider, ProviderSpec, Settings, Target};
use crabbox_testkit::LeakGuard;
use crabbox_testkit::behaviour::Fixture;
use tempfile::TempDir;

/// One way to be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Defect {
    JournalForgotten,
    JournalIgnored,
    LabelsLate,
    LabelsAdded,
    ListForgets,
    LabelLookupMissing,
    AnythingPresent,
    AdmitsAnything,
    DestroyLeavesProcesses,
    DestroyFailsTwice,
    StatusLost,
    SignalsUnknown,
    ArgumentsThroughShell,
    EnvironmentLeaks,
    StreamsMerged,
    OutputBuffered,
    WaitsForStdin,
    CancelEndsLeaderOnly,
    CancelPoliteOnly,
    CancelIgnored,
    PauseForgotten,
    ModeLost,
    DownloadsAnything,
    CheckpointShared,
    RestoreAdds,
    SecretsInArguments,
}

static SECTION: SectionSchema = SectionSchema::empty("plain");

static SPEC: ProviderSpec = ProviderSpec {
    name: "plain",
    aliases: &[],
    family: "plain",
    kind: ProviderKind::DelegatedRun,
    targets: &[Target::LINUX],
    capabilities: Capabilities {
        delegated: true,
        files: true,
        pause: true,
        checkpoints: true,
        host_workspace: true,
        ..Capabilities::NONE
    },
    extra_features: FeatureSet::EMPTY,
    isolation_level: IsolationLevel::None,
    persistence: Persistence::Checkpoint,
    egress: Egress::Open,
    ttl: TtlEnforcement::None,
    outlives_host: true,
    coordinator: CoordinatorMode::Never,
    classes: None,
    work_root: "",
    section: &SECTION,
    immutable_labels: &["slug"],
    catalog: CatalogFacts {
        category: "test",
        location: "local",
        summary: "directories",
    },
};

/// The provider, right or wrong.
struct Plain(Option<Defect>);

impl Provider for Plain {
    fn spec(&self) -> &'static ProviderSpec {
        &SPEC
    }

    fn connect(&self, _settings: Settings, runtime: Arc<Runtime>) -> Result<Box<dyn Backend>> {
        let backend = backend::Boxes {
            root: runtime.directories.state.join("plain"),
            defect: self.0,
        };
        std::fs::create_dir_all(backend.root.join("boxes")).unwrap();
        std::fs::create_dir_all(backend.root.join("images")).unwrap();
        Ok(Box::new(backend))
    }
}

/// A home for it.
pub(crate) struct Home {
    defect: Option<Defect>,
    runtime: Arc<Runtime>,
    scratch: PathBuf,
    guard: LeakGuard,
    root: TempDir,
}

#[async_trait]
impl Fixture for Home {
    fn provider(&self) -> Arc<dyn Provider> {
        Arc::new(Plain(self.defect))
    }

    fn settings(&self) -> Settings {
        Settings::default()
    }

    fn runtime(&self) -> Arc<Runtime> {
        self.runtime.clone()
    }

    fn scratch(&self) -> &Path {
        &self.scratch
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(if self.defect.is_some() { 8 } else { 120 })
    }

    async fn leftovers(&self) -> Vec<String> {
        self.guard.leaks_after(Duration::from_secs(2))
    }
}

/// What a defect left running ends with the test.
impl Drop for Home {
    fn drop(&mut self) {
        for process in crabbox_testkit::processes::touching(&[self.root.path().to_owned()]) {
            let pid = rustix::process::Pid::from_raw(i32::try_from(process.pid).unwrap()).unwrap();
            // It may have ended by now.
            let _gone = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}

/// A home for a provider that is right.
pub(crate) async fn start() -> Home {
    with(None).await
}

/// A home for a provider that may be wrong.
pub(crate) async fn with(defect: Option<Defect>) -> Home {
    let root = tempfile::Builder::new().prefix("cbx-").tempdir_in("/tmp").unwrap();
    let under = |name: &str| root.path().join(name);
    let directories = Directories {
        config: under("c"),
        state: under("s"),
        cache: under("k"),
    };
    std::fs::create_dir(under("scratch")).unwrap();
    let environment = Environment::new([("PATH", "/usr/bin:/bin"), ("ACME_TOKEN", "hunter2-is-not-for-boxes")]);
    let guard = LeakGuard::new(&directories);
    let runtime = Arc::new(crabbox_testkit::runtime(directories, "/nowhere", environment));
    Home {
        defect,
        runtime,
        scratch: under("scratch"),
        guard,
        root,
    }
}
