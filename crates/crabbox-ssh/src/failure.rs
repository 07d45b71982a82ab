//! Why a connection could not be made, by phase.

use std::fmt;

use crabbox_core::{Error, ErrorKind};

/// How far an attempt to connect came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Finding the address of the name.
    Name,
    /// Opening the TCP connection.
    Tcp,
    /// Starting the proxy command, or connecting to the jump host.
    Proxy,
    /// Agreeing on algorithms and keys.
    Handshake,
    /// Deciding whether the host is the right one.
    HostKey,
    /// Proving who we are.
    Authentication,
    /// Opening a channel on an authenticated connection.
    Channel,
}

impl Phase {
    /// The word used in messages and records.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Tcp => "tcp",
            Self::Proxy => "proxy",
            Self::Handshake => "handshake",
            Self::HostKey => "host-key",
            Self::Authentication => "auth",
            Self::Channel => "channel",
        }
    }

    const fn kind(self) -> ErrorKind {
        match self {
            Self::Name | Self::Tcp | Self::Proxy | Self::Handshake => ErrorKind::Readiness,
            Self::HostKey => ErrorKind::Identity,
            Self::Authentication => ErrorKind::Prerequisite,
            Self::Channel => ErrorKind::Remote,
        }
    }

    const fn hint(self) -> &'static str {
        match self {
            Self::Name => "check the host name and that this machine is online",
            Self::Tcp => {
                "check that the box runs, that its SSH port is one of these, and that a firewall lets it through"
            }
            Self::Proxy => "run the proxy command by hand to see why it fails",
            Self::Handshake => {
                "something answered that does not finish an SSH handshake; the box may still be starting"
            }
            Self::HostKey => {
                "if the box was rebuilt on purpose, remove its line from the known hosts file; \
                              if not, somebody else answers at this address"
            }
            Self::Authentication => {
                "check the user name, that the key file belongs to this box, and that it has mode 0600"
            }
            Self::Channel => "the box refuses more sessions; raise MaxSessions in its sshd_config or end some",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// Why a connection could not be made. It is the source of the [`Error`] that connecting returns, so that
/// [`ConnectFailure::of`] finds it there.
#[derive(Debug, thiserror::Error)]
#[error("{detail}")]
pub struct ConnectFailure {
    /// How far it came.
    phase: Phase,
    /// Port of the box, where one was tried.
    port: Option<u16>,
    detail: String,
    hint: Option<String>,
    /// The box's name and port, for the message.
    place: String,
    /// Failures on the other ports, in order.
    others: Vec<(u16, Phase)>,
}

impl ConnectFailure {
    pub(crate) fn new(phase: Phase, place: impl Into<String>, detail: impl fmt::Display) -> Self {
        Self {
            phase,
            port: None,
            detail: detail.to_string(),
            hint: None,
            place: place.into(),
            others: Vec::new(),
        }
    }

    pub(crate) fn with_port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub(crate) fn with_others(mut self, others: Vec<(u16, Phase)>) -> Self {
        self.others = others;
        self
    }

    /// How far it came.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Port of the box that this is about.
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// The failure behind an error, if the error comes from connecting.
    pub fn of(error: &Error) -> Option<&Self> {
        std::error::Error::source(error)?.downcast_ref()
    }

    /// Every port that was tried and how far it came, such as `2222:tcp,22:auth`.
    pub fn ports(&self) -> String {
        let mut words: Vec<String> = self
            .others
            .iter()
            .map(|(port, phase)| format!("{port}:{phase}"))
            .collect();
        if let Some(port) = self
            .port
            .filter(|port| !self.others.iter().any(|(other, _)| other == port))
        {
            words.push(format!("{port}:{}", self.phase));
        }
        words.join(",")
    }
}

impl From<ConnectFailure> for Error {
    fn from(failure: ConnectFailure) -> Self {
        let retryable = failure.phase.kind() == ErrorKind::Readiness;
        let what = match failure.phase {
            Phase::Name => "find the address of",
            Phase::Tcp => "connect to",
            Phase::Proxy => "reach through the proxy",
            Phase::Handshake => "ssh handshake with",
            Phase::HostKey => "host key refused of",
            Phase::Authentication => "authentication refused by",
            Phase::Channel => "open a channel to",
        };
        let ports = if failure.others.len() > 1 {
            format!(" (ports={})", failure.ports())
        } else {
            String::new()
        };
        let hint = failure.hint.clone().unwrap_or_else(|| failure.phase.hint().to_owned());
        Self::new(failure.phase.kind(), format!("{what} {}{ports}", failure.place))
            .with_hint(hint)
            .with_facts(|facts| facts.retryable = retryable)
            .with_source(failure)
    }
}
