//! What a provider gets from the outside: time, HTTP, child processes, directories, a place for notices.
//!
//! Nothing is global, so that every test injects its own.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;

use crate::error::{Error, Result};

/// Everything a provider may use of the outside world.
#[derive(Clone)]
#[non_exhaustive]
pub struct Runtime {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// HTTP.
    pub http: Arc<dyn HttpTransport>,
    /// Child processes.
    pub commands: Arc<dyn CommandRunner>,
    /// Warnings and progress for people.
    pub notices: Arc<dyn Notices>,
    /// Directories of this user.
    pub directories: Directories,
    /// This executable, to start a [`Helper`](crate::backend::Helper) with.
    pub executable: PathBuf,
    /// The environment that this process was started with.
    pub environment: Environment,
}

impl Runtime {
    /// A runtime with real time, and neither HTTP nor child processes until they are set.
    pub fn new(directories: Directories, executable: PathBuf, environment: Environment) -> Self {
        Self {
            clock: Arc::new(SystemClock),
            http: Arc::new(Refused),
            commands: Arc::new(Refused),
            notices: Arc::new(Refused),
            directories,
            executable,
            environment,
        }
    }
}

impl std::fmt::Debug for Runtime {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Runtime")
            .field("directories", &self.directories)
            .finish_non_exhaustive()
    }
}

/// Directories of this user. They may not exist yet.
#[derive(Clone, Debug)]
pub struct Directories {
    /// Config and keys.
    pub config: PathBuf,
    /// Claims, journal, records.
    pub state: PathBuf,
    /// What can be made again.
    pub cache: PathBuf,
}

/// An environment, read once and passed on.
#[derive(Clone, Default)]
pub struct Environment(BTreeMap<OsString, OsString>);

impl Environment {
    /// An environment of the given variables.
    pub fn new<K: Into<OsString>, V: Into<OsString>>(variables: impl IntoIterator<Item = (K, V)>) -> Self {
        Self(
            variables
                .into_iter()
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
        )
    }

    /// The value of a variable, if it is set, not empty, and UTF-8.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0
            .get(std::ffi::OsStr::new(name))?
            .to_str()
            .filter(|value| !value.is_empty())
    }

    /// Every variable.
    pub fn iter(&self) -> impl Iterator<Item = (&std::ffi::OsStr, &std::ffi::OsStr)> {
        self.0.iter().map(|(name, value)| (name.as_os_str(), value.as_os_str()))
    }

    /// Every variable whose name and value are UTF-8.
    pub fn text(&self) -> impl Iterator<Item = (&str, &str)> {
        self.iter()
            .filter_map(|(name, value)| Some((name.to_str()?, value.to_str()?)))
    }
}

/// Names only: values may be secrets.
impl std::fmt::Debug for Environment {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_set().entries(self.0.keys()).finish()
    }
}

/// Time.
#[async_trait]
pub trait Clock: Send + Sync {
    /// Wall-clock time.
    fn now(&self) -> Timestamp;
    /// Time that never goes back, from an arbitrary start.
    fn monotonic(&self) -> Duration;
    /// Waits.
    async fn sleep(&self, duration: Duration);
}

/// The machine's own time.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

#[async_trait]
impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn monotonic(&self) -> Duration {
        static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
        START.get_or_init(std::time::Instant::now).elapsed()
    }

    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}

/// Sends one HTTP request. Retries, paging and redirects are the kit's.
#[async_trait]
pub trait HttpTransport: Send + Sync {
    /// Sends a request and reads the whole answer, at most `limit_bytes` of it.
    ///
    /// # Errors
    /// `Other`, with `retryable` when nothing was sent and `outcome_unknown` when the answer was lost.
    async fn send(&self, request: http::Request<Bytes>, limit_bytes: usize) -> Result<http::Response<Bytes>>;
}

/// One child process of this machine, such as a vendor's CLI.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CommandSpec {
    /// Program, looked up in `PATH` when it has no separator.
    pub program: OsString,
    /// Arguments. Never secrets: other users can read them.
    pub args: Vec<OsString>,
    /// The whole environment of the child.
    pub env: BTreeMap<OsString, OsString>,
    /// Directory to start in.
    pub dir: Option<PathBuf>,
    /// What it reads.
    pub stdin: Bytes,
    /// Most bytes kept of each stream; more ends the process tree with an error.
    pub output_limit_bytes: usize,
    /// Longest run.
    pub timeout: Option<Duration>,
    /// Time between the polite and the forced end.
    pub grace: Duration,
}

impl CommandSpec {
    /// A command with an empty environment and input, 16 MiB of output per stream and 5 s of grace.
    pub fn new<S: Into<OsString>>(program: impl Into<OsString>, args: impl IntoIterator<Item = S>) -> Self {
        Self {
            program: program.into(),
            args: args.into_iter().map(Into::into).collect(),
            env: BTreeMap::new(),
            dir: None,
            stdin: Bytes::new(),
            output_limit_bytes: 16 * 1024 * 1024,
            timeout: None,
            grace: Duration::from_secs(5),
        }
    }
}

/// What a child process left behind.
#[derive(Clone, Debug, Default)]
pub struct CommandOutput {
    /// Exit status; 128 + the signal's number when a signal ended it.
    pub code: i32,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
}

/// Runs child processes.
#[async_trait]
pub trait CommandRunner: Send + Sync {
    /// Runs one to its end. Dropping the future ends its whole process group.
    ///
    /// # Errors
    /// `Prerequisite` when the program does not exist, `Readiness` when output passes its limit, a cancelled error when time
    /// runs out. Any exit status is a result.
    async fn run(&self, spec: CommandSpec) -> Result<CommandOutput>;
}

/// How much a notice matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoticeLevel {
    /// Shown on a terminal only.
    Progress,
    /// Shown always, unless `--quiet`.
    Info,
    /// Shown always, with `warning: ` before it.
    Warning,
}

/// Takes lines for people. Never data, never secrets.
pub trait Notices: Send + Sync {
    /// Takes one line without its newline.
    fn notice(&self, level: NoticeLevel, line: &str);
}

/// What is there until something better is set.
#[derive(Clone, Copy, Debug)]
struct Refused;

#[async_trait]
impl HttpTransport for Refused {
    async fn send(&self, request: http::Request<Bytes>, _limit_bytes: usize) -> Result<http::Response<Bytes>> {
        Err(Error::other(format!(
            "no HTTP transport was given to reach {}",
            request.uri().host().unwrap_or("a host")
        )))
    }
}

#[async_trait]
impl CommandRunner for Refused {
    async fn run(&self, spec: CommandSpec) -> Result<CommandOutput> {
        Err(Error::other(format!(
            "no command runner was given to start {}",
            spec.program.to_string_lossy()
        )))
    }
}

impl Notices for Refused {
    fn notice(&self, _level: NoticeLevel, _line: &str) {}
}
