//! A real OpenSSH server on loopback, with its own keys, for one test.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use crabbox_core::remote::{Capture, ExecRequest, ExecStatus, OutputSink, OutputStream};
use crabbox_core::runtime::{NoticeLevel, Notices};
use crabbox_core::{Remote, Result};
use crabbox_ssh::{Destination, Session, SshRemote};

/// Longest wait for anything that is certain to happen.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// A server that ends with the test.
pub(crate) struct Sshd {
    child: Child,
    /// Ports that it listens on.
    pub(crate) ports: Vec<u16>,
    /// Keys, config and the home directory of the box.
    pub(crate) directory: tempfile::TempDir,
    /// The user to log in as.
    pub(crate) user: String,
}

impl Sshd {
    /// A server with one port.
    pub(crate) fn start() -> Self {
        Self::with(1, "")
    }

    /// A server with some ports and more lines of config.
    pub(crate) fn with(ports: usize, lines: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        fs::create_dir(path.join("home")).unwrap();
        for name in ["host", "user"] {
            keygen(&path.join(name), "ed25519");
        }
        fs::copy(path.join("user.pub"), path.join("authorized_keys")).unwrap();
        for _ in 0..5 {
            let ports = free_ports(ports);
            if let Some(child) = launch(path, &ports, lines) {
                let user = output(Command::new("id").arg("-un"));
                return Self {
                    child,
                    ports,
                    directory,
                    user,
                };
            }
        }
        panic!(
            "sshd does not start: {}",
            fs::read_to_string(path.join("log")).unwrap_or_default()
        );
    }

    /// A file beside the keys.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Where the server is, with the right key and an empty known hosts file.
    pub(crate) fn destination(&self) -> Destination {
        let mut destination = Destination::new("127.0.0.1", self.user.clone());
        destination.ports = self.ports.clone();
        destination.identities = vec![self.path("user")];
        destination.identities_only = true;
        destination.known_hosts = vec![self.path("known_hosts")];
        destination
    }

    /// A session and its box.
    pub(crate) async fn remote(&self) -> (Session, SshRemote) {
        let session = Session::connect(self.destination()).await.unwrap();
        let remote = SshRemote::new(session.clone()).unwrap();
        (session, remote)
    }

    /// Stops the server and starts it again on the same ports, with another host key if asked.
    pub(crate) fn restart(&mut self, new_host_key: bool) {
        self.stop();
        if new_host_key {
            fs::remove_file(self.path("host")).unwrap();
            fs::remove_file(self.path("host.pub")).unwrap();
            keygen(&self.path("host"), "ed25519");
        }
        self.child = launch(self.directory.path(), &self.ports, "").expect("sshd starts again");
    }

    /// Kills the server and every connection to it.
    pub(crate) fn stop(&mut self) {
        self.kill_connections();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Kills the processes that serve connections, as a crash of the box would.
    pub(crate) fn kill_connections(&self) {
        let parent = i32::try_from(self.child.id()).unwrap();
        for pid in children(parent) {
            // Children of a child first: the server may have split.
            for pid in children(pid)
                .into_iter()
                .filter(|pid| name(*pid).starts_with("sshd"))
                .chain([pid])
            {
                let _ = Command::new("kill")
                    .args(["-9", &pid.to_string()])
                    .stderr(Stdio::null())
                    .status();
            }
        }
    }

    /// Processes that serve connections.
    pub(crate) fn connections(&self) -> usize {
        children(i32::try_from(self.child.id()).unwrap()).len()
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.stop();
    }
}

fn launch(directory: &Path, ports: &[u16], lines: &str) -> Option<Child> {
    if !Path::new("/run/sshd").exists() {
        // Only the superuser's server needs it.
        let _ = fs::create_dir_all("/run/sshd");
    }
    let path = directory.display();
    let listen: Vec<String> = ports
        .iter()
        .map(|port| format!("ListenAddress 127.0.0.1:{port}\n"))
        .collect();
    // What a test says comes first, since the first value wins.
    let config = format!(
        "{lines}\n{}HostKey {path}/host\nAuthorizedKeysFile {path}/authorized_keys\nPidFile none\nUsePAM no\n\
         StrictModes no\nPermitRootLogin yes\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n\
         MaxStartups 200\nSetEnv HOME={path}/home\nAllowStreamLocalForwarding yes\nPrintMotd no\nLogLevel VERBOSE\n",
        listen.concat()
    );
    fs::write(directory.join("config"), config).unwrap();
    let mut child = Command::new("/usr/sbin/sshd")
        .args(["-D", "-f"])
        .arg(directory.join("config"))
        .arg("-E")
        .arg(directory.join("log"))
        .stdin(Stdio::null())
        .spawn()
        .expect("openssh-server is installed");
    let start = Instant::now();
    while start.elapsed() < SOON {
        if child.try_wait().unwrap().is_some() {
            return None;
        }
        if ports
            .iter()
            .all(|port| TcpStream::connect(("127.0.0.1", *port)).is_ok())
        {
            return Some(child);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let _ = child.kill();
    let _ = child.wait();
    None
}

/// Ports that are free now.
pub(crate) fn free_ports(count: usize) -> Vec<u16> {
    let listeners: Vec<TcpListener> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    listeners
        .iter()
        .map(|listener| listener.local_addr().unwrap().port())
        .collect()
}

/// Makes a key pair with OpenSSH's own tool.
pub(crate) fn keygen(path: &Path, kind: &str) {
    output(
        Command::new("ssh-keygen")
            .args(["-q", "-N", "", "-t", kind, "-C", "test", "-f"])
            .arg(path),
    );
}

/// Runs a program that must succeed.
pub(crate) fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn children(parent: i32) -> Vec<i32> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        if fields.get(1).and_then(|ppid| ppid.parse::<i32>().ok()) == Some(parent) && fields[0] != "Z" {
            found.push(pid);
        }
    }
    found
}

fn name(pid: i32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default()
}

/// Command lines that have a text.
pub(crate) fn running(text: &str) -> Vec<String> {
    processes()
        .into_iter()
        .map(|(_, line)| line)
        .filter(|line| line.contains(text))
        .collect()
}

/// The process whose command line begins with a text.
pub(crate) fn pid_of(text: &str) -> Option<i32> {
    processes()
        .into_iter()
        .find(|(_, line)| line.starts_with(text))
        .map(|(pid, _)| pid)
}

/// Ends the one process of a test whose command line begins with a text.
pub(crate) async fn end(text: &str) {
    let pid = pid_of(text).expect("it runs");
    output(Command::new("kill").arg(pid.to_string()));
    until("ended", || pid_of(text) != Some(pid)).await;
}

fn processes() -> Vec<(i32, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        found.push((pid, String::from_utf8_lossy(&line).replace('\0', " ")));
    }
    found
}

/// Waits until something holds.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < SOON, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Runs a command and returns status, standard output and standard error.
pub(crate) async fn run(remote: &dyn Remote, request: ExecRequest) -> Result<(ExecStatus, String, String)> {
    let mut capture = Capture::new(64 << 20);
    let status = remote.exec(request, &mut capture).await?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok((status, text(capture.stdout()), text(capture.stderr())))
}

/// Runs a script that must succeed and returns its standard output.
pub(crate) async fn sh(remote: &dyn Remote, script: &str) -> String {
    let (status, stdout, stderr) = run(remote, ExecRequest::script::<&str>(script, [])).await.unwrap();
    assert!(status.success(), "{status:?} {stderr}");
    stdout
}

/// Counts bytes and remembers a digest of their sum, never the bytes.
#[derive(Default)]
pub(crate) struct Count {
    pub(crate) bytes: u64,
    pub(crate) sum: u64,
}

#[async_trait]
impl OutputSink for Count {
    async fn write(&mut self, _stream: OutputStream, chunk: Bytes) -> Result<()> {
        self.bytes += chunk.len() as u64;
        self.sum = chunk
            .iter()
            .fold(self.sum, |sum, byte| sum.wrapping_add(u64::from(*byte)));
        Ok(())
    }
}

/// Keeps notices.
#[derive(Clone, Default)]
pub(crate) struct Said(pub(crate) Arc<std::sync::Mutex<Vec<String>>>);

impl Notices for Said {
    fn notice(&self, _level: NoticeLevel, line: &str) {
        self.0.lock().unwrap().push(line.to_owned());
    }
}
