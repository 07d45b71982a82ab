//! Ports and sockets of this machine that lead to ports and sockets of a box.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use crabbox_core::{Error, ErrorKind, IntoError as _, Result};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::connection::Connection;
use crate::dial::Io;
use crate::session::Session;

/// Bytes copied at once.
const CHUNK: usize = 64 << 10;

/// A write to a local program that takes longer holds up the connection.
const STALL_AFTER: std::time::Duration = std::time::Duration::from_millis(100);

/// Where a forward listens on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ForwardListener {
    /// A TCP address; port 0 for any that is free.
    Tcp(SocketAddr),
    /// A Unix socket, which must not exist. Only the user may connect.
    Unix(PathBuf),
}

/// Where a forward leads, seen from the box.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ForwardTarget {
    /// A host and port.
    Tcp(String, u16),
    /// A Unix socket.
    Unix(String),
}

/// A forward that works until it is dropped.
#[derive(Debug)]
pub struct LocalForward {
    address: Option<SocketAddr>,
    path: Option<PathBuf>,
    session: Session,
    stop: CancellationToken,
    _guard: DropGuard,
}

impl LocalForward {
    /// The TCP address that listens, with the port that was chosen.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Stops listening and ends every connection through it.
    pub async fn close(self) {
        self.stop.cancel();
        self.session.close().await;
    }
}

impl Drop for LocalForward {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // Nobody listens there any more.
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Session {
    /// Forwards a port or socket of this machine to one of the box.
    ///
    /// A forward has connections of its own, so that a local program that reads slowly holds up no command. Whether
    /// something listens on the box is only known when somebody connects.
    ///
    /// # Errors
    /// As [`Session::connect`]; `Other` when this machine does not let us listen.
    pub async fn forward(&self, listener: ForwardListener, target: ForwardTarget) -> Result<LocalForward> {
        let session = self.sibling();
        session.connection().await?;
        let (local, address, path) = Local::listen(listener).await?;
        let stop = CancellationToken::new();
        let served = serve(local, session.clone(), target, stop.clone());
        tokio::spawn(served);
        Ok(LocalForward {
            address,
            path,
            session,
            _guard: stop.clone().drop_guard(),
            stop,
        })
    }
}

/// What listens on this machine.
enum Local {
    Tcp(TcpListener),
    #[cfg(unix)]
    Unix(tokio::net::UnixListener),
}

impl Local {
    async fn listen(listener: ForwardListener) -> Result<(Self, Option<SocketAddr>, Option<PathBuf>)> {
        match listener {
            ForwardListener::Tcp(address) => {
                let failed = || format!("listen on {address}");
                let listener = TcpListener::bind(address)
                    .await
                    .or_error(ErrorKind::Other, failed)
                    .map_err(|error| error.with_hint("choose another local port, or 0 for any that is free"))?;
                let address = listener.local_addr().or_error(ErrorKind::Other, failed)?;
                Ok((Self::Tcp(listener), Some(address), None))
            }
            #[cfg(unix)]
            ForwardListener::Unix(path) => {
                use std::os::unix::fs::PermissionsExt as _;
                let failed = || format!("listen on `{}`", path.display());
                let listener = tokio::net::UnixListener::bind(&path)
                    .or_error(ErrorKind::Other, failed)
                    .map_err(|error| error.with_hint("choose a path that does not exist, in a directory of yours"))?;
                std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))
                    .or_error(ErrorKind::Other, failed)?;
                Ok((Self::Unix(listener), None, Some(path)))
            }
            #[cfg(not(unix))]
            ForwardListener::Unix(path) => Err(Error::usage(format!(
                "this machine has no Unix sockets to listen on: `{}`",
                path.display()
            ))
            .with_hint("listen on a TCP port of 127.0.0.1")),
        }
    }

    async fn accept(&self) -> std::io::Result<Box<dyn Io>> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                // Whoever forwards a protocol decides itself when to send.
                let _ = stream.set_nodelay(true);
                Ok(Box::new(stream))
            }
            #[cfg(unix)]
            Self::Unix(listener) => Ok(Box::new(listener.accept().await?.0)),
        }
    }
}

async fn serve(local: Local, session: Session, target: ForwardTarget, stop: CancellationToken) {
    let mut carried = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            Some(_) = carried.join_next() => {}
            accepted = local.accept() => match accepted {
                Ok(stream) => {
                    let (session, target) = (session.clone(), target.clone());
                    // A connection that fails is closed, which is all that its program can see.
                    carried.spawn(async move { carry(&session, &target, stream).await });
                }
                // Too many open files, say: others will be closed.
                Err(_) => tokio::time::sleep(STALL_AFTER).await,
            },
        }
    }
}

async fn carry(session: &Session, target: &ForwardTarget, local: Box<dyn Io>) -> Result<()> {
    let connection = session.connection().await?;
    let refused = |detail: String| Error::remote(format!("the box cannot reach the forward's target: {detail}"));
    let channel = match target {
        ForwardTarget::Tcp(host, port) => connection.direct_tcp(host, *port).await,
        ForwardTarget::Unix(path) => connection.direct_unix(path).await,
    }
    .map_err(refused)?;
    let (mut remote_read, mut remote_write) = tokio::io::split(channel.into_stream());
    let (mut local_read, mut local_write) = tokio::io::split(local);
    let up = async {
        let copied = tokio::io::copy(&mut local_read, &mut remote_write).await;
        let _ = remote_write.shutdown().await;
        copied.map(drop)
    };
    let down = down(&mut remote_read, &mut local_write, &connection);
    let (up, down) = tokio::join!(up, down);
    up.and(down).or_error(ErrorKind::Other, || "forward".to_owned())
}

/// Copies towards the local program and says when that is slow.
async fn down(
    remote: &mut (impl AsyncRead + Unpin),
    local: &mut (impl AsyncWrite + Unpin),
    connection: &Arc<Connection>,
) -> std::io::Result<()> {
    let mut chunk = vec![0_u8; CHUNK];
    loop {
        let length = remote.read(&mut chunk).await?;
        if length == 0 {
            return local.shutdown().await;
        }
        let mut write = std::pin::pin!(local.write_all(&chunk[..length]));
        if let Ok(written) = tokio::time::timeout(STALL_AFTER, &mut write).await {
            written?;
            continue;
        }
        let _stall = connection.stall();
        write.await?;
    }
}
