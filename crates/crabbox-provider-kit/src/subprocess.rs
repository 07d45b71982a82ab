//! Child processes: bounded, ended with everything they started, never through a shell.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use crabbox_core::error::{Error, ErrorKind, IntoError as _, Result};
use crabbox_core::runtime::{CommandOutput, CommandRunner, CommandSpec};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::timeout;

/// Where programs are looked for when the child's environment has no `PATH`.
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// Runs child processes of this machine.
///
/// # Behaviour
/// - On Unix each child leads a process group of its own, and the whole group is ended on timeout, on output past its limit,
///   and when the future is dropped. Elsewhere only the child itself is ended.
/// - The environment is exactly the given one, and a program without a separator is looked up in *its* `PATH`, where empty
///   and relative entries do not count.
/// - Input is fed while output is read, so neither side can block the other. A child that does not read its input is fine.
/// - Processes that the child leaves behind live on if they hold none of its streams. Those that do are ended after the
///   grace, and what the child wrote is returned.
#[derive(Clone, Copy, Debug, Default)]
pub struct Subprocess;

#[async_trait]
impl CommandRunner for Subprocess {
    async fn run(&self, spec: CommandSpec) -> Result<CommandOutput> {
        let name = spec.program.to_string_lossy().into_owned();
        let mut child = start(&spec, &name)?;
        let group = Group::of(&child);
        let mut output = CommandOutput::default();
        let streams = Streams::of(&mut child, &spec, &mut output);
        let mut running = Running {
            child,
            group,
            streams,
            grace: spec.grace,
        };
        let ended = match spec.timeout {
            Some(limit) => timeout(limit, running.finish())
                .await
                .unwrap_or(Err(Stop::TimedOut(limit))),
            None => running.finish().await,
        };
        match ended {
            Ok(status) => {
                drop(running);
                output.code = exit_code(status);
                Ok(output)
            }
            Err(stop) => {
                running.end(stop.is_polite()).await;
                Err(stop.into_error(&name, spec.output_limit_bytes))
            }
        }
    }
}

/// Why a child was ended before its time.
enum Stop {
    TimedOut(Duration),
    Overflow(&'static str),
    Broken(&'static str, std::io::Error),
}

impl Stop {
    fn is_polite(&self) -> bool {
        matches!(self, Self::TimedOut(_))
    }

    fn into_error(self, name: &str, limit: usize) -> Error {
        match self {
            Self::TimedOut(limit) => Error::cancelled(format!("{name} did not end within {limit:?}")),
            Self::Overflow(stream) => Error::new(
                ErrorKind::Readiness,
                format!("{name} wrote more to {stream} than allowed: {limit} bytes"),
            ),
            Self::Broken(what, cause) => Error::other(format!("{what} {name}")).with_source(cause),
        }
    }
}

fn start(spec: &CommandSpec, name: &str) -> Result<Child> {
    if let Some(dir) = spec.dir.as_deref().filter(|dir| !dir.is_dir()) {
        return Err(Error::other(format!(
            "no directory to start {name} in: `{}`",
            dir.display()
        )));
    }
    let program = find_program(&spec.program, &spec.env, spec.dir.as_deref())?;
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the command runner that the lint points to"
    )]
    let mut command = Command::new(program);
    // The child sees the name it was called by, as from a shell.
    #[cfg(unix)]
    command.arg0(&spec.program).process_group(0);
    command
        .args(&spec.args)
        .env_clear()
        .envs(&spec.env)
        .stdin(if spec.stdin.is_empty() {
            Stdio::null()
        } else {
            Stdio::piped()
        })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    if let Some(dir) = &spec.dir {
        command.current_dir(dir);
    }
    command
        .spawn()
        .or_error(ErrorKind::Prerequisite, || format!("start {name}"))
}

struct Running<'a> {
    child: Child,
    group: Group,
    streams: Streams<'a>,
    grace: Duration,
}

impl Running<'_> {
    /// Feeds, reads and waits for the child, and after it for its streams.
    async fn finish(&mut self) -> Result<ExitStatus, Stop> {
        let early = tokio::select! {
            biased;
            result = self.streams.finish() => {
                result?;
                None
            }
            status = self.child.wait() => Some(status),
        };
        let status = match early {
            Some(status) => status,
            None => self.child.wait().await,
        };
        let status = status.map_err(|cause| Stop::Broken("wait for", cause))?;
        match timeout(self.grace, self.streams.finish()).await {
            Ok(result) => {
                result?;
                self.group.disarm();
            }
            // Somebody the child left behind still holds a stream. Its process keeps the group's number from being reused.
            Err(_elapsed) => self.group.kill(),
        }
        Ok(status)
    }

    /// Ends the group: first politely if that is still worth while, then by force, and reaps the child.
    async fn end(&mut self, polite: bool) {
        if polite {
            self.group.terminate();
            // Reading goes on, since a child that cleans up may have something to say.
            let _ended = timeout(self.grace, async {
                tokio::join!(self.streams.finish(), self.child.wait())
            })
            .await;
        }
        self.group.kill();
        // Fails only when the child has ended before.
        let _reaped = self.child.kill().await;
    }
}

/// The child's streams: input fed and output read at the same time.
struct Streams<'a>(Option<Pumping<'a>>);

type Pumping<'a> = Pin<Box<dyn Future<Output = Result<(), Stop>> + Send + 'a>>;

impl<'a> Streams<'a> {
    fn of(child: &mut Child, spec: &CommandSpec, output: &'a mut CommandOutput) -> Self {
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let content = spec.stdin.clone();
        let limit = spec.output_limit_bytes;
        Self(Some(Box::pin(async move {
            tokio::try_join!(
                feed(stdin, content),
                collect(stdout, "stdout", limit, &mut output.stdout),
                collect(stderr, "stderr", limit, &mut output.stderr),
            )
            .map(|_| ())
        })))
    }

    /// Goes on to the end of all streams. May be dropped and called again.
    async fn finish(&mut self) -> Result<(), Stop> {
        let Some(pumping) = &mut self.0 else { return Ok(()) };
        let result = pumping.await;
        self.0 = None;
        result
    }
}

async fn feed(stdin: Option<ChildStdin>, content: Bytes) -> Result<(), Stop> {
    let Some(mut stdin) = stdin else { return Ok(()) };
    // A child may end or close its input before it has read everything; its exit status says whether that is a failure.
    if stdin.write_all(&content).await.is_ok() {
        let _closed = stdin.shutdown().await;
    }
    Ok(())
}

async fn collect<R: AsyncRead + Unpin>(
    source: Option<R>,
    stream: &'static str,
    limit: usize,
    kept: &mut Vec<u8>,
) -> Result<(), Stop> {
    let Some(mut source) = source else { return Ok(()) };
    let mut chunk = vec![0; 16 * 1024];
    loop {
        let length = source
            .read(&mut chunk)
            .await
            .map_err(|cause| Stop::Broken("read output of", cause))?;
        if length == 0 {
            return Ok(());
        }
        let room = limit - kept.len();
        kept.extend_from_slice(&chunk[..length.min(room)]);
        if length > room {
            return Err(Stop::Overflow(stream));
        }
    }
}

fn exit_code(status: ExitStatus) -> i32 {
    #[cfg(unix)]
    if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&status) {
        return 128 + signal;
    }
    status.code().unwrap_or(1)
}

/// Finds a program as `execvp` would, but never in the current directory by accident.
fn find_program(program: &OsStr, env: &BTreeMap<OsString, OsString>, dir: Option<&Path>) -> Result<PathBuf> {
    let direct = Path::new(program);
    let missing =
        |hint: &'static str| Error::prerequisite(format!("program not found: `{}`", direct.display())).with_hint(hint);
    if direct.components().count() > 1 || direct.is_absolute() {
        let place = dir.map_or_else(|| direct.to_owned(), |dir| dir.join(direct));
        return if place.is_file() {
            Ok(direct.to_owned())
        } else {
            Err(missing("check the path"))
        };
    }
    let path = env
        .get(OsStr::new("PATH"))
        .map_or(OsStr::new(DEFAULT_PATH), OsString::as_os_str);
    std::env::split_paths(path)
        .filter(|place| place.is_absolute())
        .flat_map(|place| candidates(&place, program))
        .find(|place| is_executable(place))
        .ok_or_else(|| missing("install it, or add its directory to PATH"))
}

#[cfg(not(windows))]
fn candidates(place: &Path, program: &OsStr) -> Vec<PathBuf> {
    vec![place.join(program)]
}

#[cfg(windows)]
fn candidates(place: &Path, program: &OsStr) -> Vec<PathBuf> {
    // Batch files are left out on purpose: their arguments are read by a shell.
    let exact = place.join(program);
    vec![exact.with_extension("exe"), exact]
}

#[cfg(unix)]
fn is_executable(place: &Path) -> bool {
    place.is_file() && rustix::fs::access(place, rustix::fs::Access::EXEC_OK).is_ok()
}

#[cfg(not(unix))]
fn is_executable(place: &Path) -> bool {
    place.is_file()
}

/// The child's process group, killed when it is dropped armed.
struct Group {
    #[cfg(unix)]
    leader: Option<rustix::process::Pid>,
}

#[cfg(unix)]
impl Group {
    fn of(child: &Child) -> Self {
        let leader = child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .and_then(rustix::process::Pid::from_raw);
        Self { leader }
    }

    fn signal(&self, signal: rustix::process::Signal) {
        if let Some(leader) = self.leader {
            // The only failure that can occur is that nobody is left.
            let _gone = rustix::process::kill_process_group(leader, signal);
        }
    }

    fn terminate(&self) {
        self.signal(rustix::process::Signal::TERM);
    }

    fn kill(&mut self) {
        self.signal(rustix::process::Signal::KILL);
        self.disarm();
    }

    fn disarm(&mut self) {
        self.leader = None;
    }
}

#[cfg(not(unix))]
impl Group {
    fn of(_child: &Child) -> Self {
        Self {}
    }

    fn terminate(&self) {}

    fn kill(&mut self) {}

    fn disarm(&mut self) {}
}

#[cfg(unix)]
impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}
