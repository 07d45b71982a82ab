//! Waiting for a box that is still starting.

use std::time::Duration;

use crabbox_core::remote::{Capture, ExecRequest};
use crabbox_core::runtime::{Clock, NoticeLevel, Notices};
use crabbox_core::{Error, Remote as _, Result};
use futures_util::future::join_all;
use tokio_util::sync::CancellationToken;

use crate::connection::Connection;
use crate::destination::Destination;
use crate::failure::{ConnectFailure, Phase};
use crate::remote::SshRemote;
use crate::session::Session;

/// What a box that Crabbox prepared runs to say that it is ready.
pub const DEFAULT_CHECK: &str =
    "test -x /usr/local/bin/crabbox-ready && /usr/local/bin/crabbox-ready >/tmp/crabbox-ready.log 2>&1";

/// Longest run of a ready check.
const CHECK_LIMIT: Duration = Duration::from_secs(60);

/// How far a port came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PortStatus {
    /// Nothing answers.
    Closed,
    /// Something answers, but SSH does not let us in.
    Tcp,
    /// SSH lets us in, but the box is not ready.
    Auth,
    /// The box is ready.
    Ready,
}

impl PortStatus {
    /// The word used in messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Tcp => "tcp",
            Self::Auth => "auth",
            Self::Ready => "ready",
        }
    }
}

/// How long and for what to wait.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Wait {
    /// What it is that waits, such as `bootstrap`, `before sync` or `before command`.
    pub phase: String,
    /// Longest wait.
    pub budget: Duration,
    /// Time between looks once the first few have failed; those come sooner.
    pub cadence: Duration,
    /// Longest time for each step of connecting.
    pub connect_timeout: Duration,
    /// A POSIX script that succeeds on a box that is ready; `None` when an SSH session is enough.
    pub check: Option<String>,
    /// Ends the wait.
    pub cancel: CancellationToken,
}

impl Wait {
    /// The wait for a fresh box: 20 minutes, every 10 s, with [`DEFAULT_CHECK`].
    pub fn new(phase: impl Into<String>) -> Self {
        Self {
            phase: phase.into(),
            budget: Duration::from_secs(20 * 60),
            cadence: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(5),
            check: Some(DEFAULT_CHECK.to_owned()),
            cancel: CancellationToken::new(),
        }
    }

    fn next_action(&self) -> &'static str {
        match self.phase.as_str() {
            "before sync" => "retry with --full-resync, then take a fresh lease",
            "before command" => "retry, then replace the lease",
            _ => "inspect the lease's status, then replace the lease",
        }
    }
}

/// What one look at a box found.
#[derive(Debug)]
#[non_exhaustive]
pub struct Look {
    /// Each port and how far it came; empty when a proxy leads there.
    pub ports: Vec<(u16, PortStatus)>,
    /// The session on the first port that is ready.
    pub session: Option<Session>,
    /// The best that any port came to.
    pub best: PortStatus,
}

impl Look {
    /// The ports as messages write them, such as `2222:closed,22:auth`.
    pub fn ports(&self) -> String {
        if self.ports.is_empty() {
            return "proxy".to_owned();
        }
        let words: Vec<String> = self
            .ports
            .iter()
            .map(|(port, status)| format!("{port}:{}", status.as_str()))
            .collect();
        words.join(",")
    }
}

/// Looks at a box once: every port, then the check.
///
/// # Errors
/// `Identity` when the box shows a host key that is not trusted: waiting would not help.
pub async fn look(destination: &Destination, connect_timeout: Duration, check: Option<&str>) -> Result<Look> {
    let mut quick = destination.clone();
    quick.connect_timeout = connect_timeout;
    let ports = quick.candidates();
    let found = join_all(ports.iter().map(|port| look_at(destination, &quick, *port, check))).await;
    let mut look = Look {
        ports: Vec::new(),
        session: None,
        best: PortStatus::Closed,
    };
    for (port, found) in ports.into_iter().zip(found) {
        let (status, session) = found?;
        look.best = look.best.max(status);
        if destination.proxy.is_none() {
            look.ports.push((port, status));
        }
        if look.session.is_none() {
            look.session = session;
        }
    }
    Ok(look)
}

async fn look_at(
    destination: &Destination,
    quick: &Destination,
    port: u16,
    check: Option<&str>,
) -> Result<(PortStatus, Option<Session>)> {
    let connection = match Connection::open_port(quick, port).await {
        Ok(connection) => connection,
        Err(failure) => {
            return match failure.phase() {
                Phase::HostKey => Err(failure.into()),
                Phase::Name | Phase::Tcp | Phase::Proxy => Ok((PortStatus::Closed, None)),
                Phase::Handshake | Phase::Authentication | Phase::Channel => Ok((PortStatus::Tcp, None)),
            };
        }
    };
    let session = Session::with_connection(destination.clone(), connection);
    let remote = SshRemote::new(session.clone())?;
    let script = check.unwrap_or("exit 0");
    let request = ExecRequest::script::<&str>(script, []).with_timeout(Some(CHECK_LIMIT));
    // Whatever goes wrong here may go right a moment later.
    let ready = remote
        .exec(request, &mut Capture::new(1 << 20))
        .await
        .is_ok_and(|status| status.success());
    Ok(if ready {
        (PortStatus::Ready, Some(session))
    } else {
        (PortStatus::Auth, None)
    })
}

/// Waits until a box is ready and returns the session to it.
///
/// # Errors
/// `Readiness` when the budget runs out, with the last state of every port and what to do; `Identity` at once when the
/// box shows a host key that is not trusted; a cancelled error.
pub async fn wait(destination: &Destination, wait: &Wait, clock: &dyn Clock, notices: &dyn Notices) -> Result<Session> {
    let start = clock.monotonic();
    let mut pause = Duration::from_secs(1).min(wait.cadence);
    loop {
        let seen = tokio::select! {
            biased;
            () = wait.cancel.cancelled() => return Err(cancelled(destination, wait)),
            seen = look(destination, wait.connect_timeout, wait.check.as_deref()) => seen?,
        };
        if let Some(session) = seen.session {
            let configured = destination.ports.first().copied();
            if let (Some(port), Some(configured)) = (session.port(), configured)
                && port != configured
            {
                let line = format!(
                    "using ssh port {port} for {} (configured {configured} not ready)",
                    destination.host
                );
                notices.notice(NoticeLevel::Info, &line);
            }
            return Ok(session);
        }
        let elapsed = clock.monotonic().saturating_sub(start);
        let Some(remaining) = wait.budget.checked_sub(elapsed).filter(|left| !left.is_zero()) else {
            return Err(timed_out(destination, wait, &seen));
        };
        let step = match seen.best {
            PortStatus::Closed => "",
            PortStatus::Tcp => " ssh-auth",
            PortStatus::Auth | PortStatus::Ready => " ready-check",
        };
        let line = format!(
            "waiting for {} {}{step}... elapsed={}s remaining={}s ports={}",
            destination.place(destination.ports.first().copied().unwrap_or(22)),
            wait.phase,
            elapsed.as_secs(),
            remaining.as_secs(),
            seen.ports()
        );
        notices.notice(NoticeLevel::Progress, &line);
        tokio::select! {
            () = wait.cancel.cancelled() => return Err(cancelled(destination, wait)),
            () = clock.sleep(pause.min(remaining)) => {}
        }
        pause = (pause * 2).min(wait.cadence);
    }
}

fn cancelled(destination: &Destination, wait: &Wait) -> Error {
    Error::cancelled(format!(
        "wait for SSH on {} cancelled during {}",
        destination.host, wait.phase
    ))
}

fn timed_out(destination: &Destination, wait: &Wait, seen: &Look) -> Error {
    Error::readiness(format!(
        "timed out waiting for SSH on {} during {} ports={}; next_action={}",
        destination.host,
        wait.phase,
        seen.ports(),
        wait.next_action()
    ))
    .with_hint(wait.next_action())
    .with_facts(|facts| facts.retryable = true)
}

/// Tells why the only look at a box failed, for status and lists.
///
/// # Errors
/// As [`Session::connect`].
pub async fn transport_probe(destination: &Destination, connect_timeout: Duration) -> Result<u16, ConnectFailure> {
    let mut quick = destination.clone();
    quick.connect_timeout = connect_timeout;
    let connection = Connection::open(&quick).await?;
    let port = connection.port();
    connection.close().await;
    Ok(port)
}
