//! The built executable in an environment of its own.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crabbox_core::runtime::{Directories, Environment, Runtime};
use crabbox_provider_kit::Subprocess;
use tempfile::TempDir;

use crate::invocation::{Finished, Invocation};
use crate::leaks::LeakGuard;
use crate::snapshot::Normaliser;

/// Where programs are found in tests.
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A home of its own and nothing of the developer's: no variables, no config, no state, no network settings.
///
/// Everything lies below one short directory in `/tmp`, since the names of Unix sockets are short, and vanishes with it.
#[derive(Debug)]
pub struct TestEnv {
    binary: PathBuf,
    root: TempDir,
    variables: BTreeMap<OsString, OsString>,
}

impl TestEnv {
    /// Makes an environment for an executable, such as `env!("CARGO_BIN_EXE_crabbox")`.
    ///
    /// # Panics
    /// When directories cannot be made.
    pub fn new(binary: impl Into<PathBuf>) -> Self {
        let root = tempfile::Builder::new()
            .prefix("cbx-")
            .tempdir_in("/tmp")
            .expect("/tmp is writable");
        let mut variables = BTreeMap::new();
        let mut set = |name: &str, value: &dyn AsRef<std::ffi::OsStr>| {
            variables.insert(OsString::from(name), value.as_ref().to_owned());
        };
        for (name, directory) in [
            ("HOME", "home"),
            ("XDG_CONFIG_HOME", "c"),
            ("XDG_STATE_HOME", "s"),
            ("XDG_CACHE_HOME", "k"),
            ("XDG_DATA_HOME", "d"),
            ("XDG_RUNTIME_DIR", "r"),
            ("TMPDIR", "t"),
        ] {
            let path = root.path().join(directory);
            std::fs::create_dir(&path).expect("a directory can be made");
            let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
            std::fs::set_permissions(&path, private).expect("a directory can be made private");
            set(name, &path);
        }
        set("PATH", &PATH);
        set("LANG", &"C.UTF-8");
        set("TERM", &"dumb");
        Self {
            binary: binary.into(),
            root,
            variables,
        }
    }

    /// Directory that holds everything.
    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// A path below it, for checkouts and files of a test.
    pub fn path(&self, relative: &str) -> PathBuf {
        self.root.path().join(relative)
    }

    /// The user's home directory.
    pub fn home(&self) -> PathBuf {
        self.path("home")
    }

    /// Crabbox's own directories.
    pub fn directories(&self) -> Directories {
        Directories {
            config: self.path("c/crabbox"),
            state: self.path("s/crabbox"),
            cache: self.path("k/crabbox"),
        }
    }

    /// Sets a variable for every command from now on.
    pub fn set(&mut self, name: &str, value: impl Into<OsString>) {
        self.variables.insert(name.into(), value.into());
    }

    /// The variables that commands get.
    pub fn variables(&self) -> &BTreeMap<OsString, OsString> {
        &self.variables
    }

    /// Writes the user's config file.
    ///
    /// # Panics
    /// When that fails.
    #[expect(
        clippy::disallowed_methods,
        reason = "a config file is written as an editor writes it"
    )]
    pub fn write_config(&self, yaml: &str) {
        let directory = self.directories().config;
        std::fs::create_dir_all(&directory).expect("the config directory can be made");
        std::fs::write(directory.join("config.yaml"), yaml).expect("the config file can be written");
    }

    /// Starts to watch for what is left behind.
    pub fn leak_guard(&self) -> LeakGuard {
        LeakGuard::new(&self.directories())
    }

    /// Replaces what differs from run to run, this environment's own paths first.
    pub fn normaliser(&self) -> Normaliser {
        Normaliser::new()
            .path(self.root(), "[ROOT]")
            .path(&self.home(), "[HOME]")
    }

    /// A command line, to be changed before it runs.
    pub fn command<S: Into<OsString>>(&self, args: impl IntoIterator<Item = S>) -> Invocation {
        Invocation {
            program: self.binary.clone(),
            args: args.into_iter().map(Into::into).collect(),
            dir: self.home(),
            variables: self.variables.clone(),
            stdin: Vec::new(),
        }
    }

    /// Runs the executable in the home directory.
    #[must_use = "a command's end must be looked at"]
    pub fn run<S: Into<OsString>>(&self, args: impl IntoIterator<Item = S>) -> Finished {
        self.command(args).run()
    }

    /// Runs the executable in a directory, such as a checkout.
    #[must_use = "a command's end must be looked at"]
    pub fn run_in<S: Into<OsString>>(&self, dir: &Path, args: impl IntoIterator<Item = S>) -> Finished {
        self.command(args).dir(dir).run()
    }
}

/// A runtime with real child processes and time, for directories of a test and an executable that serves the provider's
/// [`Helper`](crabbox_core::backend::Helper).
pub fn runtime(directories: Directories, executable: impl Into<PathBuf>, environment: Environment) -> Runtime {
    let mut runtime = Runtime::new(directories, executable.into(), environment);
    runtime.commands = Arc::new(Subprocess);
    runtime
}

#[cfg(test)]
mod tests {
    use rustix::process::Signal;

    use super::*;

    #[test]
    fn the_environment_is_empty_but_for_its_own() {
        let mut environment = TestEnv::new("/usr/bin/env");
        environment.set("EXTRA", "1");
        let finished = environment.run([] as [&str; 0]).expect_success();
        let mut names: Vec<String> = finished
            .stdout()
            .lines()
            .map(|line| line.split('=').next().unwrap().to_owned())
            .collect();
        names.sort();
        assert_eq!(
            names,
            [
                "EXTRA",
                "HOME",
                "LANG",
                "PATH",
                "TERM",
                "TMPDIR",
                "XDG_CACHE_HOME",
                "XDG_CONFIG_HOME",
                "XDG_DATA_HOME",
                "XDG_RUNTIME_DIR",
                "XDG_STATE_HOME"
            ]
        );
        assert!(environment.root().as_os_str().len() < 20);
    }

    #[test]
    fn streams_status_and_signals_come_back() {
        let environment = TestEnv::new("/bin/sh");
        let finished = environment
            .command(["-c", "cat; echo error >&2; pwd; exit 3"])
            .stdin("in ")
            .run()
            .expect_code(3);
        assert_eq!(finished.stdout(), format!("in {}\n", environment.home().display()));
        assert_eq!(finished.stderr(), "error\n");
        let running = environment.command(["-c", "exec sleep 1000"]).start();
        running.signal(Signal::KILL);
        assert_eq!(running.wait().signal(), Some(9));
    }

    #[test]
    fn what_was_dropped_is_killed() {
        let environment = TestEnv::new("/bin/sh");
        let running = environment.command(["-c", "sleep 1000 & sleep 1000"]).start();
        let pid = running.pid();
        drop(running);
        assert!(crate::processes::all().iter().all(|process| process.pid != pid));
        environment.leak_guard().assert_clean();
    }
}
