//! One way to act on a box, whatever its provider: run a command, put a file, get a file.
//!
//! Sync, evidence and checkpoints are written once, against [`Remote`].

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::pin::Pin;
use std::str::FromStr;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};
use crate::spec::Target;

/// A stream of bytes to a box.
pub type ByteReader = Pin<Box<dyn AsyncRead + Send>>;

/// A stream of bytes from a box.
pub type ByteWriter<'a> = &'a mut (dyn AsyncWrite + Send + Unpin);

/// An absolute, normal path on a box, with `/` between its parts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RemotePath(String);

impl RemotePath {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Appends a relative path.
    ///
    /// # Errors
    /// `Usage` when the path is empty, absolute, or has an empty, `.` or `..` part.
    pub fn join(&self, relative: &str) -> Result<Self> {
        if !is_safe_relative(relative) {
            return Err(
                Error::usage(format!("unsafe path on the box: `{}`", relative.escape_debug()))
                    .with_hint("use a relative path without `.`, `..` or empty parts"),
            );
        }
        Ok(Self(format!("{}/{relative}", self.0.trim_end_matches('/'))))
    }

    /// The directory that holds it.
    pub fn parent(&self) -> Option<Self> {
        let (parent, _) = self.0.rsplit_once('/')?;
        Some(Self(if parent.is_empty() {
            "/".to_owned()
        } else {
            parent.to_owned()
        }))
    }

    /// The last part.
    pub fn file_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }
}

/// Whether a path is relative and has no empty, `.` or `..` part.
pub fn is_safe_relative(path: &str) -> bool {
    !path.is_empty() && !path.contains('\0') && path.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

/// Accepts an absolute path without `.`, `..` or NUL; repeated and trailing slashes vanish. A Windows drive letter is a
/// part like any other: `C:/work` is written `/C:/work`.
impl FromStr for RemotePath {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refuse = || {
            Error::usage(format!("not an absolute path on the box: `{}`", text.escape_debug()))
                .with_hint("use an absolute path without `.` or `..` parts, such as /work")
        };
        let Some(rest) = text.strip_prefix('/') else {
            return Err(refuse());
        };
        let parts: Vec<&str> = rest.split('/').filter(|part| !part.is_empty()).collect();
        if text.contains('\0') || parts.iter().any(|part| matches!(*part, "." | "..")) {
            return Err(refuse());
        }
        Ok(Self(format!("/{}", parts.join("/"))))
    }
}

impl fmt::Display for RemotePath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// What a command reads.
#[derive(Default)]
pub enum Stdin {
    /// End of file at once.
    #[default]
    Empty,
    /// These bytes.
    Bytes(Bytes),
    /// A stream, read as the command reads.
    Stream(ByteReader),
}

impl fmt::Debug for Stdin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => formatter.write_str("Empty"),
            Self::Bytes(bytes) => write!(formatter, "Bytes({})", bytes.len()),
            Self::Stream(_) => formatter.write_str("Stream"),
        }
    }
}

/// One command for a box. It is started at most once.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct ExecRequest {
    /// Program and arguments, passed as they are; no shell looks at them.
    pub argv: Vec<String>,
    /// Directory to start in; the box's default if absent. Starting fails when it does not exist.
    pub workdir: Option<RemotePath>,
    /// Variables added to the box's own environment.
    pub env: BTreeMap<String, String>,
    /// What the command reads.
    pub stdin: Stdin,
    /// Longest run; then the command's process group is ended and the result is a cancelled error.
    pub timeout: Option<Duration>,
    /// Ends the command's process group: first politely, after a grace by force.
    pub cancel: CancellationToken,
}

impl ExecRequest {
    /// A command without directory, variables or input.
    pub fn new<S: Into<String>>(argv: impl IntoIterator<Item = S>) -> Self {
        Self {
            argv: argv.into_iter().map(Into::into).collect(),
            ..Self::default()
        }
    }

    /// A POSIX shell script with positional parameters `$1`, `$2`, ….
    pub fn script<S: Into<String>>(script: &str, parameters: impl IntoIterator<Item = S>) -> Self {
        let mut argv = vec!["sh".to_owned(), "-c".to_owned(), script.to_owned(), "sh".to_owned()];
        argv.extend(parameters.into_iter().map(Into::into));
        Self {
            argv,
            ..Self::default()
        }
    }

    /// Sets the directory.
    #[must_use]
    pub fn in_dir(mut self, workdir: RemotePath) -> Self {
        self.workdir = Some(workdir);
        self
    }

    /// Sets the added variables.
    #[must_use]
    pub fn with_env(mut self, env: BTreeMap<String, String>) -> Self {
        self.env = env;
        self
    }

    /// Sets the input.
    #[must_use]
    pub fn with_stdin(mut self, stdin: Stdin) -> Self {
        self.stdin = stdin;
        self
    }

    /// Sets the longest run.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets what ends the command.
    #[must_use]
    pub fn with_cancel(mut self, cancel: CancellationToken) -> Self {
        self.cancel = cancel;
        self
    }
}

/// How a command ended. A failing command is a result, not an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExecStatus {
    /// Exit status, 0 to 255; 128 + the signal's number when a signal ended it.
    pub code: i32,
    /// Signal that ended it, if one did.
    pub signal: Option<i32>,
    /// The provider proved that memory ran out.
    pub out_of_memory: bool,
}

impl ExecStatus {
    /// An ordinary exit.
    pub const fn exited(code: i32) -> Self {
        Self {
            code,
            signal: None,
            out_of_memory: false,
        }
    }

    /// The end by a signal.
    pub const fn signalled(signal: i32) -> Self {
        Self {
            code: 128 + signal,
            signal: Some(signal),
            out_of_memory: false,
        }
    }

    /// Whether it succeeded.
    pub const fn success(self) -> bool {
        self.code == 0
    }
}

/// Which stream of a command bytes came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OutputStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl OutputStream {
    /// The word used in records.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// Where a command's output goes, as it comes.
///
/// A slow sink slows the command down; nothing is buffered without bound and nothing is dropped.
#[async_trait]
pub trait OutputSink: Send {
    /// Takes the next bytes of one stream. An error ends the command.
    async fn write(&mut self, stream: OutputStream, chunk: Bytes) -> Result<()>;
}

/// Discards everything.
#[derive(Debug, Default)]
pub struct Discard;

#[async_trait]
impl OutputSink for Discard {
    async fn write(&mut self, _stream: OutputStream, _chunk: Bytes) -> Result<()> {
        Ok(())
    }
}

/// Keeps output in memory, up to a limit per stream.
#[derive(Debug)]
pub struct Capture {
    limit: usize,
    stdout: BytesMut,
    stderr: BytesMut,
}

impl Capture {
    /// Keeps at most `limit_bytes` of each stream; more is an error that ends the command.
    pub fn new(limit_bytes: usize) -> Self {
        Self {
            limit: limit_bytes,
            stdout: BytesMut::new(),
            stderr: BytesMut::new(),
        }
    }

    /// Standard output so far.
    pub fn stdout(&self) -> &[u8] {
        &self.stdout
    }

    /// Standard error so far.
    pub fn stderr(&self) -> &[u8] {
        &self.stderr
    }
}

#[async_trait]
impl OutputSink for Capture {
    async fn write(&mut self, stream: OutputStream, chunk: Bytes) -> Result<()> {
        let buffer = match stream {
            OutputStream::Stdout => &mut self.stdout,
            OutputStream::Stderr => &mut self.stderr,
        };
        if buffer.len() + chunk.len() > self.limit {
            return Err(Error::remote(format!(
                "{} of a helper command exceeded {} bytes",
                stream.as_str(),
                self.limit
            )));
        }
        buffer.extend_from_slice(&chunk);
        Ok(())
    }
}

/// One file to put on a box.
pub struct Upload {
    /// Content.
    pub content: ByteReader,
    /// Length in bytes, if known.
    pub length: Option<u64>,
    /// Permission bits.
    pub mode: u32,
}

impl Upload {
    /// A small file in memory.
    pub fn from_bytes(content: impl Into<Bytes>, mode: u32) -> Self {
        let content = content.into();
        let length = Some(content.len() as u64);
        Self {
            content: Box::pin(std::io::Cursor::new(content)),
            length,
            mode,
        }
    }
}

impl fmt::Debug for Upload {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Upload")
            .field("length", &self.length)
            .field("mode", &self.mode)
            .finish_non_exhaustive()
    }
}

/// A directory of this machine that is a directory of a box.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostDirectory {
    /// Where it is on this machine. May lead through `/proc`, so it is opened once and used by its handle.
    pub path: PathBuf,
    /// User and group that must own what is put there, when they are not those of this process.
    pub owner: Option<(u32, u32)>,
}

/// A reachable box.
#[async_trait]
pub trait Remote: Send + Sync {
    /// Operating system of the box.
    fn target(&self) -> Target;

    /// Runs a command once, handing its output on as it comes.
    ///
    /// # Behaviour
    /// - A started command is never started again.
    /// - Its exit status is data. An error means that the box or the way to it failed, or that the request was cancelled.
    /// - A program that is not there is status 127, one that cannot be started 126, as a shell would say.
    /// - Cancelling ends every process of the command before this returns.
    async fn exec(&self, request: ExecRequest, output: &mut dyn OutputSink) -> Result<ExecStatus>;

    /// Puts one file, replacing what is there; missing directories are made.
    async fn upload(&self, destination: &RemotePath, upload: Upload) -> Result<()>;

    /// Gets one regular file and returns its length in bytes.
    ///
    /// # Errors
    /// `Remote` when the file does not exist or is not a regular file.
    async fn download(&self, source: &RemotePath, destination: ByteWriter<'_>) -> Result<u64>;

    /// The directory on this machine that *is* the given directory of the box, if there is one.
    ///
    /// What lies in it was written by the box and is hostile: open it without following symbolic links.
    async fn host_directory(&self, _path: &RemotePath) -> Result<Option<HostDirectory>> {
        Ok(None)
    }
}

impl dyn Remote + '_ {
    /// Runs a small helper command and returns its standard output.
    ///
    /// # Errors
    /// `Remote` when it exits with another status than 0, with the first line of its standard error as the cause.
    pub async fn output(&self, request: ExecRequest) -> Result<Vec<u8>> {
        const LIMIT: usize = 16 * 1024 * 1024;
        let what = request.argv.first().cloned().unwrap_or_default();
        let mut capture = Capture::new(LIMIT);
        let status = self.exec(request, &mut capture).await?;
        if status.success() {
            return Ok(capture.stdout.to_vec());
        }
        let stderr = String::from_utf8_lossy(capture.stderr());
        let reason = stderr
            .lines()
            .find(|line| !line.trim().is_empty())
            .unwrap_or("no message")
            .trim();
        Err(Error::remote(format!(
            "`{what}` on the box exited {}: {reason}",
            status.code
        )))
    }
}

/// Copies a whole stream into a writer and returns its length.
///
/// # Errors
/// `Remote` when reading or writing fails.
pub async fn copy(source: &mut ByteReader, destination: ByteWriter<'_>) -> Result<u64> {
    let failed = |error: std::io::Error| Error::remote("copy to or from the box").with_source(error);
    let length = tokio::io::copy(source, destination).await.map_err(failed)?;
    destination.flush().await.map_err(failed)?;
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remote_paths_are_absolute_and_normal() {
        let path: RemotePath = "//work///box/".parse().unwrap();
        assert_eq!(path.as_str(), "/work/box");
        assert_eq!(path.join("a/b").unwrap().as_str(), "/work/box/a/b");
        assert_eq!(path.parent().unwrap().as_str(), "/work");
        assert_eq!(path.file_name(), "box");
        for bad in ["work", "", "/a/../b", "/a/./b", "/a\0"] {
            assert!(bad.parse::<RemotePath>().is_err(), "{bad:?}");
        }
        for bad in ["/a", "a//b", "../a", "", "a/.."] {
            assert!(path.join(bad).is_err(), "{bad:?}");
        }
        let root: RemotePath = "/".parse().unwrap();
        assert_eq!(root.join("a").unwrap().as_str(), "/a");
    }

    #[tokio::test]
    async fn captures_are_bounded() {
        let mut capture = Capture::new(4);
        capture
            .write(OutputStream::Stdout, Bytes::from_static(b"abcd"))
            .await
            .unwrap();
        assert!(
            capture
                .write(OutputStream::Stdout, Bytes::from_static(b"e"))
                .await
                .is_err()
        );
        assert_eq!(capture.stdout(), b"abcd");
    }
}
