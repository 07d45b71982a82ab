//! The client's end: starts supervisors, runs commands, moves files.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use crabbox_core::error::{Error, ErrorKind, IntoError as _, Result};
use crabbox_core::remote::{ByteWriter, ExecRequest, ExecStatus, OutputSink, OutputStream, Stdin, Upload};
use rustix::fs::{Mode, OFlags};
use rustix::pipe::PipeFlags;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::time::Instant;

use super::probe::HostFacts;
use super::wire::{self, AGENT_SOCKET, AgentAsk, CONTROL_SOCKET, ControlAsk, Inbox, Received, Reply};
use super::{cgroup, process};
use crate::store::{self, Layers, RunRecord};

/// Time between the polite and the forced end of a command.
const GRACE: Duration = Duration::from_secs(5);

/// How long a stream that somebody else still holds open may be silent after the command has ended.
const SILENCE: Duration = Duration::from_millis(250);

/// How long such a stream is read at most.
const AFTERMATH: Duration = Duration::from_secs(2);

/// How long a cancelled command's output may hold up its end.
const IMPATIENCE: Duration = Duration::from_secs(1);

/// Longest wait for a supervisor that has to stop processes and unmount.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// Pause between two looks at a supervisor that has just been started.
const STARTING_PAUSE: Duration = Duration::from_millis(10);

/// Most bytes of output that are handed on at once.
const CHUNK: usize = 256 * 1024;

/// Bytes of output that may wait for the client; as much as an ordinary user may ask for.
const PIPE: usize = 1024 * 1024;

/// Room that is left in a buffer before another is taken, so that small outputs share one.
const ROOM: usize = 16 * 1024;

/// Starts the supervisor of a box and waits until the box is ready.
pub(crate) async fn start(executable: &Path, directory: &Path) -> Result<()> {
    let output = run_helper(executable, &[directory.as_os_str()]).await?;
    let reply = output.get(4..).unwrap_or_default();
    match serde_json::from_slice(reply) {
        Ok(Reply::Done) => Ok(()),
        Ok(other) => Err(other.into_error()),
        Err(_) => Err(Error::other("the supervisor of the box ended without a word")
            .with_hint(format!("see {}", directory.join("supervisor.log").display()))),
    }
}

/// Asks a helper what this host allows.
pub(crate) async fn probe(executable: &Path, scratch: &Path) -> Result<HostFacts> {
    let output = run_helper(executable, &[OsStr::new("--probe"), scratch.as_os_str()]).await?;
    serde_json::from_slice(&output).or_error(ErrorKind::Other, || "probe this host for namespaces".to_owned())
}

#[expect(
    clippy::disallowed_methods,
    reason = "the helper outlives this process on purpose, which the runtime's command runner prevents"
)]
async fn run_helper(executable: &Path, arguments: &[&OsStr]) -> Result<Vec<u8>> {
    let failed = format!("start {}", executable.display());
    let mut command = Command::new(executable);
    command
        .arg(crate::HELPER_WORD)
        .args(arguments)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    // Output ends when the supervisor lets go of the pipe, which it does when the box is ready.
    let output = tokio::task::spawn_blocking(move || command.output())
        .await
        .or_error(ErrorKind::Other, || failed.clone())?
        .or_error(ErrorKind::Other, || failed)?;
    Ok(output.stdout)
}

/// A conversation over one of the sockets of a box.
struct Conversation {
    stream: UnixStream,
    inbox: Inbox,
}

impl Conversation {
    /// Connects. The path leads through a descriptor, since the address of a socket holds 107 bytes at most.
    async fn open(directory: &Path, socket: &str) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let handle = rustix::fs::open(directory, flags, Mode::empty())?;
        let stream = UnixStream::connect(format!("/proc/self/fd/{}/{socket}", handle.as_raw_fd())).await?;
        Ok(Self {
            stream,
            inbox: Inbox::default(),
        })
    }

    async fn send<T: serde::Serialize>(&mut self, ask: &T, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let bytes = wire::encode(ask)?;
        let first = self
            .stream
            .async_io(Interest::WRITABLE, || {
                wire::send_first(self.stream.as_fd(), &bytes, descriptors)
            })
            .await?;
        self.stream.write_all(&bytes[first..]).await
    }

    /// The next answer; `None` when the other side has closed. Cancellation loses nothing.
    async fn receive(&mut self) -> io::Result<Option<Reply>> {
        loop {
            if let Some(reply) = self.inbox.next()? {
                return Ok(Some(reply));
            }
            let (stream, inbox) = (&self.stream, &mut self.inbox);
            let received = stream
                .async_io(Interest::READABLE, || match inbox.receive(stream.as_fd())? {
                    Received::Nothing => Err(io::ErrorKind::WouldBlock.into()),
                    other => Ok(other),
                })
                .await?;
            if received == Received::Closed {
                return Ok(None);
            }
        }
    }
}

/// Why a box does not answer.
fn unreachable(directory: &Path, error: io::Error) -> Error {
    let run: RunRecord = store::load(directory, "run.json").ok().flatten().unwrap_or_default();
    if directory.is_dir() && !run.ending {
        Error::remote("the box has broken down: its supervisor does not answer")
            .with_source(error)
            .with_hint("stop the box and start another; `crabbox doctor` checks this machine")
    } else {
        Error::identity("the box is gone")
            .with_hint("it was stopped or its time was over; start another with `crabbox warmup`")
    }
}

/// Asks the first process of a box once.
async fn ask_agent(directory: &Path, ask: &AgentAsk) -> Result<(Reply, Conversation)> {
    refuse_paused(directory)?;
    let converse = async {
        let mut conversation = Conversation::open(directory, AGENT_SOCKET).await?;
        conversation.send(ask, &[]).await?;
        let reply = conversation.receive().await?;
        io::Result::Ok((reply, conversation))
    };
    match converse.await {
        Ok((Some(reply), conversation)) => Ok((reply, conversation)),
        Ok((None, _)) => Err(unreachable(directory, io::ErrorKind::ConnectionReset.into())),
        Err(error) => Err(unreachable(directory, error)),
    }
}

/// A descriptor that the first process of a box opened.
async fn descriptor(directory: &Path, ask: &AgentAsk) -> Result<(OwnedFd, Conversation)> {
    let (reply, mut conversation) = ask_agent(directory, ask).await?;
    match (reply, conversation.inbox.take_descriptors().pop()) {
        (Reply::Done, Some(descriptor)) => Ok((descriptor, conversation)),
        (other, _) => Err(other.into_error()),
    }
}

/// Asks the supervisor of a box once; the connection comes back for asks that hold as long as it is open.
async fn ask_supervisor(directory: &Path, ask: &ControlAsk) -> Result<(Reply, Conversation)> {
    let converse = async {
        let mut conversation = Conversation::open(directory, CONTROL_SOCKET).await?;
        conversation.send(ask, &[]).await?;
        let reply = conversation.receive().await?;
        io::Result::Ok((reply, conversation))
    };
    match converse.await {
        Ok((Some(reply), conversation)) => Ok((reply, conversation)),
        Ok((None, _)) => Err(unreachable(directory, io::ErrorKind::ConnectionReset.into())),
        Err(error) => Err(unreachable(directory, error)),
    }
}

async fn command_supervisor(directory: &Path, ask: &ControlAsk) -> Result<()> {
    match ask_supervisor(directory, ask).await? {
        (Reply::Done, _) => Ok(()),
        (other, _) => Err(other.into_error()),
    }
}

/// Holds every process of the box.
pub(crate) async fn pause(directory: &Path) -> Result<()> {
    command_supervisor(directory, &ControlAsk::Pause).await
}

/// Lets them go on.
pub(crate) async fn resume(directory: &Path) -> Result<()> {
    command_supervisor(directory, &ControlAsk::Resume).await
}

/// Starts the box again from layers.
pub(crate) async fn restart(directory: &Path, layers: Layers) -> Result<()> {
    let ask = ControlAsk::Restart {
        layers: layers.lower,
        checkpoint: layers.checkpoint,
    };
    command_supervisor(directory, &ask).await
}

/// Starts the box again from a plain directory.
pub(crate) async fn replace(directory: &Path, name: String) -> Result<()> {
    command_supervisor(directory, &ControlAsk::Replace { directory: name }).await
}

/// Makes what the box wrote a layer; `false` when something runs in it.
pub(crate) async fn freeze(directory: &Path, layer: &str) -> Result<bool> {
    let ask = ControlAsk::Freeze {
        layer: layer.to_owned(),
    };
    match ask_supervisor(directory, &ask).await? {
        (Reply::Done, _) => Ok(true),
        (Reply::Busy, _) => Ok(false),
        (other, _) => Err(other.into_error()),
    }
}

/// Processes of a box stand still as long as this lives.
pub(crate) struct Hold {
    _conversation: Conversation,
}

/// Holds every process of the box until the result is dropped.
pub(crate) async fn hold(directory: &Path) -> Result<Hold> {
    match ask_supervisor(directory, &ControlAsk::Hold).await? {
        (Reply::Done, conversation) => Ok(Hold {
            _conversation: conversation,
        }),
        (other, _) => Err(other.into_error()),
    }
}

fn refuse_paused(directory: &Path) -> Result<()> {
    let run: RunRecord = store::load(directory, "run.json")?.unwrap_or_default();
    if run.paused {
        return Err(Error::readiness("the box is paused").with_hint("let it go on with `crabbox resume`"));
    }
    Ok(())
}

/// Ends every process of a box and its supervisor, whatever state they are in. The directory remains.
pub(crate) async fn stop(directory: &Path) -> Result<()> {
    let deadline = Instant::now() + STOP_PATIENCE;
    let run = loop {
        let asked = tokio::time::timeout_at(deadline, command_supervisor(directory, &ControlAsk::Stop)).await;
        let run: RunRecord = store::load(directory, "run.json").ok().flatten().unwrap_or_default();
        if matches!(asked, Ok(Ok(()))) || run.supervisor.is_some() || !store::is_supervised(directory) {
            break run;
        }
        // It holds the lock but has neither a socket nor a record: it has just been started.
        if Instant::now() >= deadline {
            return Err(
                Error::other("the supervisor of the box neither answers nor can be found")
                    .with_hint("find it with `ps` as `__local-box` and end it, then try again"),
            );
        }
        tokio::time::sleep(STARTING_PAUSE).await;
    };
    tokio::task::spawn_blocking(move || {
        // After a proper stop both have ended or are about to; after anything else this ends them.
        let gone = [run.supervisor, run.first]
            .into_iter()
            .flatten()
            .all(|record| process::end(record, STOP_PATIENCE));
        cgroup::remove(&run.groups);
        if gone {
            Ok(())
        } else {
            Err(Error::other("a process of the box does not end")
                .with_hint("it may wait for a device; try again later"))
        }
    })
    .await
    .or_error(ErrorKind::Other, || "end the processes of the box".to_owned())?
}

/// Opens a directory of the box below `root`, without following links in it.
pub(crate) async fn open_directory(directory: &Path, root: &str, below: &str) -> Result<OwnedFd> {
    let ask = AgentAsk::Directory {
        root: root.to_owned(),
        below: below.to_owned(),
    };
    descriptor(directory, &ask).await.map(|(descriptor, _)| descriptor)
}

/// Copies a regular file out of the box.
pub(crate) async fn download(directory: &Path, path: &str, destination: ByteWriter<'_>) -> Result<u64> {
    let failed = || format!("copy from the box: {path}");
    let (file, _) = descriptor(directory, &AgentAsk::Read { path: path.to_owned() }).await?;
    let mut file = tokio::fs::File::from_std(file.into());
    let length = tokio::io::copy(&mut file, destination)
        .await
        .or_error(ErrorKind::Remote, failed)?;
    destination.flush().await.or_error(ErrorKind::Remote, failed)?;
    Ok(length)
}

/// Copies a file into the box.
pub(crate) async fn upload(directory: &Path, path: &str, mut upload: Upload) -> Result<()> {
    let failed = || format!("copy to the box: {path}");
    let ask = AgentAsk::Write {
        path: path.to_owned(),
        mode: upload.mode,
    };
    let (file, mut conversation) = descriptor(directory, &ask).await?;
    let mut file = tokio::fs::File::from_std(file.into());
    let length = tokio::io::copy(&mut upload.content, &mut file)
        .await
        .or_error(ErrorKind::Remote, failed)?;
    file.flush().await.or_error(ErrorKind::Remote, failed)?;
    if let Some(expected) = upload.length.filter(|expected| *expected != length) {
        return Err(Error::remote(format!(
            "content of {path} has another length than announced: {length} instead of {expected} bytes"
        )));
    }
    let committed = async {
        conversation.send(&AgentAsk::Commit, &[]).await?;
        conversation.receive().await
    };
    match committed.await.map_err(|error| unreachable(directory, error))? {
        Some(Reply::Done) => Ok(()),
        Some(other) => Err(other.into_error()),
        None => Err(unreachable(directory, io::ErrorKind::ConnectionReset.into())),
    }
}

/// Why a command is being ended.
enum Ending {
    Cancelled,
    TimedOut(Duration),
    Sink(Error),
}

impl Ending {
    fn into_error(self) -> Error {
        match self {
            Self::Cancelled => Error::cancelled("the command was cancelled"),
            Self::TimedOut(limit) => Error::cancelled(format!(
                "the command ran longer than {}",
                crabbox_core::duration::format(limit)
            )),
            Self::Sink(error) => error,
        }
    }
}

/// Runs one command in a box.
pub(crate) async fn exec(directory: &Path, request: ExecRequest, output: &mut dyn OutputSink) -> Result<ExecStatus> {
    if request.cancel.is_cancelled() {
        return Err(Ending::Cancelled.into_error());
    }
    refuse_paused(directory)?;
    let failed = || "connect the streams of a command".to_owned();
    let (stdin, feed) = open_stdin(request.stdin).or_error(ErrorKind::Other, failed)?;
    let pipe = || rustix::pipe::pipe_with(PipeFlags::CLOEXEC).or_error(ErrorKind::Other, failed);
    let ((stdout, stdout_of_command), (stderr, stderr_of_command)) = (pipe()?, pipe()?);
    for end in [&stdout, &stderr] {
        // Where the system refuses, the ordinary size serves.
        let _ = rustix::pipe::fcntl_setpipe_size(end, PIPE);
    }
    let ask = AgentAsk::Exec {
        argv: request.argv,
        workdir: request.workdir.map(|path| path.as_str().to_owned()),
        env: request.env,
        grace_ms: u64::try_from(GRACE.as_millis()).unwrap_or(u64::MAX),
    };
    let asked = async {
        let mut conversation = Conversation::open(directory, AGENT_SOCKET).await?;
        let streams = [stdin.as_fd(), stdout_of_command.as_fd(), stderr_of_command.as_fd()];
        conversation.send(&ask, &streams).await?;
        io::Result::Ok(conversation)
    };
    let conversation = asked.await.map_err(|error| match error.kind() {
        io::ErrorKind::InvalidInput => Error::usage("the command and its environment are too long").with_source(error),
        _ => unreachable(directory, error),
    })?;
    drop((stdin, stdout_of_command, stderr_of_command));
    let reader = |end| pipe::Receiver::from_owned_fd(end).or_error(ErrorKind::Other, failed);
    let mut run = Run {
        conversation,
        stdout: Tap::new(reader(stdout)?),
        stderr: Tap::new(reader(stderr)?),
        ending: None,
        status: None,
        quiet_at: None,
    };
    let deadline = request.timeout.map(|limit| (Instant::now() + limit, limit));
    let main = run.drive(directory, &request.cancel, deadline, output);
    tokio::pin!(main);
    let mut feed = std::pin::pin!(feed);
    let mut feeding = true;
    loop {
        tokio::select! {
            result = &mut main => return result,
            // A command that reads no further ends this early, which is its right.
            () = &mut feed, if feeding => feeding = false,
        }
    }
}

/// The descriptor that the command reads, and what writes to it.
fn open_stdin(stdin: Stdin) -> io::Result<(OwnedFd, impl Future<Output = ()> + Send)> {
    let (descriptor, source, sender) = match stdin {
        Stdin::Empty => {
            let null = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
            (null, None, None)
        }
        other => {
            let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
            (reader, Some(other), Some(pipe::Sender::from_owned_fd(writer)?))
        }
    };
    let feed = async move {
        let (Some(source), Some(mut sender)) = (source, sender) else {
            return;
        };
        let _ = match source {
            Stdin::Empty => Ok(()),
            Stdin::Bytes(bytes) => sender.write_all(&bytes).await,
            Stdin::Stream(mut stream) => tokio::io::copy(&mut stream, &mut sender).await.map(drop),
        };
    };
    Ok((descriptor, feed))
}

/// One output stream of a command.
struct Tap {
    pipe: Option<pipe::Receiver>,
    buffer: BytesMut,
}

impl Tap {
    fn new(pipe: pipe::Receiver) -> Self {
        Self {
            pipe: Some(pipe),
            buffer: BytesMut::new(),
        }
    }

    /// The next bytes; `None` at the end. Cancellation loses nothing.
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        let Some(pipe) = &mut self.pipe else {
            return std::future::pending().await;
        };
        if self.buffer.capacity() - self.buffer.len() < ROOM {
            self.buffer.reserve(CHUNK);
        }
        if pipe.read_buf(&mut self.buffer).await? == 0 {
            self.pipe = None;
            return Ok(None);
        }
        Ok(Some(self.buffer.split().freeze()))
    }
}

struct Run {
    conversation: Conversation,
    stdout: Tap,
    stderr: Tap,
    ending: Option<Ending>,
    status: Option<Result<ExecStatus>>,
    quiet_at: Option<(Instant, Instant)>,
}

impl Run {
    async fn drive(
        &mut self,
        directory: &Path,
        cancel: &tokio_util::sync::CancellationToken,
        deadline: Option<(Instant, Duration)>,
        output: &mut dyn OutputSink,
    ) -> Result<ExecStatus> {
        loop {
            if self.status.is_some() && self.stdout.pipe.is_none() && self.stderr.pipe.is_none() {
                break;
            }
            let live = self.ending.is_none() && self.status.is_none();
            let chunk = tokio::select! {
                biased;
                () = cancel.cancelled(), if live => {
                    self.end(Ending::Cancelled).await;
                    continue;
                }
                limit = expired(deadline), if live => {
                    self.end(Ending::TimedOut(limit)).await;
                    continue;
                }
                chunk = self.stdout.next() => chunk.map(|chunk| (OutputStream::Stdout, chunk)),
                chunk = self.stderr.next() => chunk.map(|chunk| (OutputStream::Stderr, chunk)),
                reply = self.conversation.receive(), if self.status.is_none() => {
                    self.take(directory, reply);
                    continue;
                }
                () = silence(self.quiet_at) => break,
            };
            let (stream, chunk) = chunk.or_error(ErrorKind::Other, || "read the output of the command".to_owned())?;
            let Some(chunk) = chunk else { continue };
            if let Some((quiet, end)) = self.quiet_at {
                self.quiet_at = Some((quiet.max(Instant::now() + SILENCE), end));
            }
            self.hand_on(stream, chunk, cancel, deadline, output).await;
        }
        match (self.ending.take(), self.status.take()) {
            (Some(ending), _) => Err(ending.into_error()),
            (None, Some(status)) => status,
            (None, None) => Err(Error::other("a command ended without a status")),
        }
    }

    /// Gives bytes to the sink, which may be slow, while still listening for the wish to end.
    async fn hand_on(
        &mut self,
        stream: OutputStream,
        chunk: Bytes,
        cancel: &tokio_util::sync::CancellationToken,
        deadline: Option<(Instant, Duration)>,
        output: &mut dyn OutputSink,
    ) {
        if matches!(self.ending, Some(Ending::Sink(_))) {
            return;
        }
        if self.ending.is_some() {
            // What a cancelled command still says is shown, but does not hold up its end.
            let _ = tokio::time::timeout(IMPATIENCE, output.write(stream, chunk)).await;
            return;
        }
        let live = self.status.is_none();
        let ending = tokio::select! {
            written = output.write(stream, chunk) => match written {
                Ok(()) => return,
                Err(error) => Ending::Sink(error),
            },
            () = cancel.cancelled(), if live => Ending::Cancelled,
            limit = expired(deadline), if live => Ending::TimedOut(limit),
        };
        self.end(ending).await;
    }

    /// Asks for the end of the command; its status still comes.
    async fn end(&mut self, ending: Ending) {
        self.ending = Some(ending);
        if self.status.is_none() {
            let _ = self.conversation.send(&AgentAsk::Cancel, &[]).await;
        }
    }

    fn take(&mut self, directory: &Path, reply: io::Result<Option<Reply>>) {
        self.status = Some(match reply {
            Ok(Some(Reply::Exited { status })) => Ok(status_of(status)),
            Ok(Some(other)) => Err(other.into_error()),
            Ok(None) => Err(unreachable(directory, io::ErrorKind::ConnectionReset.into())),
            Err(error) => Err(unreachable(directory, error)),
        });
        let now = Instant::now();
        self.quiet_at = Some((now + SILENCE, now + AFTERMATH));
    }
}

/// Completes at the deadline, with its limit; never without one.
async fn expired(deadline: Option<(Instant, Duration)>) -> Duration {
    match deadline {
        Some((at, limit)) => {
            tokio::time::sleep_until(at).await;
            limit
        }
        None => std::future::pending().await,
    }
}

async fn silence(quiet_at: Option<(Instant, Instant)>) {
    match quiet_at {
        Some((quiet, end)) => tokio::time::sleep_until(quiet.min(end)).await,
        None => std::future::pending().await,
    }
}

/// Reads a raw wait status.
fn status_of(raw: i32) -> ExecStatus {
    if libc::WIFSIGNALED(raw) {
        ExecStatus::signalled(libc::WTERMSIG(raw))
    } else {
        ExecStatus::exited(libc::WEXITSTATUS(raw))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wait_statuses_become_exit_statuses() {
        assert_eq!(status_of(3 << 8), ExecStatus::exited(3));
        assert_eq!(status_of(libc::SIGKILL), ExecStatus::signalled(9));
    }
}
