//! The system's SSH client as a transport, for configurations that need it.

mod arguments;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use crabbox_core::remote::ExecStatus;
use crabbox_core::{Error, ErrorKind, IntoError as _, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout};
use tokio::time::Instant;

use self::arguments::arguments;
use crate::channel::{Event, Incoming, Outgoing, Process, Transport};
use crate::client_command;
use crate::destination::Destination;
use crate::failure::{ConnectFailure, Phase};
use crate::session::Purpose;

/// Status by which the client reports a failure of its own.
const CLIENT_FAILED: i32 = 255;

/// Longest wait for pipes that a background master inherited, after the client itself has ended.
const PIPES: Duration = Duration::from_secs(5);

const CHUNK: usize = 64 << 10;

/// How the client is run.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct OpenSshOptions {
    /// The client.
    pub program: PathBuf,
    /// `ConnectionAttempts`.
    pub attempts: u32,
    /// Directory of the sockets of shared connections.
    pub control_directory: PathBuf,
}

impl Default for OpenSshOptions {
    fn default() -> Self {
        Self {
            program: PathBuf::from("ssh"),
            attempts: 3,
            control_directory: PathBuf::from("/tmp"),
        }
    }
}

/// A box reached by the system's SSH client.
#[derive(Clone, Debug)]
pub struct OpenSsh(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    destination: Destination,
    options: OpenSshOptions,
    port: u16,
}

impl OpenSsh {
    /// Finds the port that lets us in.
    ///
    /// # Errors
    /// `Usage` when the user name is a credential, which the client would show to everybody on this machine;
    /// `Prerequisite` when there is no client; `Readiness` with [`ConnectFailure`] when no port lets us in.
    pub async fn connect(destination: Destination, options: OpenSshOptions) -> Result<Self> {
        let mut tried = Vec::new();
        let mut last = None;
        for port in destination.candidates() {
            let args = Self::arguments_for(&destination, &options, port, Some("exit 0"), false)?;
            let output = client_command::command(&options.program, &args, &destination.child_environment)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .map_err(|cause| no_client(&options, cause))?;
            let (code, said) = probe(output).await?;
            if code != CLIENT_FAILED {
                return Ok(Self(Arc::new(Inner {
                    destination,
                    options,
                    port,
                })));
            }
            tried.push((port, Phase::Handshake));
            let detail = said
                .lines()
                .map(str::trim)
                .rfind(|line| !line.is_empty())
                .unwrap_or("no message")
                .to_owned();
            last = Some(ConnectFailure::new(Phase::Handshake, destination.place(port), detail).with_port(port));
        }
        let failure =
            last.unwrap_or_else(|| ConnectFailure::new(Phase::Tcp, &destination.host, "there is no port to try"));
        Err(failure
            .with_others(tried)
            .with_hint("run the same with `ssh -v` to see why")
            .into())
    }

    /// Where it leads.
    pub fn destination(&self) -> &Destination {
        &self.0.destination
    }

    /// The port in use.
    pub fn port(&self) -> u16 {
        self.0.port
    }

    /// The client's arguments for one command, or for the login shell, on the port in use.
    ///
    /// # Errors
    /// `Usage` when a path or the proxy cannot be written as arguments.
    pub fn arguments(&self, command: Option<&str>, stdin: bool) -> Result<Vec<OsString>> {
        Self::arguments_for(&self.0.destination, &self.0.options, self.0.port, command, stdin)
    }

    /// The client's arguments for a port, without connecting: what to print for somebody to run by hand.
    ///
    /// # Errors
    /// `Usage` when a path or the proxy cannot be written as arguments, or when the user name is a credential.
    pub fn arguments_for(
        destination: &Destination,
        options: &OpenSshOptions,
        port: u16,
        command: Option<&str>,
        stdin: bool,
    ) -> Result<Vec<OsString>> {
        if destination.user_is_secret {
            return Err(
                Error::usage("the system's ssh client would show the user name, which is a credential here")
                    .with_hint("leave `ssh.transport` at its default"),
            );
        }
        arguments(destination, options, port, command, stdin)
    }

    /// Ends the shared connection, if there is one.
    ///
    /// # Errors
    /// `Prerequisite` when there is no client.
    pub async fn close(&self) -> Result<()> {
        let inner = &self.0;
        let mut args = arguments(&inner.destination, &inner.options, inner.port, None, true)?;
        args.splice(0..0, ["-O".into(), "exit".into()]);
        let mut command = client_command::command(&inner.options.program, &args, &inner.destination.child_environment);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|cause| no_client(&inner.options, cause))?;
        // There may be none.
        let _ = child.wait().await;
        Ok(())
    }
}

fn no_client(options: &OpenSshOptions, cause: std::io::Error) -> Error {
    Error::prerequisite(format!("cannot start the ssh client: `{}`", options.program.display()))
        .with_hint("install OpenSSH's client, or leave `ssh.transport` at its default")
        .with_source(cause)
}

/// Waits for a client and returns its status and what it said. A master that it left behind keeps the pipe open.
async fn probe(mut child: Child) -> Result<(i32, String)> {
    let mut said = BytesMut::new();
    let mut stderr = child.stderr.take();
    let mut code = None;
    let mut until: Option<Instant> = None;
    while stderr.is_some() || code.is_none() {
        tokio::select! {
            read = read_some(&mut stderr, &mut said) => {
                if !matches!(read, Ok(1..)) || said.len() > CHUNK {
                    stderr = None;
                }
            }
            status = child.wait(), if code.is_none() => {
                let status = status.or_error(ErrorKind::Other, || "wait for the ssh client".to_owned())?;
                code = Some(status.code().unwrap_or(CLIENT_FAILED));
                // The words of a failure come before its end; those of a success do not matter.
                until = Some(Instant::now() + Duration::from_millis(200));
            }
            () = tokio::time::sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => break,
        }
    }
    Ok((
        code.unwrap_or(CLIENT_FAILED),
        String::from_utf8_lossy(&said).into_owned(),
    ))
}

/// Reads what there is; never ends when the pipe is closed already.
async fn read_some<R: tokio::io::AsyncRead + Unpin>(
    pipe: &mut Option<R>,
    buffer: &mut BytesMut,
) -> std::io::Result<usize> {
    match pipe {
        Some(pipe) => {
            buffer.reserve(CHUNK);
            pipe.read_buf(buffer).await
        }
        None => std::future::pending().await,
    }
}

#[async_trait]
impl Transport for OpenSsh {
    async fn start(&self, line: &str, _purpose: Purpose) -> Result<Process> {
        let inner = &self.0;
        let args = self.arguments(Some(line), true)?;
        let mut child = client_command::command(&inner.options.program, &args, &inner.destination.child_environment)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|cause| no_client(&inner.options, cause))?;
        Ok(Process {
            outgoing: Box::new(Writer(child.stdin.take())),
            incoming: Box::new(Reader {
                stdout: child.stdout.take(),
                stderr: child.stderr.take(),
                child,
                out: BytesMut::new(),
                err: BytesMut::new(),
                until: None,
                exited: false,
            }),
        })
    }

    fn reports_status(&self) -> bool {
        // 255 may be the command's or the client's.
        false
    }

    fn place(&self) -> String {
        self.0.destination.place(self.0.port)
    }
}

struct Reader {
    child: Child,
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
    out: BytesMut,
    err: BytesMut,
    /// Set when the client has ended: its pipes are not waited for longer.
    until: Option<Instant>,
    exited: bool,
}

#[async_trait]
impl Incoming for Reader {
    async fn next(&mut self) -> Event {
        loop {
            if self.exited && self.stdout.is_none() && self.stderr.is_none() {
                return Event::Closed;
            }
            tokio::select! {
                read = read_some(&mut self.stdout, &mut self.out) => match read {
                    Ok(1..) => return Event::Stdout(self.out.split().freeze()),
                    _ => self.stdout = None,
                },
                read = read_some(&mut self.stderr, &mut self.err) => match read {
                    Ok(1..) => return Event::Stderr(self.err.split().freeze()),
                    _ => self.stderr = None,
                },
                status = self.child.wait(), if !self.exited => {
                    self.exited = true;
                    self.until = Some(Instant::now() + PIPES);
                    if let Ok(status) = status && let Some(code) = status.code() {
                        return Event::Exit(ExecStatus::exited(code));
                    }
                }
                () = tokio::time::sleep_until(self.until.unwrap_or_else(Instant::now)), if self.until.is_some() => {
                    self.stdout = None;
                    self.stderr = None;
                }
            }
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if !self.exited {
            client_command::kill_group(self.child.id());
        }
    }
}

struct Writer(Option<ChildStdin>);

#[async_trait]
impl Outgoing for Writer {
    async fn write(&mut self, chunk: Bytes) -> bool {
        match &mut self.0 {
            Some(stdin) => stdin.write_all(&chunk).await.is_ok(),
            None => false,
        }
    }

    async fn finish(&mut self) {
        self.0 = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_credential_as_user_name_is_refused() {
        let mut destination = Destination::new("10.0.0.1", "token");
        destination.user_is_secret = true;
        let error = OpenSsh::connect(destination, OpenSshOptions::default())
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage);
    }
}
