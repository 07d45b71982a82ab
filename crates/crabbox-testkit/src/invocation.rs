//! One call of an executable: starting it, watching it, looking at its end.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use crate::processes::contains;

/// Longest run of one command.
const PATIENCE: Duration = Duration::from_secs(120);

/// One command line.
#[derive(Clone, Debug)]
#[must_use = "a command line does nothing until it runs"]
pub struct Invocation {
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<OsString>,
    pub(crate) dir: PathBuf,
    pub(crate) variables: BTreeMap<OsString, OsString>,
    pub(crate) stdin: Vec<u8>,
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
