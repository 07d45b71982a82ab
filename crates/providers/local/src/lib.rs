//! Provider `local`: disposable, isolated workspaces on this machine, without a daemon and without credentials.
//!
//! A box is a directory of the user's state and, on Linux, a set of namespaces around it. [`LocalProvider`] is the whole
//! public surface; see `docs/providers/local.md` for what a box isolates and what it does not.

mod backend;
mod boxes;
mod checkpoints;
mod config;
mod doctor;
mod expiry;
#[cfg(target_os = "linux")]
mod linux;
mod plain;
mod plan;
mod store;
mod tree;

use std::sync::Arc;

pub use config::LocalConfig;
use crabbox_core::backend::{Backend, Capabilities, Helper, Provider};
use crabbox_core::error::Result;
use crabbox_core::runtime::Runtime;
use crabbox_core::section::Section as _;
use crabbox_core::settings::Settings;
use crabbox_core::spec::{
    CatalogFacts, CoordinatorMode, Egress, FeatureSet, IsolationLevel, Persistence, ProviderKind, ProviderSpec, Target,
    TtlEnforcement,
};

/// First argument by which the executable becomes the supervisor of a box.
pub const HELPER_WORD: &str = "__local-box";

/// Directory inside a box below which workspaces live.
const WORK_ROOT: &str = "/work/crabbox";

/// Home inside a box.
const HOME: &str = "/home/crabbox";

/// User name inside a box.
const USER: &str = "crabbox";

#[cfg(target_os = "macos")]
const TARGETS: &[Target] = &[Target::MACOS];
#[cfg(windows)]
const TARGETS: &[Target] = &[Target::WINDOWS];
#[cfg(not(any(target_os = "macos", windows)))]
const TARGETS: &[Target] = &[Target::LINUX];

#[cfg(target_os = "linux")]
const STRONGEST: (IsolationLevel, Egress, TtlEnforcement) =
    (IsolationLevel::Container, Egress::None, TtlEnforcement::Provider);
#[cfg(not(target_os = "linux"))]
const STRONGEST: (IsolationLevel, Egress, TtlEnforcement) = (IsolationLevel::None, Egress::Open, TtlEnforcement::None);

/// What the provider is.
pub static SPEC: ProviderSpec = ProviderSpec {
    name: "local",
    aliases: &["local-sandbox"],
    family: "local",
    kind: ProviderKind::DelegatedRun,
    targets: TARGETS,
    capabilities: Capabilities {
        delegated: true,
        pause: true,
        checkpoints: true,
        files: true,
        host_workspace: true,
        ..Capabilities::NONE
    },
    extra_features: FeatureSet::EMPTY,
    isolation_level: STRONGEST.0,
    persistence: Persistence::Checkpoint,
    egress: STRONGEST.1,
    ttl: STRONGEST.2,
    outlives_host: false,
    coordinator: CoordinatorMode::Never,
    classes: None,
    work_root: WORK_ROOT,
    section: LocalConfig::SCHEMA,
    immutable_labels: &[],
    catalog: CatalogFacts {
        category: "local-sandbox",
        location: "local",
        summary: "Disposable, isolated workspaces on this machine",
    },
};

/// The provider.
#[derive(Clone, Copy, Debug, Default)]
pub struct LocalProvider;

impl Provider for LocalProvider {
    fn spec(&self) -> &'static ProviderSpec {
        &SPEC
    }

    fn connect(&self, settings: Settings, runtime: Arc<Runtime>) -> Result<Box<dyn Backend>> {
        Ok(Box::new(backend::Local::new(settings.section()?, runtime)))
    }

    #[cfg(target_os = "linux")]
    fn helper(&self) -> Option<Helper> {
        Some(Helper {
            word: HELPER_WORD,
            main: linux::helper_main,
        })
    }
}

/// Random lower-case hex, two digits per byte.
fn token(bytes: usize) -> String {
    let mut buffer = vec![0; bytes];
    // The kernel's random source does not fail once it has been seeded at boot; a clash would be refused by `create_new`.
    if getrandom::fill(&mut buffer).is_err() {
        let now = jiff::Timestamp::now().as_nanosecond().to_le_bytes();
        for (place, byte) in buffer.iter_mut().zip(now) {
            *place = byte;
        }
    }
    crabbox_core::id::hex(&buffer)
}
