//! One authenticated connection and its channels.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use russh::client::{self, DisconnectReason, Handle, Msg};
use russh::keys::PublicKeyOrCertificate;
use russh::{Channel, ChannelOpenFailure, Disconnect};

use crate::destination::Destination;
use crate::dial;
use crate::failure::{ConnectFailure, Phase};
use crate::host_key::HostKeyCheck;
use crate::identity;

/// Bytes that a box may send on a channel before we confirm. Enough for 10 Gbit/s at 50 ms.
const WINDOW: u32 = 64 << 20;

/// Largest packet: larger ones mean fewer system calls and checks per byte.
const PACKET: u32 = 65_535;

/// Packets of one channel that wait for a slow reader; with [`PACKET`], its memory. When they are full, the whole
/// connection waits.
const QUEUED_PACKETS: usize = 64;

/// Sessions that OpenSSH's server allows on one connection unless told otherwise.
const USUAL_SESSIONS: usize = 10;

/// Time after which the next port is tried beside one that does not answer.
const PORT_STAGGER: Duration = Duration::from_secs(1);

/// What the protocol library asks us.
pub(crate) struct Client {
    check: HostKeyCheck,
    refused: Arc<Mutex<Option<ConnectFailure>>>,
    lost: Arc<Mutex<Option<String>>>,
}

impl client::Handler for Client {
    type Error = russh::Error;

    async fn check_server_key(&mut self, shown: &PublicKeyOrCertificate) -> Result<bool, Self::Error> {
        match self.check.judge(shown) {
            Ok(()) => Ok(true),
            Err(failure) => {
                *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(failure);
                Ok(false)
            }
        }
    }

    async fn disconnected(&mut self, reason: DisconnectReason<Self::Error>) -> Result<(), Self::Error> {
        let words = match reason {
            DisconnectReason::ReceivedDisconnect(info) => format!("the box disconnected: {}", info.message),
            DisconnectReason::Error(russh::Error::KeepaliveTimeout) => "the box stopped answering".to_owned(),
            DisconnectReason::Error(russh::Error::Disconnect | russh::Error::HUP) => {
                "the connection was closed".to_owned()
            }
            DisconnectReason::Error(cause) => cause.to_string(),
        };
        self.lost
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(words);
        Ok(())
    }
}

/// Why a channel could not be opened.
#[derive(Debug)]
pub(crate) enum OpenFailure {
    /// The box takes no more sessions on this connection.
    Full,
    /// The connection is gone.
    Lost(String),
    /// The box refuses for good.
    Refused(String),
}

/// One authenticated connection.
pub(crate) struct Connection {
    handle: Handle<Client>,
    port: u16,
    /// Sessions open now.
    open: AtomicUsize,
    /// Sessions that the box allows, as far as we know.
    limit: AtomicUsize,
    /// Readers that have taken long and hold up everything.
    stalled: AtomicUsize,
    /// No channel has been opened on it yet: the first refusal is for good.
    proven: AtomicBool,
    lost: Arc<Mutex<Option<String>>>,
}

impl Connection {
    /// Connects to the first port that lets us in.
    ///
    /// # Errors
    /// The failure that came farthest.
    pub(crate) fn open(destination: &Destination) -> BoxFuture<'_, Result<Arc<Self>, ConnectFailure>> {
        // Boxed because a jump host is reached by the same function.
        Self::open_any(destination).boxed()
    }

    async fn open_any(destination: &Destination) -> Result<Arc<Self>, ConnectFailure> {
        let ports = destination.candidates();
        let attempts: Vec<BoxFuture<'_, _>> = ports
            .into_iter()
            .map(|port| Self::open_port(destination, port).boxed())
            .collect();
        match dial::race(PORT_STAGGER, attempts).await {
            Ok(connection) => Ok(connection),
            Err(failures) => {
                let reached: Vec<(u16, Phase)> = failures
                    .iter()
                    .filter_map(|failure| Some((failure.port()?, failure.phase())))
                    .collect();
                // A host that is not the right one matters more than a key that it refuses.
                let rank = |failure: &ConnectFailure| match failure.phase() {
                    Phase::HostKey => 10,
                    phase => phase as u8,
                };
                let worst = failures.into_iter().max_by_key(rank);
                Err(worst
                    .unwrap_or_else(|| ConnectFailure::new(Phase::Tcp, &destination.host, "there is no port to try"))
                    .with_others(reached))
            }
        }
    }

    /// Connects to one port.
    pub(crate) async fn open_port(destination: &Destination, port: u16) -> Result<Arc<Self>, ConnectFailure> {
        let place = destination.place(port);
        let limit = destination.connect_timeout;
        let check = HostKeyCheck::prepare(destination, port)?;
        let config = Arc::new(client::Config {
            client_id: russh::SshId::Standard("SSH-2.0-Crabbox".into()),
            window_size: WINDOW,
            maximum_packet_size: PACKET,
            channel_buffer_size: QUEUED_PACKETS,
            preferred: check.preferred(),
            keepalive_interval: Some(destination.keepalive),
            keepalive_max: destination.keepalive_max,
            nodelay: true,
            ..client::Config::default()
        });
        let stream = dial::open(destination, port, limit).await?;
        let words = stream.proxy_words();
        let refused = Arc::new(Mutex::new(None));
        let lost = Arc::new(Mutex::new(None));
        let client = Client {
            check,
            refused: Arc::clone(&refused),
            lost: Arc::clone(&lost),
        };
        let shaken = tokio::time::timeout(limit, client::connect_stream(config, stream.io, client)).await;
        let mut handle = match shaken {
            Ok(Ok(handle)) => handle,
            Ok(Err(cause)) => {
                if let Some(failure) = refused.lock().unwrap_or_else(PoisonError::into_inner).take() {
                    return Err(failure.with_port(port));
                }
                return Err(handshake(&place, port, &cause, words).await);
            }
            Err(_) => {
                let detail = format!("no answer within {} s", limit.as_secs_f32());
                return Err(ConnectFailure::new(Phase::Handshake, place, detail).with_port(port));
            }
        };
        tokio::time::timeout(limit, identity::authenticate(&mut handle, destination, port))
            .await
            .map_err(|_| {
                let detail = format!("no answer within {} s", limit.as_secs_f32());
                ConnectFailure::new(Phase::Authentication, &place, detail).with_port(port)
            })??;
        Ok(Arc::new(Self {
            handle,
            port,
            open: AtomicUsize::new(0),
            limit: AtomicUsize::new(USUAL_SESSIONS),
            stalled: AtomicUsize::new(0),
            proven: AtomicBool::new(false),
            lost,
        }))
    }

    /// Port of the box.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Whether it can still carry something.
    pub(crate) fn is_alive(&self) -> bool {
        !self.handle.is_closed()
    }

    /// Whether a slow reader holds it up.
    pub(crate) fn is_stalled(&self) -> bool {
        self.stalled.load(Ordering::Acquire) > 0
    }

    /// Why it was lost.
    pub(crate) fn lost(&self) -> String {
        let lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        lost.clone().unwrap_or_else(|| "the connection was closed".to_owned())
    }

    /// Takes a place for a session, if one is free.
    pub(crate) fn reserve(self: &Arc<Self>) -> Option<Slot> {
        let limit = self.limit.load(Ordering::Acquire);
        self.open
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |open| {
                (open < limit).then_some(open + 1)
            })
            .ok()?;
        Some(Slot(Arc::clone(self)))
    }

    /// Opens a session channel in a reserved place.
    pub(crate) async fn session(&self) -> Result<Channel<Msg>, OpenFailure> {
        match self.handle.channel_open_session().await {
            Ok(channel) => {
                self.proven.store(true, Ordering::Release);
                Ok(channel)
            }
            Err(russh::Error::ChannelOpenFailure(reason)) => {
                let others = self.open.load(Ordering::Acquire).saturating_sub(1);
                if others == 0 && !self.proven.load(Ordering::Acquire) {
                    return Err(OpenFailure::Refused(describe(&reason)));
                }
                // The box has told us its limit. One more than the others may be closing just now.
                self.limit.fetch_min(others.max(1), Ordering::AcqRel);
                Err(OpenFailure::Full)
            }
            Err(_) => Err(OpenFailure::Lost(self.lost())),
        }
    }

    /// Opens a channel to a TCP port that the box can reach. These are not counted by the box.
    pub(crate) async fn direct_tcp(&self, host: &str, port: u16) -> Result<Channel<Msg>, String> {
        match self
            .handle
            .channel_open_direct_tcpip(host, port.into(), "127.0.0.1", 0)
            .await
        {
            Ok(channel) => Ok(channel),
            Err(russh::Error::ChannelOpenFailure(reason)) => Err(describe(&reason)),
            Err(_) => Err(self.lost()),
        }
    }

    /// Opens a channel to a Unix socket of the box.
    pub(crate) async fn direct_unix(&self, path: &str) -> Result<Channel<Msg>, String> {
        match self.handle.channel_open_direct_streamlocal(path).await {
            Ok(channel) => Ok(channel),
            Err(russh::Error::ChannelOpenFailure(reason)) => Err(describe(&reason)),
            Err(_) => Err(self.lost()),
        }
    }

    /// Says goodbye.
    pub(crate) async fn close(&self) {
        let _ = self.handle.disconnect(Disconnect::ByApplication, "", "en").await;
    }

    /// Marks the connection as held up until the guard is dropped.
    pub(crate) fn stall(self: &Arc<Self>) -> Stall {
        self.stalled.fetch_add(1, Ordering::AcqRel);
        Stall(Arc::clone(self))
    }
}

/// A reserved session.
pub(crate) struct Slot(pub(crate) Arc<Connection>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A reader that holds up its connection.
pub(crate) struct Stall(Arc<Connection>);

impl Drop for Stall {
    fn drop(&mut self) {
        self.0.stalled.fetch_sub(1, Ordering::AcqRel);
    }
}

fn describe(reason: &ChannelOpenFailure) -> String {
    match reason {
        ChannelOpenFailure::AdministrativelyProhibited => "the box forbids it".to_owned(),
        ChannelOpenFailure::ConnectFailed => "the box cannot open it".to_owned(),
        ChannelOpenFailure::UnknownChannelType => "the box does not know such channels".to_owned(),
        ChannelOpenFailure::ResourceShortage => "the box has no room for it".to_owned(),
        ChannelOpenFailure::Other { code, reason } => format!("{reason} ({code})"),
    }
}

async fn handshake(place: &str, port: u16, cause: &russh::Error, words: Option<Arc<Mutex<Vec<u8>>>>) -> ConnectFailure {
    let Some(words) = words else {
        return ConnectFailure::new(Phase::Handshake, place, cause).with_port(port);
    };
    // The end of a proxy command may be seen before its last words.
    let mut said = String::new();
    for _ in 0..30 {
        let bytes = words.lock().unwrap_or_else(PoisonError::into_inner).clone();
        said = String::from_utf8_lossy(&bytes).trim().to_owned();
        if !said.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let detail = if said.is_empty() {
        cause.to_string()
    } else {
        format!("the proxy command says: {said}")
    };
    ConnectFailure::new(Phase::Proxy, place, detail).with_port(port)
}
