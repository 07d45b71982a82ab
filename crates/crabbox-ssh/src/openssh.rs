//! The system's SSH client as a transport, for configurations that need it.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use crabbox_core::id::hex;
use crabbox_core::remote::ExecStatus;
use crabbox_core::{Error, ErrorKind, IntoError as _, Result};
use sha1::{Digest as _, Sha1};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout};
use tokio::time::Instant;

use crate::channel::{Event, Incoming, Outgoing, Process, Transport};
use crate::client_command;
use crate::destination::{Destination, HostKeyPolicy, Proxy};
use crate::failure::{ConnectFailure, Phase};
use crate::session::Purpose;
use crate::target::posix;

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
        if destination.user_is_secret {
            return Err(
                Error::usage("the system's ssh client would show the user name, which is a credential here")
                    .with_hint("leave `ssh.transport` at its default"),
            );
        }
        let mut tried = Vec::new();
        let mut last = None;
        for port in destination.candidates() {
            let args = arguments(&destination, &options, port, Some("exit 0"), false)?;
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

    /// The client's arguments for one command, or for the login shell.
    ///
    /// # Errors
    /// `Usage` when a path or the proxy cannot be written as arguments.
    pub fn arguments(&self, command: Option<&str>, stdin: bool) -> Result<Vec<OsString>> {
        arguments(&self.0.destination, &self.0.options, self.0.port, command, stdin)
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

/// The client's arguments, in the order that wrappers rely on.
fn arguments(
    destination: &Destination,
    options: &OpenSshOptions,
    port: u16,
    command: Option<&str>,
    stdin: bool,
) -> Result<Vec<OsString>> {
    let mut args = Arguments::default();
    for identity in &destination.identities {
        args.push("-i");
        args.push(identity.as_os_str());
    }
    if !destination.identities.is_empty() {
        args.option("IdentitiesOnly=yes");
    }
    for option in [
        "ForwardAgent=no",
        "ForwardX11=no",
        "ForwardX11Trusted=no",
        "BatchMode=yes",
    ] {
        args.option(option);
    }
    args.option(format!(
        "ConnectTimeout={}",
        destination.connect_timeout.as_secs().max(1)
    ));
    args.option(format!("ConnectionAttempts={}", options.attempts));
    args.option(format!(
        "ServerAliveInterval={}",
        destination.keepalive.as_secs().max(1)
    ));
    args.option(format!("ServerAliveCountMax={}", destination.keepalive_max));
    args.push("-p");
    args.push(port.to_string());
    host_key_options(&mut args, destination)?;
    if destination.multiplex && !cfg!(windows) {
        let path = format!(
            "{}/crabbox-ssh-{}-%C",
            options.control_directory.display(),
            control_hash(destination)
        );
        args.option("ControlMaster=auto");
        args.option("ControlPersist=10m");
        args.option(format!("ControlPath={path}"));
    } else {
        args.option("ControlMaster=no");
        args.option("ControlPath=none");
        args.option("ControlPersist=no");
    }
    for certificate in &destination.certificates {
        args.option(format!("CertificateFile={}", config_path(certificate)?));
    }
    match &destination.proxy {
        None => {}
        Some(Proxy::Command(command)) => args.option(format!("ProxyCommand={command}")),
        Some(Proxy::Jump(jump)) => args.option(format!("ProxyCommand={}", jump_command(jump, options)?)),
    }
    if !stdin {
        args.push("-n");
    }
    args.push(format!("{}@{}", destination.user, destination.host));
    if let Some(command) = command {
        args.push(command);
    }
    Ok(args.0)
}

#[derive(Default)]
struct Arguments(Vec<OsString>);

impl Arguments {
    fn push(&mut self, arg: impl Into<OsString>) {
        self.0.push(arg.into());
    }

    fn option(&mut self, option: impl Into<OsString>) {
        self.push("-o");
        self.push(option);
    }
}

/// The client through which a jump host is reached, as a line for the shell.
fn jump_command(jump: &Destination, options: &OpenSshOptions) -> Result<String> {
    let mut alone = jump.clone();
    alone.multiplex = false;
    let port = jump.ports.first().copied().unwrap_or(22);
    let mut words = vec![posix::quote_readably(&options.program.to_string_lossy())];
    for arg in arguments(&alone, options, port, None, true)? {
        let Some(arg) = arg.to_str() else {
            return Err(Error::usage(format!("not UTF-8: `{}`", arg.to_string_lossy())));
        };
        words.push(posix::quote_readably(&arg.replace('%', "%%")));
    }
    let place = words.pop().unwrap_or_default();
    Ok(format!("{} -W '[%h]:%p' {place}", words.join(" ")))
}

fn host_key_options(args: &mut Arguments, destination: &Destination) -> Result<()> {
    if destination.host_keys == HostKeyPolicy::Unchecked {
        for option in [
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "LogLevel=ERROR",
        ] {
            args.option(option);
        }
        return Ok(());
    }
    let pinned = matches!(
        destination.host_keys,
        HostKeyPolicy::Pinned(_) | HostKeyPolicy::PinnedFile
    );
    let new = destination.host_keys == HostKeyPolicy::AcceptNew && destination.host_key_alias.is_none();
    args.option(if new {
        "StrictHostKeyChecking=accept-new"
    } else {
        "StrictHostKeyChecking=yes"
    });
    if destination.known_hosts.is_empty() {
        return Err(Error::usage(format!(
            "no known hosts file for the ssh client: `{}`",
            destination.host
        ))
        .with_hint("give the lease a known hosts file"));
    }
    let files = destination
        .known_hosts
        .iter()
        .map(|file| config_path(file))
        .collect::<Result<Vec<_>>>()?;
    args.option(format!("UserKnownHostsFile={}", files.join(" ")));
    if pinned {
        for option in [
            "GlobalKnownHostsFile=none",
            "KnownHostsCommand=none",
            "VerifyHostKeyDNS=no",
            "UpdateHostKeys=no",
            "CheckHostIP=no",
        ] {
            args.option(option);
        }
    }
    if let Some(alias) = &destination.host_key_alias {
        args.option(format!("HostKeyAlias={alias}"));
        let algorithm = match &destination.host_keys {
            HostKeyPolicy::Pinned(key) => key.split_whitespace().next().unwrap_or("ssh-ed25519"),
            _ => "ssh-ed25519",
        };
        let algorithms = if algorithm == "ssh-rsa" {
            "rsa-sha2-512,rsa-sha2-256"
        } else {
            algorithm
        };
        args.option(format!("HostKeyAlgorithms={algorithms}"));
    }
    Ok(())
}

/// A path as a value of the client's configuration.
fn config_path(path: &std::path::Path) -> Result<String> {
    let text = path
        .to_str()
        .filter(|text| !text.contains(['"', '\n', '\r']) && !text.contains("${"));
    let Some(text) = text else {
        return Err(Error::usage(format!(
            "the ssh client cannot be given this path: `{}`",
            path.display()
        ))
        .with_hint("move the file to a path without quotes and variables"));
    };
    let text = text.replace('%', "%%");
    Ok(if text.contains([' ', '\t', '\'']) {
        format!("\"{text}\"")
    } else {
        text
    })
}

/// Keeps apart shared connections that were opened with other keys or other trust, which `%C` does not.
fn control_hash(destination: &Destination) -> String {
    let path = |paths: &[PathBuf]| {
        paths
            .first()
            .map_or_else(String::new, |path| path.display().to_string())
    };
    let key = match &destination.host_keys {
        HostKeyPolicy::Pinned(key) => key.trim(),
        _ => "",
    };
    let proxy = match &destination.proxy {
        Some(Proxy::Command(command)) => command.clone(),
        Some(Proxy::Jump(jump)) => format!("{}@{}", jump.user, jump.host),
        None => String::new(),
    };
    let parts = [
        destination.user.clone(),
        path(&destination.identities),
        path(&destination.certificates),
        path(&destination.known_hosts),
        destination.host_key_alias.clone().unwrap_or_default(),
        key.to_owned(),
        proxy,
    ];
    hex(&Sha1::digest(parts.join("\0").as_bytes())[..4])
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

    fn text(destination: &Destination, command: Option<&str>, stdin: bool) -> String {
        let args = arguments(destination, &OpenSshOptions::default(), 2222, command, stdin).unwrap();
        let words: Vec<_> = args.iter().map(|arg| arg.to_string_lossy().into_owned()).collect();
        words.join("\n")
    }

    fn lease() -> Destination {
        let mut destination = Destination::new("10.0.0.1", "crabbox");
        destination.identities = vec!["/c/testboxes/cbx_1/id_ed25519".into()];
        destination.known_hosts = vec!["/c/test boxes/cbx_1/known_hosts".into()];
        destination
    }

    #[test]
    fn arguments_of_a_lease() {
        insta::assert_snapshot!(text(&lease(), Some("true"), false));
    }

    #[test]
    fn arguments_of_a_pinned_lease_behind_a_jump_host() {
        let mut destination = lease();
        destination.host_keys = HostKeyPolicy::Pinned("ssh-rsa AAAA\n".into());
        destination.host_key_alias = Some("crabbox-lease-1".into());
        destination.multiplex = false;
        let mut jump = Destination::new("jump.test", "me");
        jump.host_keys = HostKeyPolicy::Unchecked;
        jump.ports = vec![2022];
        destination.proxy = Some(Proxy::Jump(Box::new(jump)));
        insta::assert_snapshot!(text(&destination, None, true));
    }

    #[test]
    fn shared_connections_are_kept_apart_by_trust() {
        let mut other = lease();
        assert_eq!(control_hash(&other), control_hash(&lease()));
        other.known_hosts = vec!["/elsewhere".into()];
        assert_ne!(control_hash(&other), control_hash(&lease()));
        assert_eq!(control_hash(&other).len(), 8);
    }

    #[test]
    fn paths_that_the_client_would_read_differently() {
        let path = |text: &str| config_path(std::path::Path::new(text));
        assert_eq!(path("/a b/%h").unwrap(), "\"/a b/%%h\"");
        assert!(path("/a\"b").is_err());
        assert!(path("/a${HOME}").is_err());
    }

    #[tokio::test]
    async fn a_credential_as_user_name_is_refused() {
        let mut destination = lease();
        destination.user_is_secret = true;
        let error = OpenSsh::connect(destination, OpenSshOptions::default())
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage);
    }
}
