//! What every command works with.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use clap::parser::ValueSource;
use clap::{ArgMatches, Command};
use crabbox_config::FlagValue;
use crabbox_core::runtime::{Clock as _, Directories, Environment, Runtime, SystemClock};
use crabbox_core::{ErrorKind, IntoError as _, Result};
use crabbox_engine::event::EventSink;
use crabbox_engine::{Engine, Registry};
use crabbox_provider_kit::Subprocess;
use crabbox_state::{Dirs, Disk, RunStore};
use tokio_util::sync::CancellationToken;

use crate::output::Output;
use crate::program::leaf;
use crate::signals;

/// One call of the program.
pub(crate) struct Session {
    /// Both streams.
    pub(crate) output: Arc<Output>,
    /// The environment that the process was started with.
    pub(crate) environment: Environment,
    /// The directory that the process was started in.
    pub(crate) directory: PathBuf,
    /// The providers of this build.
    pub(crate) registry: Registry,
    /// Flags that were given.
    pub(crate) given: GivenFlags,
    /// Cancelled by the first signal.
    pub(crate) cancel: CancellationToken,
}

/// Flags that were written, by their long name, with their values in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct GivenFlags(BTreeMap<String, Vec<String>>);

impl GivenFlags {
    /// Takes what was written, not what defaults say.
    pub(crate) fn collect(command: &Command, matches: &ArgMatches) -> Self {
        let (leaf, matches) = leaf(command, matches);
        let mut flags = BTreeMap::new();
        for argument in leaf.get_arguments().filter(|argument| !argument.is_positional()) {
            let id = argument.get_id().as_str();
            if matches.value_source(id) != Some(ValueSource::CommandLine) {
                continue;
            }
            let Some(long) = argument.get_long() else { continue };
            let values = matches.get_raw(id).into_iter().flatten();
            flags.insert(
                long.to_owned(),
                values.map(|value| value.to_string_lossy().into_owned()).collect(),
            );
        }
        Self(flags)
    }

    /// Every flag with its values.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &[String])> {
        self.0.iter().map(|(name, values)| (name.as_str(), values.as_slice()))
    }
}

impl Session {
    /// Where things are kept.
    pub(crate) fn dirs(&self) -> Result<Dirs> {
        Dirs::resolve(|name| {
            let found = self.environment.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| value.to_os_string())
        })
    }

    /// Where things are kept, as the runtime names it.
    pub(crate) fn directories(&self) -> Result<Directories> {
        let dirs = self.dirs()?;
        Ok(Directories {
            config: dirs.config,
            state: dirs.state,
            cache: dirs.cache,
        })
    }

    /// Records of runs on this machine.
    pub(crate) fn runs(&self) -> Result<RunStore> {
        let now = Arc::new(|| SystemClock.now());
        Ok(RunStore::new(
            &self.dirs()?,
            Disk::new(),
            crabbox_state::process::Client::current(),
            now,
        ))
    }

    /// Runs work that waits for boxes, locks and signals.
    pub(crate) fn wait<T>(&self, work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .or_error(ErrorKind::Other, || "worker threads cannot be started".to_owned())?;
        let result = runtime.block_on(async {
            signals::install(&self.cancel).or_error(ErrorKind::Other, || "signals cannot be handled".to_owned())?;
            work.await
        });
        // A blocked write to a stopped terminal must not keep the process from ending.
        runtime.shutdown_background();
        result
    }

    /// The engine, with the config that files, variables and flags make. Warnings about them are printed.
    pub(crate) fn engine(&self, events: Arc<dyn EventSink>) -> Result<Engine> {
        self.engine_with(events, Vec::new())
    }

    /// As [`Session::engine`], with settings that are weaker than flags and stronger than everything else.
    pub(crate) fn engine_with(&self, events: Arc<dyn EventSink>, settings: Vec<FlagValue>) -> Result<Engine> {
        let config = self.config_with(settings)?;
        let executable =
            std::env::current_exe().or_error(ErrorKind::Other, || "this executable cannot be found".to_owned())?;
        let mut runtime = Runtime::new(self.directories()?, executable, self.environment.clone());
        runtime.commands = Arc::new(Subprocess);
        Ok(Engine::builder(self.registry.clone(), config, runtime, &self.directory)
            .events(events)
            .cancel(self.cancel.clone())
            .build())
    }
}
