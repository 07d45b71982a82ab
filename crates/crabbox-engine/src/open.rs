//! Opening an engine in a program of one's own.

use std::path::Path;

use crabbox_config::Loader;
use crabbox_core::runtime::{Directories, Environment, Runtime};
use crabbox_core::{ErrorKind, IntoError as _, Result};
use crabbox_state::Dirs;

use crate::engine::{Engine, EngineBuilder};
use crate::registry::Registry;

impl Engine {
    /// Opens an engine as the command line does: config from files and variables, state in the user's directories.
    ///
    /// # Errors
    /// `Usage` for a config that cannot be read.
    pub fn open(registry: Registry, directory: impl AsRef<Path>) -> Result<Self> {
        Ok(Self::open_with(registry, directory.as_ref(), process_environment())?.build())
    }

    /// Opens an engine with an environment of the caller's choice, still to be built.
    ///
    /// # Errors
    /// As [`Engine::open`].
    pub fn open_with(registry: Registry, directory: &Path, environment: Environment) -> Result<EngineBuilder> {
        let directory = std::path::absolute(directory)
            .or_error(ErrorKind::Usage, || format!("find directory `{}`", directory.display()))?;
        let executable = std::env::current_exe().or_error(ErrorKind::Other, || "find this executable".to_owned())?;
        let dirs = Dirs::resolve(|name| {
            environment
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, value)| value.to_owned())
        })?;
        let directories = Directories {
            config: dirs.config,
            state: dirs.state,
            cache: dirs.cache,
        };
        let sections = registry.specs().into_iter().map(|spec| spec.section);
        let config = Loader::new(environment.clone(), &directory)
            .providers(sections)
            .load()?;
        let runtime = Runtime::new(directories, executable, environment);
        Ok(Self::builder(registry, config, runtime, directory))
    }
}

/// The environment of this process, for programs that pass it on unchanged.
pub fn process_environment() -> Environment {
    Environment::new(std::env::vars_os())
}
