//! The built executable in an environment of its own.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crabbox_core::runtime::{Directories, Environment, Runtime};
use crabbox_provider_kit::Subprocess;
use rustix::process::{Pid, Signal};
use tempfile::TempDir;

use crate::leaks::LeakGuard;
use crate::processes::contains;
use crate::snapshot::Normaliser;

/// Where programs are found in tests.
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Longest run of one command.
const PATIENCE: Duration = Duration::from_secs(120);

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

/// One command line.
#[derive(Clone, Debug)]
#[must_use = "a command line does nothing until it runs"]
pub struct Invocation {
    program: PathBuf,
    args: Vec<OsString>,
    dir: PathBuf,
    variables: BTreeMap<OsString, OsString>,
    stdin: Vec<u8>,
}

impl Invocation {
    /// Sets the working directory.
    pub fn dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = dir.into();
        self
    }

    /// Sets a variable.
    pub fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.variables.insert(name.into(), value.into());
        self
    }

    /// Sets what it reads; nothing otherwise.
    pub fn stdin(mut self, content: impl Into<Vec<u8>>) -> Self {
        self.stdin = content.into();
        self
    }

    /// Runs it to its end.
    ///
    /// # Panics
    /// When it cannot be started or does not end within two minutes; then its process group is killed.
    #[must_use = "a command's end must be looked at"]
    pub fn run(self) -> Finished {
        self.start().wait()
    }

    /// Starts it as the leader of a process group of its own.
    ///
    /// # Panics
    /// When it cannot be started.
    #[expect(clippy::disallowed_methods, reason = "tests start the executable as a shell would")]
    pub fn start(self) -> Running {
        let mut command = std::process::Command::new(&self.program);
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = command
            .args(&self.args)
            .current_dir(&self.dir)
            .env_clear()
            .envs(&self.variables)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("start {} in {}: {error}", self.program.display(), self.dir.display()));
        let mut stdin = child.stdin.take().expect("it was asked for");
        let content = self.stdin;
        std::thread::spawn(move || {
            // A command need not read its input.
            let _written = stdin.write_all(&content);
        });
        let stdout = Drained::of(child.stdout.take().expect("it was asked for"));
        let stderr = Drained::of(child.stderr.take().expect("it was asked for"));
        let line = self
            .args
            .iter()
            .map(|word| word.to_string_lossy().into_owned())
            .collect::<Vec<_>>()
            .join(" ");
        Running {
            child,
            stdout,
            stderr,
            line,
        }
    }
}

/// A stream that a thread reads to its end.
#[derive(Debug)]
struct Drained {
    content: Arc<Mutex<Vec<u8>>>,
    thread: Option<JoinHandle<()>>,
}

impl Drained {
    fn of(mut stream: impl std::io::Read + Send + 'static) -> Self {
        let content = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&content);
        let thread = std::thread::spawn(move || {
            let mut chunk = vec![0; 64 * 1024];
            // What was read before a failure is still worth showing.
            while let Ok(length @ 1..) = stream.read(&mut chunk) {
                shared
                    .lock()
                    .expect("nobody panics while holding it")
                    .extend_from_slice(&chunk[..length]);
            }
        });
        Self {
            content,
            thread: Some(thread),
        }
    }

    fn so_far(&self) -> Vec<u8> {
        self.content.lock().expect("nobody panics while holding it").clone()
    }

    fn finish(&mut self) -> Vec<u8> {
        if let Some(thread) = self.thread.take() {
            thread.join().expect("reading does not panic");
        }
        self.so_far()
    }
}

/// A command that was started. Dropping it kills its process group.
#[derive(Debug)]
#[must_use = "a command that nobody waits for is killed"]
pub struct Running {
    child: Child,
    stdout: Drained,
    stderr: Drained,
    line: String,
}

impl Running {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal; only the process itself, as `kill` does.
    ///
    /// # Panics
    /// When it has been waited for.
    pub fn signal(&self, signal: Signal) {
        rustix::process::kill_process(self.leader(), signal).expect("the command has not been waited for");
    }

    /// Waits until its standard output holds a text.
    ///
    /// # Panics
    /// When it ends, or thirty seconds pass, without.
    pub fn until_stdout(&mut self, text: &str) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !contains(&self.stdout.so_far(), text.as_bytes()) {
            let ended = self.child.try_wait().expect("a child can be waited for");
            if let Some(status) = ended.or_else(|| (Instant::now() > deadline).then(ExitStatus::default)) {
                let finished = self.collect_early(status);
                panic!("{text:?} never came\n{finished}");
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it does not end within two minutes; then its process group is killed.
    #[must_use = "a command's end must be looked at"]
    pub fn wait(mut self) -> Finished {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                break status;
            }
            if Instant::now() > deadline {
                let line = self.line.clone();
                let finished = self.killed();
                panic!("`{line}` did not end within {PATIENCE:?}\n{finished}");
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        self.collect(status)
    }

    fn killed(mut self) -> Finished {
        self.kill_group();
        let status = self.child.wait().expect("a child can be waited for");
        self.collect(status)
    }

    fn collect_early(&self, status: ExitStatus) -> Finished {
        let (stdout, stderr) = (self.stdout.so_far(), self.stderr.so_far());
        Finished {
            status,
            stdout,
            stderr,
            line: self.line.clone(),
        }
    }

    fn collect(&mut self, status: ExitStatus) -> Finished {
        Finished {
            status,
            stdout: self.stdout.finish(),
            stderr: self.stderr.finish(),
            line: self.line.clone(),
        }
    }

    fn leader(&self) -> Pid {
        i32::try_from(self.child.id())
            .ok()
            .and_then(Pid::from_raw)
            .expect("process ids are positive")
    }

    fn kill_group(&self) {
        // The only failure that can occur is that nobody is left.
        let _gone = rustix::process::kill_process_group(self.leader(), Signal::KILL);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.kill_group();
            // It was just killed, so this does not block.
            let _reaped = self.child.wait();
        }
    }
}

/// How a command ended.
#[derive(Clone, Debug)]
pub struct Finished {
    /// Exit status or signal.
    pub status: ExitStatus,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
    line: String,
}

impl Finished {
    /// Standard output as text.
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard error as text.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// Exit status, unless a signal ended it.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Signal that ended it, if one did.
    pub fn signal(&self) -> Option<i32> {
        std::os::unix::process::ExitStatusExt::signal(&self.status)
    }

    /// Checks the exit status.
    ///
    /// # Panics
    /// With both streams, when it is another.
    #[track_caller]
    pub fn expect_code(self, code: i32) -> Self {
        assert_eq!(self.code(), Some(code), "{self}");
        self
    }

    /// Checks that it succeeded.
    ///
    /// # Panics
    /// With both streams, when it did not.
    #[track_caller]
    pub fn expect_success(self) -> Self {
        self.expect_code(0)
    }
}

/// Command line, status and both streams.
impl fmt::Display for Finished {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "$ {}\n{}\n--- stdout ---\n{}\n--- stderr ---\n{}",
            self.line,
            self.status,
            self.stdout(),
            self.stderr()
        )
    }
}

#[cfg(test)]
mod tests {
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
