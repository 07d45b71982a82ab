//! Boxes without isolation, where the host allows none: a directory, and commands that run as the user who started them.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use bytes::BytesMut;
use crabbox_core::error::{Error, ErrorKind, IntoError as _, Result};
use crabbox_core::remote::{ByteWriter, ExecRequest, ExecStatus, OutputSink, OutputStream, RemotePath, Stdin, Upload};
use crabbox_core::runtime::Environment;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};
use tokio::time::Instant;

/// Time between the polite and the forced end of a command.
const GRACE: Duration = Duration::from_secs(5);

/// How long output may be silent, after the command has ended, before its streams count as abandoned.
const SILENCE: Duration = Duration::from_millis(250);

/// Variables of the client that a command gets.
const INHERITED: &[&str] = &[
    "PATH",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "TZ",
    "TERM",
    "SystemRoot",
    "PATHEXT",
    "ComSpec",
];

/// The path on this machine that a path of the box is: the same.
pub(crate) fn host_path(path: &RemotePath) -> PathBuf {
    if cfg!(windows) {
        PathBuf::from(path.as_str().trim_start_matches('/'))
    } else {
        PathBuf::from(path.as_str())
    }
}

/// Runs one command.
pub(crate) async fn exec(
    directory: &Path,
    client: &Environment,
    request: ExecRequest,
    output: &mut dyn OutputSink,
) -> Result<ExecStatus> {
    if !directory.is_dir() {
        return Err(crate::boxes::gone(
            &directory.file_name().unwrap_or_default().to_string_lossy(),
        ));
    }
    let mut child = match start(directory, client, &request) {
        Ok(child) => child,
        Err(error) => {
            let (code, text) = could_not_start(&request, error)?;
            drop(request);
            output.write(OutputStream::Stderr, text.into()).await?;
            return Ok(ExecStatus::exited(code));
        }
    };
    let stdin = child.stdin.take();
    let feed = async move {
        let Some(mut stdin) = stdin else { return };
        // A command that reads no further ends this early, which is its right.
        let _ = match request.stdin {
            Stdin::Empty => Ok(()),
            Stdin::Bytes(bytes) => stdin.write_all(&bytes).await,
            Stdin::Stream(mut stream) => tokio::io::copy(&mut stream, &mut stdin).await.map(drop),
        };
    };
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (Some(mut stdout), Some(mut stderr)) = (stdout, stderr) else {
        return Err(Error::other("a command has no output streams"));
    };
    let mut feed = std::pin::pin!(feed);
    let mut feeding = true;
    let (mut open_out, mut open_err) = (true, true);
    let (mut out_buffer, mut err_buffer) = (BytesMut::new(), BytesMut::new());
    let deadline = request.timeout.map(|limit| Instant::now() + limit);
    let mut status = None;
    let mut quiet_at = None;
    let ending = loop {
        if status.is_some() && !open_out && !open_err {
            break None;
        }
        let (stream, buffer) = tokio::select! {
            biased;
            () = request.cancel.cancelled(), if status.is_none() => break Some(Error::cancelled("the command was cancelled")),
            () = until(deadline), if status.is_none() => {
                let limit = crabbox_core::duration::format(request.timeout.unwrap_or_default());
                break Some(Error::cancelled(format!("the command ran longer than {limit}")));
            }
            read = read_some(&mut stdout, &mut out_buffer), if open_out => {
                open_out = read.or_error(ErrorKind::Other, || "read the output of the command".to_owned())?;
                (OutputStream::Stdout, &mut out_buffer)
            }
            read = read_some(&mut stderr, &mut err_buffer), if open_err => {
                open_err = read.or_error(ErrorKind::Other, || "read the output of the command".to_owned())?;
                (OutputStream::Stderr, &mut err_buffer)
            }
            () = &mut feed, if feeding => { feeding = false; continue; }
            ended = child.wait(), if status.is_none() => {
                status = Some(ended.or_error(ErrorKind::Other, || "wait for the command".to_owned())?);
                quiet_at = Some(Instant::now() + SILENCE);
                continue;
            }
            () = until(quiet_at) => break None,
        };
        if quiet_at.is_some() {
            quiet_at = Some(Instant::now() + SILENCE);
        }
        if !buffer.is_empty()
            && let Err(error) = output.write(stream, buffer.split().freeze()).await
        {
            break Some(error);
        }
    };
    match (ending, status) {
        (None, Some(status)) => Ok(status_of(status)),
        (ending, _) => {
            end(&mut child).await;
            Err(ending.unwrap_or_else(|| Error::other("a command ended without a status")))
        }
    }
}

async fn read_some(source: &mut (impl AsyncRead + Unpin), buffer: &mut BytesMut) -> std::io::Result<bool> {
    buffer.reserve(64 * 1024);
    Ok(source.read_buf(buffer).await? > 0)
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "streams of unbounded length, which the runtime's runner collects"
)]
fn start(directory: &Path, client: &Environment, request: &ExecRequest) -> std::io::Result<Child> {
    let Some((program, arguments)) = request.argv.split_first() else {
        return Err(std::io::Error::other("the command is empty"));
    };
    let home = directory.join("home");
    let mut command = Command::new(program);
    command
        .args(arguments)
        .current_dir(request.workdir.as_ref().map_or_else(|| home.clone(), host_path))
        .env_clear()
        .env("HOME", &home)
        .env("TMPDIR", directory.join("tmp"))
        .envs(INHERITED.iter().filter_map(|name| Some((*name, client.get(name)?))))
        .envs(&request.env)
        .stdin(if matches!(request.stdin, Stdin::Empty) {
            Stdio::null()
        } else {
            Stdio::piped()
        })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    #[cfg(unix)]
    command.process_group(0);
    command.spawn()
}

/// A program that is not there is a result, as a shell would report it; a directory that is not there is an error.
fn could_not_start(request: &ExecRequest, error: std::io::Error) -> Result<(i32, String)> {
    if let Some(workdir) = &request.workdir
        && !host_path(workdir).is_dir()
    {
        return Err(Error::remote(format!("enter the working directory: {workdir}")).with_source(error));
    }
    let program = request.argv.first().map_or("", String::as_str);
    Ok(match error.kind() {
        std::io::ErrorKind::NotFound => (127, format!("crabbox: command not found: {program}\n")),
        _ => (126, format!("crabbox: cannot run: {program}: {error}\n")),
    })
}

/// Ends a command's process group: politely, then by force.
async fn end(child: &mut Child) {
    #[cfg(unix)]
    {
        let group = child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .and_then(rustix::process::Pid::from_raw);
        if let Some(group) = group {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::TERM);
            let _ = tokio::time::timeout(GRACE, child.wait()).await;
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
    }
    let _ = child.kill().await;
}

#[cfg(unix)]
fn status_of(status: ExitStatus) -> ExecStatus {
    use std::os::unix::process::ExitStatusExt as _;
    match status.signal() {
        Some(signal) => ExecStatus::signalled(signal),
        None => ExecStatus::exited(status.code().unwrap_or(1)),
    }
}

#[cfg(not(unix))]
fn status_of(status: ExitStatus) -> ExecStatus {
    ExecStatus::exited(status.code().unwrap_or(1))
}

/// Copies a file into the box.
pub(crate) async fn upload(path: &RemotePath, mut upload: Upload) -> Result<()> {
    let failed = || format!("copy to the box: {path}");
    let target = host_path(path);
    let parent = target.parent().unwrap_or(Path::new("/"));
    tokio::fs::create_dir_all(parent)
        .await
        .or_error(ErrorKind::Remote, failed)?;
    let draft = parent.join(format!(".crabbox-{}", crate::token(8)));
    let written = async {
        let mut options = tokio::fs::OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        options.mode(upload.mode & 0o777);
        let mut file = options.open(&draft).await?;
        tokio::io::copy(&mut upload.content, &mut file).await?;
        file.flush().await?;
        tokio::fs::rename(&draft, &target).await
    };
    let written: std::io::Result<()> = written.await;
    if written.is_err() {
        let _ = tokio::fs::remove_file(&draft).await;
    }
    written.or_error(ErrorKind::Remote, failed)
}

/// Copies a regular file out of the box.
pub(crate) async fn download(path: &RemotePath, destination: ByteWriter<'_>) -> Result<u64> {
    let failed = || format!("copy from the box: {path}");
    let source = host_path(path);
    let metadata = tokio::fs::metadata(&source).await.or_error(ErrorKind::Remote, failed)?;
    if !metadata.is_file() {
        return Err(Error::remote(format!("not a regular file in the box: {path}")));
    }
    let mut file = tokio::fs::File::open(&source)
        .await
        .or_error(ErrorKind::Remote, failed)?;
    let length = tokio::io::copy(&mut file, destination)
        .await
        .or_error(ErrorKind::Remote, failed)?;
    destination.flush().await.or_error(ErrorKind::Remote, failed)?;
    Ok(length)
}
