//! A byte stream to the SSH server: TCP, a proxy command, or a channel through a jump host.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdin, ChildStdout};

use crate::client_command;
use crate::connection::Connection;
use crate::destination::{Destination, Proxy};
use crate::failure::{ConnectFailure, Phase};

/// Time after which the next address or port is tried beside the ones that do not answer.
const ADDRESS_STAGGER: Duration = Duration::from_millis(250);

/// Bytes of a proxy's standard error that are kept for the message.
const PROXY_WORDS: usize = 2048;

/// Time in which a proxy command ends once its pipes are closed.
const PROXY_GRACE: Duration = Duration::from_millis(500);

/// A stream to a server and whatever must live as long as it.
pub(crate) struct Stream {
    pub(crate) io: Box<dyn Io>,
    /// What the proxy said, for the message of a handshake that failed.
    pub(crate) words: Option<Arc<Mutex<Vec<u8>>>>,
}

/// Anything that can carry the protocol.
pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

impl Stream {
    /// The last words of the proxy, on one line.
    pub(crate) fn proxy_words(&self) -> Option<Arc<Mutex<Vec<u8>>>> {
        self.words.clone()
    }
}

/// Opens a stream to one port.
///
/// # Errors
/// A name, TCP or proxy failure.
pub(crate) async fn open(destination: &Destination, port: u16, limit: Duration) -> Result<Stream, ConnectFailure> {
    match &destination.proxy {
        None => {
            let io = tcp(&destination.host, port, limit)
                .await
                .map_err(|failure| failure.with_port(port))?;
            Ok(Stream {
                io: Box::new(io),
                words: None,
            })
        }
        Some(Proxy::Command(template)) => proxy_command(destination, port, template),
        Some(Proxy::Jump(jump)) => through(destination, port, jump).await,
    }
}

async fn through(destination: &Destination, port: u16, jump: &Destination) -> Result<Stream, ConnectFailure> {
    let place = destination.place(port);
    let failed = |detail: String| ConnectFailure::new(Phase::Proxy, &place, detail).with_port(port);
    let connection = Connection::open(jump)
        .await
        .map_err(|failure| failed(format!("jump host {}: {failure}", jump.host)))?;
    let channel = connection
        .direct_tcp(&destination.host, port)
        .await
        .map_err(|cause| failed(format!("jump host {} cannot reach it: {cause}", jump.host)))?;
    let io = Jumped {
        io: channel.into_stream(),
        _connection: connection,
    };
    Ok(Stream {
        io: Box::new(io),
        words: None,
    })
}

/// A channel through a jump host, which must stay connected.
struct Jumped<S> {
    io: S,
    _connection: Arc<Connection>,
}

async fn tcp(host: &str, port: u16, limit: Duration) -> Result<TcpStream, ConnectFailure> {
    let place = crate::known_hosts::place(host, port);
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    let found = tokio::time::timeout(limit, tokio::net::lookup_host((bare, port))).await;
    let addresses: Vec<SocketAddr> = match found {
        Ok(Ok(found)) => found.collect(),
        Ok(Err(cause)) => return Err(ConnectFailure::new(Phase::Name, host, cause)),
        Err(_) => return Err(ConnectFailure::new(Phase::Name, host, "timed out")),
    };
    if addresses.is_empty() {
        return Err(ConnectFailure::new(Phase::Name, host, "the name has no address"));
    }
    let attempts = addresses.into_iter().map(TcpStream::connect);
    let stream = match tokio::time::timeout(limit, race(ADDRESS_STAGGER, attempts)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(mut causes)) => {
            let cause = causes
                .pop()
                .map_or_else(|| "no attempt".to_owned(), |cause| cause.to_string());
            return Err(ConnectFailure::new(Phase::Tcp, place, cause));
        }
        Err(_) => {
            return Err(ConnectFailure::new(
                Phase::Tcp,
                place,
                format!("no answer within {} s", limit.as_secs_f32()),
            ));
        }
    };
    // Requests are small and their answers are waited for: never wait for more to send.
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

/// Runs attempts in order, each started when the one before failed or has taken `stagger`, and returns the first
/// success, or every error in the order they came.
pub(crate) async fn race<T, E, F: Future<Output = Result<T, E>>>(
    stagger: Duration,
    attempts: impl IntoIterator<Item = F>,
) -> Result<T, Vec<E>> {
    let mut waiting = attempts.into_iter();
    let mut running = FuturesUnordered::new();
    let mut errors = Vec::new();
    loop {
        if running.is_empty() {
            match waiting.next() {
                Some(attempt) => running.push(attempt),
                None => return Err(errors),
            }
        }
        tokio::select! {
            Some(done) = running.next() => match done {
                Ok(value) => return Ok(value),
                Err(error) => {
                    errors.push(error);
                    running.extend(waiting.next());
                }
            },
            () = tokio::time::sleep(stagger) => running.extend(waiting.next()),
        }
    }
}

/// Replaces what OpenSSH replaces in a proxy command.
pub(crate) fn expand(template: &str, destination: &Destination, port: u16) -> Result<String, String> {
    let mut line = String::with_capacity(template.len());
    let mut characters = template.chars();
    while let Some(character) = characters.next() {
        if character != '%' {
            line.push(character);
            continue;
        }
        let value = match characters.next() {
            Some('%') => "%".to_owned(),
            Some('h' | 'n') => destination.host.clone(),
            Some('p') => port.to_string(),
            Some('r') => destination.user.clone(),
            Some(other) => return Err(format!("unknown token in the proxy command: %{other}")),
            None => return Err("the proxy command ends with %".to_owned()),
        };
        // The line is run by a shell: a host or user that came from elsewhere must not add words to it.
        let plain = value
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "._-:@+=,/\\%[]".contains(c));
        if !plain || value.starts_with('-') {
            return Err("host or user cannot stand in a proxy command".to_owned());
        }
        line.push_str(&value);
    }
    Ok(line)
}

fn proxy_command(destination: &Destination, port: u16, template: &str) -> Result<Stream, ConnectFailure> {
    let failed = |detail: String| ConnectFailure::new(Phase::Proxy, destination.place(port), detail).with_port(port);
    let line = expand(template, destination, port).map_err(failed)?;
    let mut child = client_command::shell(&line, &destination.child_environment)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|cause| failed(format!("cannot start the shell: {cause}")))?;
    let (Some(input), Some(output), Some(mut errors)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return Err(failed("the proxy command has no pipes".to_owned()));
    };
    let words = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&words);
    tokio::spawn(async move {
        let mut chunk = [0_u8; 1024];
        while let Ok(length @ 1..) = errors.read(&mut chunk).await {
            let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            let room = PROXY_WORDS.saturating_sub(kept.len()).min(length);
            kept.extend_from_slice(&chunk[..room]);
        }
    });
    let io = Piped {
        input,
        output,
        child: Some(child),
    };
    Ok(Stream {
        io: Box::new(io),
        words: Some(words),
    })
}

/// The pipes of a proxy command.
struct Piped {
    input: ChildStdin,
    output: ChildStdout,
    child: Option<Child>,
}

impl Drop for Piped {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else {
            return;
        };
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return client_command::kill_group(child.id());
        };
        // It has lost its pipes and should end by itself; one that fails may still be saying why.
        runtime.spawn(async move {
            if tokio::time::timeout(PROXY_GRACE, child.wait()).await.is_err() {
                client_command::kill_group(child.id());
            }
        });
    }
}

impl AsyncRead for Piped {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.output).poll_read(context, buffer)
    }
}

impl AsyncWrite for Piped {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.input).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.input).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.input).poll_shutdown(context)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Jumped<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Jumped<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_replaced_and_shell_words_refused() {
        let destination = Destination::new("box.test", "me");
        assert_eq!(
            expand("nc %h %p # %r %%", &destination, 22).unwrap(),
            "nc box.test 22 # me %"
        );
        for (host, template) in [
            ("a; rm -rf /", "nc %h"),
            ("-oProxy", "nc %h"),
            ("a", "nc %z"),
            ("a", "nc %"),
        ] {
            assert!(
                expand(template, &Destination::new(host, "me"), 22).is_err(),
                "{host} {template}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_attempt_does_not_hold_up_the_next() {
        let attempt = |delay: u64, result: Result<u8, u8>| async move {
            tokio::time::sleep(Duration::from_millis(delay)).await;
            result
        };
        let stagger = Duration::from_millis(100);
        let start = tokio::time::Instant::now();
        assert_eq!(race(stagger, [attempt(60_000, Ok(1)), attempt(10, Ok(2))]).await, Ok(2));
        assert_eq!(start.elapsed(), Duration::from_millis(110));
        assert_eq!(race(stagger, [attempt(50, Ok(1)), attempt(10, Ok(2))]).await, Ok(1));
        assert_eq!(
            race(stagger, [attempt(1, Err(1)), attempt(1, Err(2))]).await,
            Err(vec![1, 2])
        );
        assert_eq!(race::<u8, u8, std::future::Ready<_>>(stagger, []).await, Err(vec![]));
    }
}
