//! The behaviours that every provider shares, on real boxes of this machine.
#![cfg(target_os = "linux")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use crabbox_core::runtime::{Directories, Environment, Runtime};
use crabbox_core::{Provider, Settings};
use crabbox_provider_local::LocalProvider;
use crabbox_testkit::LeakGuard;
use crabbox_testkit::behaviour::Fixture;
use tempfile::TempDir;

crabbox_testkit::delegated_behaviour!(start);

/// A user's directories of a test's own.
struct Home {
    runtime: Arc<Runtime>,
    scratch: PathBuf,
    guard: LeakGuard,
    _root: TempDir,
}

async fn start() -> Home {
    let root = tempfile::Builder::new()
        .prefix("cbx-")
        .tempdir_in("/tmp")
        .expect("/tmp is writable");
    let under = |name: &str| root.path().join(name);
    let directories = Directories {
        config: under("c"),
        state: under("s"),
        cache: under("k"),
    };
    std::fs::create_dir(under("scratch")).expect("a directory can be made");
    let home = under("home").into_os_string();
    let environment = Environment::new([
        (
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into(),
        ),
        ("HOME", home),
        ("ACME_TOKEN", "hunter2-is-not-for-boxes".into()),
    ]);
    let guard = LeakGuard::new(&directories);
    let helper = env!("CARGO_BIN_EXE_crabbox-local-helper");
    Home {
        runtime: Arc::new(crabbox_testkit::runtime(directories, helper, environment)),
        scratch: under("scratch"),
        guard,
        _root: root,
    }
}

#[async_trait]
impl Fixture for Home {
    fn provider(&self) -> Arc<dyn Provider> {
        Arc::new(LocalProvider)
    }

    fn settings(&self) -> Settings {
        Settings::default()
    }

    fn runtime(&self) -> Arc<Runtime> {
        Arc::clone(&self.runtime)
    }

    fn scratch(&self) -> &Path {
        &self.scratch
    }

    async fn leftovers(&self) -> Vec<String> {
        self.guard.leaks_after(Duration::from_secs(5))
    }
}
