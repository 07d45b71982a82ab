//! A way to one box, shared by any number of commands.

use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crabbox_core::{Error, Result};
use russh::Channel;
use russh::client::Msg;
use tokio::sync::Notify;

use crate::connection::{Connection, OpenFailure, Slot};
use crate::destination::Destination;
use crate::failure::{ConnectFailure, Phase};

/// Longest wait for a free channel before another connection is made.
const PATIENCE: Duration = Duration::from_millis(250);

/// Time in which a box that just lost a session makes room for the next.
const SETTLE: Duration = Duration::from_millis(20);

/// What a channel is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A command: it may wait for its turn.
    Command,
    /// Ending another command: it may not wait, and gets a connection of its own if need be.
    Control,
}

/// An authenticated way to one box.
///
/// Commands share a connection. A box allows a certain number of sessions on one (ten, for OpenSSH); further commands
/// wait for their turn, and when that takes long, or when a slow reader of output holds the connection up, another
/// connection is made, up to [`Destination::max_connections`]. A connection that was lost is replaced when the next
/// command starts; a command that runs is never moved or repeated.
#[derive(Clone)]
pub struct Session(Arc<Inner>);

struct Inner {
    destination: Destination,
    /// The port that worked last; 0 before.
    port: AtomicU16,
    pool: Mutex<Vec<Arc<Connection>>>,
    dialing: tokio::sync::Mutex<()>,
    released: Notify,
}

/// A session channel and its place on the connection.
pub(crate) struct SessionChannel {
    pub(crate) channel: Channel<Msg>,
    pub(crate) lease: ChannelLease,
}

/// Gives the place back when it is dropped.
pub(crate) struct ChannelLease {
    slot: Option<Slot>,
    owner: Arc<Inner>,
}

impl ChannelLease {
    /// The connection.
    pub(crate) fn connection(&self) -> Option<&Arc<Connection>> {
        self.slot.as_ref().map(|slot| &slot.0)
    }
}

impl Drop for ChannelLease {
    fn drop(&mut self) {
        self.slot = None;
        self.owner.released.notify_one();
    }
}

impl Session {
    /// Connects and authenticates, trying the ports of the destination.
    ///
    /// # Errors
    /// With [`ConnectFailure`] as their source: `Readiness` when the box cannot be reached, `Identity` when its host key
    /// is not trusted, `Prerequisite` when it does not take our keys.
    pub async fn connect(destination: Destination) -> Result<Self> {
        let session = Self::lazy(destination);
        session.dial().await?;
        Ok(session)
    }

    /// A session that connects when it is first used.
    pub fn lazy(destination: Destination) -> Self {
        Self(Arc::new(Inner {
            destination,
            port: AtomicU16::new(0),
            pool: Mutex::new(Vec::new()),
            dialing: tokio::sync::Mutex::new(()),
            released: Notify::new(),
        }))
    }

    /// A session that has its first connection already.
    pub(crate) fn with_connection(destination: Destination, connection: Arc<Connection>) -> Self {
        let session = Self::lazy(destination);
        session.0.port.store(connection.port(), Ordering::Release);
        session
            .0
            .pool
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(connection);
        session
    }

    /// Another session to the same box that shares no connection with this one.
    pub fn sibling(&self) -> Self {
        Self::lazy(self.preferring_port())
    }

    /// Where it leads.
    pub fn destination(&self) -> &Destination {
        &self.0.destination
    }

    /// The port in use; `None` before the first connection.
    pub fn port(&self) -> Option<u16> {
        Some(self.0.port.load(Ordering::Acquire)).filter(|port| *port != 0)
    }

    /// Connections that are alive.
    pub fn connections(&self) -> usize {
        self.alive().len()
    }

    /// Ends every connection; commands that run are lost. Later use connects again.
    pub async fn close(&self) {
        let pool = std::mem::take(&mut *self.0.pool.lock().unwrap_or_else(PoisonError::into_inner));
        for connection in pool {
            connection.close().await;
        }
    }

    fn preferring_port(&self) -> Destination {
        let mut destination = self.0.destination.clone();
        if let Some(port) = self.port() {
            destination.ports.insert(0, port);
        }
        destination
    }

    fn alive(&self) -> Vec<Arc<Connection>> {
        let mut pool = self.0.pool.lock().unwrap_or_else(PoisonError::into_inner);
        pool.retain(|connection| connection.is_alive());
        pool.clone()
    }

    async fn dial(&self) -> Result<Arc<Connection>, ConnectFailure> {
        let connection = Connection::open(&self.preferring_port()).await?;
        self.0.port.store(connection.port(), Ordering::Release);
        self.0
            .pool
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Arc::clone(&connection));
        // Somebody may wait for a place.
        self.0.released.notify_waiters();
        Ok(connection)
    }

    /// Makes a connection unless one was made while this waited.
    async fn dial_beyond(&self, known: usize) -> Result<()> {
        let _guard = self.0.dialing.lock().await;
        if self.alive().len() <= known {
            self.dial().await?;
        }
        Ok(())
    }

    /// A live connection that nobody holds up, made if there is none.
    pub(crate) async fn connection(&self) -> Result<Arc<Connection>> {
        loop {
            let alive = self.alive();
            if let Some(connection) = alive.iter().find(|connection| !connection.is_stalled()) {
                return Ok(Arc::clone(connection));
            }
            if alive.len() < self.0.destination.max_connections.max(1) {
                match (self.dial_beyond(alive.len()).await, alive.first()) {
                    (Ok(()), _) => continue,
                    (Err(error), None) => return Err(error),
                    (Err(_), Some(_)) => {}
                }
            }
            if let Some(connection) = alive.first() {
                return Ok(Arc::clone(connection));
            }
        }
    }

    /// Opens a session channel, waiting for a place or making one.
    pub(crate) async fn open(&self, purpose: Purpose) -> Result<SessionChannel> {
        let mut waited = false;
        let mut lost = 0_u32;
        loop {
            // Registered before looking, so that a place given back in between is not missed.
            let released = self.0.released.notified();
            let alive = self.alive();
            let slot = alive
                .iter()
                .filter(|connection| !connection.is_stalled())
                .find_map(Connection::reserve);
            if let Some(slot) = slot {
                let connection = Arc::clone(&slot.0);
                let lease = ChannelLease {
                    slot: Some(slot),
                    owner: Arc::clone(&self.0),
                };
                match connection.session().await {
                    Ok(channel) => return Ok(SessionChannel { channel, lease }),
                    Err(OpenFailure::Full) => {
                        drop(lease);
                        tokio::time::sleep(SETTLE).await;
                        continue;
                    }
                    // Nothing has started, so another connection may try again, but not for ever.
                    Err(OpenFailure::Lost(_)) if lost < 2 => {
                        lost += 1;
                        self.discard(&connection);
                        continue;
                    }
                    Err(OpenFailure::Lost(detail) | OpenFailure::Refused(detail)) => {
                        let place = self.0.destination.place(connection.port());
                        return Err(ConnectFailure::new(Phase::Channel, place, detail).into());
                    }
                }
            }
            let stalled = alive.iter().any(|connection| connection.is_stalled());
            let most = match purpose {
                Purpose::Command => self.0.destination.max_connections.max(1),
                // A command must be endable even when commands take every place.
                Purpose::Control => self.0.destination.max_connections.max(1) + 1,
            };
            let hurry = alive.is_empty() || stalled || waited || purpose == Purpose::Control;
            if hurry && alive.len() < most {
                match self.dial_beyond(alive.len()).await {
                    Ok(()) => continue,
                    // A box that takes no further connection still gives back places on the ones it has.
                    Err(error) if alive.is_empty() || purpose == Purpose::Control => return Err(error),
                    Err(_) => {}
                }
            }
            waited |= tokio::time::timeout(PATIENCE, released).await.is_err();
        }
    }

    fn discard(&self, connection: &Arc<Connection>) {
        let mut pool = self.0.pool.lock().unwrap_or_else(PoisonError::into_inner);
        pool.retain(|other| !Arc::ptr_eq(other, connection));
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Session")
            .field("destination", &self.0.destination)
            .field("port", &self.port())
            .finish_non_exhaustive()
    }
}

/// The error of a command whose connection was lost while it ran.
pub(crate) fn lost_while_running(place: &str, detail: &str) -> Error {
    Error::remote(format!("connection to {place} lost while the command ran: {detail}"))
        .with_hint("the command may still run or have finished on the box; look before running it again")
        .with_facts(|facts| facts.outcome_unknown = true)
}
