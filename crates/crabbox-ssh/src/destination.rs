//! Where a box is and how to get there.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crabbox_core::backend::SshEndpoint;
use crabbox_core::spec::Target;
use crabbox_core::{Error, Result};

use crate::known_hosts;

/// Which host keys are trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HostKeyPolicy {
    /// The first key of a host is written to the first of the known hosts files; later it must be that one.
    AcceptNew,
    /// The key must be in one of the known hosts files.
    Strict,
    /// The key must be this one (OpenSSH format), whatever any file says.
    Pinned(String),
    /// The key must be that of the only line of the only known hosts file.
    PinnedFile,
    /// Any key. For short-lived gateways whose provider says so.
    Unchecked,
}

/// What carries the connection instead of a direct TCP connection.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Proxy {
    /// A command of the system shell; `%h`, `%p`, `%r`, `%n` and `%%` are replaced.
    Command(String),
    /// Another host, itself possibly behind a proxy.
    Jump(Box<Destination>),
}

/// Environment of the child processes that a connection starts: proxy commands and the system's client.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ChildEnvironment {
    /// Names that no child may see, compared without case.
    pub deny: Vec<String>,
    /// Variables added.
    pub add: Vec<(String, String)>,
}

impl ChildEnvironment {
    /// Applies both lists to a child.
    pub(crate) fn apply(&self, command: &mut tokio::process::Command) {
        for (name, _) in std::env::vars_os() {
            let denied = name
                .to_str()
                .is_some_and(|name| self.deny.iter().any(|deny| deny.eq_ignore_ascii_case(name)));
            if denied {
                command.env_remove(&name);
            }
        }
        for (name, value) in &self.add {
            command.env(name, value);
        }
    }
}

/// Where a box is, who we are there, and which host key it must show.
#[derive(Clone)]
#[non_exhaustive]
pub struct Destination {
    /// Address or name to connect to.
    pub host: String,
    /// Ports to try, before a command starts and never after.
    pub ports: Vec<u16>,
    /// User name.
    pub user: String,
    /// The user name is itself a credential: never shown, never multiplexed by the system's client.
    pub user_is_secret: bool,
    /// Private key files, in the order they are tried.
    pub identities: Vec<PathBuf>,
    /// OpenSSH user certificates. `<identity>-cert.pub` is found without being named.
    pub certificates: Vec<PathBuf>,
    /// Use no key of the agent but those named by `identities`.
    pub identities_only: bool,
    /// Socket of an SSH agent.
    pub agent: Option<PathBuf>,
    /// Which host keys are trusted.
    pub host_keys: HostKeyPolicy,
    /// Files of trusted host keys in OpenSSH format. New keys go to the first.
    pub known_hosts: Vec<PathBuf>,
    /// Name by which the host is known in those files, instead of host and port.
    pub host_key_alias: Option<String>,
    /// What carries the connection.
    pub proxy: Option<Proxy>,
    /// Operating system and shell of the box.
    pub target: Target,
    /// Longest wait for each phase of connecting.
    pub connect_timeout: Duration,
    /// Time without traffic after which the box is asked for a sign of life.
    pub keepalive: Duration,
    /// Unanswered questions after which the connection counts as lost.
    pub keepalive_max: usize,
    /// Most connections held to the box at once; see [`Session`](crate::Session).
    pub max_connections: usize,
    /// Environment of child processes.
    pub child_environment: ChildEnvironment,
    /// The system's client may share one connection between commands.
    pub multiplex: bool,
}

impl Destination {
    /// A box with the defaults: ports 2222 and 22, no keys, `accept-new` without a file.
    pub fn new(host: impl Into<String>, user: impl Into<String>) -> Self {
        Self {
            host: host.into(),
            ports: vec![2222, 22],
            user: user.into(),
            user_is_secret: false,
            identities: Vec::new(),
            certificates: Vec::new(),
            identities_only: false,
            agent: None,
            host_keys: HostKeyPolicy::AcceptNew,
            known_hosts: Vec::new(),
            host_key_alias: None,
            proxy: None,
            target: Target::LINUX,
            connect_timeout: Duration::from_secs(10),
            keepalive: Duration::from_secs(15),
            keepalive_max: 2,
            max_connections: 4,
            child_environment: ChildEnvironment::default(),
            multiplex: true,
        }
    }

    /// The box of a lease: its endpoint, the lease's key and the lease's own known hosts file.
    ///
    /// A host key that the provider vouches for is pinned. Only the given key is offered.
    ///
    /// # Errors
    /// `Usage` when the endpoint has no port.
    pub fn of_lease(endpoint: &SshEndpoint, key: &Path, known_hosts: &Path, target: Target) -> Result<Self> {
        if endpoint.ports.is_empty() {
            return Err(
                Error::usage(format!("endpoint without an SSH port: `{}`", endpoint.host)).with_hint("set `ssh.port`"),
            );
        }
        let mut destination = Self::new(endpoint.host.clone(), endpoint.user.clone());
        destination.ports = endpoint.ports.clone();
        destination.user_is_secret = endpoint.user_is_secret;
        destination.identities = vec![endpoint.identity.clone().unwrap_or_else(|| key.to_owned())];
        destination.identities_only = true;
        destination.known_hosts = vec![known_hosts.to_owned()];
        destination.host_keys = match &endpoint.host_key {
            Some(key) => HostKeyPolicy::Pinned(key.clone()),
            None => HostKeyPolicy::AcceptNew,
        };
        destination.proxy = endpoint.proxy_command.clone().map(Proxy::Command);
        destination.target = target;
        Ok(destination)
    }

    /// The ports without repetitions, in order.
    pub(crate) fn candidates(&self) -> Vec<u16> {
        let mut ports: Vec<u16> = Vec::new();
        for port in &self.ports {
            if !ports.contains(port) {
                ports.push(*port);
            }
        }
        ports
    }

    /// The names under which the host's keys are looked up, the preferred first.
    pub(crate) fn names(&self, port: u16) -> Vec<String> {
        match &self.host_key_alias {
            Some(alias) => vec![alias.to_lowercase()],
            None => known_hosts::names(&self.host, port),
        }
    }

    /// How messages call the box on a port.
    pub(crate) fn place(&self, port: u16) -> String {
        known_hosts::place(&self.host, port)
    }
}

/// Leaves out a user name that is a credential.
impl fmt::Debug for Destination {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = if self.user_is_secret { "<secret>" } else { &self.user };
        formatter
            .debug_struct("Destination")
            .field("host", &self.host)
            .field("ports", &self.ports)
            .field("user", &user)
            .field("identities", &self.identities)
            .field("host_keys", &self.host_keys)
            .field("known_hosts", &self.known_hosts)
            .field("target", &self.target)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_user_stays_out_of_debug_output() {
        let mut destination = Destination::new("box.test", "token-123");
        destination.user_is_secret = true;
        assert!(!format!("{destination:?}").contains("token-123"));
    }

    #[test]
    fn a_lease_offers_its_own_key_and_pins_what_is_vouched_for() {
        let mut endpoint = SshEndpoint::new("10.0.0.1");
        endpoint.ports = vec![2222, 22, 2222];
        endpoint.host_key = Some("ssh-ed25519 AAAA".into());
        let destination = Destination::of_lease(
            &endpoint,
            Path::new("/k/id"),
            Path::new("/k/known_hosts"),
            Target::LINUX,
        )
        .unwrap();
        assert_eq!(destination.candidates(), [2222, 22]);
        assert!(destination.identities_only);
        assert_eq!(destination.identities, [Path::new("/k/id")]);
        assert_eq!(destination.host_keys, HostKeyPolicy::Pinned("ssh-ed25519 AAAA".into()));
        endpoint.ports.clear();
        assert!(Destination::of_lease(&endpoint, Path::new("/k"), Path::new("/h"), Target::LINUX).is_err());
    }
}
