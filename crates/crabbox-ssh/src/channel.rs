//! What a transport gives to the code that runs commands: pipes, and how the process ended.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use crabbox_core::Result;
use crabbox_core::remote::ExecStatus;
use russh::client::Msg;
use russh::{ChannelMsg, ChannelReadHalf, ChannelWriteHalf, Sig};

use crate::connection::{Connection, Stall};
use crate::session::{ChannelLease, Purpose, Session, SessionChannel};

/// Signal numbers of Linux by the names that SSH uses. Those above 15 differ elsewhere, where only their name is known.
const SIGNALS: [(&str, i32); 17] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("FPE", 8),
    ("KILL", 9),
    ("SEGV", 11),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("BUS", 7),
    ("SYS", 31),
    ("USR1", 10),
];

/// What happens on a channel.
#[derive(Debug)]
pub(crate) enum Event {
    Stdout(Bytes),
    Stderr(Bytes),
    /// The box refuses to start the process.
    Refused,
    /// How the process ended; output may follow.
    Exit(ExecStatus),
    /// Nothing follows. An exit was reported before, or never will be.
    Closed,
    /// The connection is gone.
    Lost(String),
}

/// The receiving half of a channel.
#[async_trait]
pub(crate) trait Incoming: Send + Sync {
    /// The next event. Not called again after `Closed` or `Lost`. Cancelling it loses nothing.
    async fn next(&mut self) -> Event;

    /// Says that the reader is slow, until the guard is dropped.
    fn stall(&self) -> Option<Stall> {
        None
    }
}

/// The sending half of a channel.
#[async_trait]
pub(crate) trait Outgoing: Send {
    /// Sends input; `false` when nobody takes it any more.
    async fn write(&mut self, chunk: Bytes) -> bool;

    /// Ends the input.
    async fn finish(&mut self);
}

/// A started process.
pub(crate) struct Process {
    pub(crate) incoming: Box<dyn Incoming>,
    pub(crate) outgoing: Box<dyn Outgoing>,
}

/// A way to start processes on a box.
#[async_trait]
pub(crate) trait Transport: Send + Sync {
    /// Starts the box's shell on one line. Called once per command.
    async fn start(&self, line: &str, purpose: Purpose) -> Result<Process>;

    /// Whether the exit status that it reports is surely that of the process. If not, the process must report its own.
    fn reports_status(&self) -> bool;

    /// What messages call the box.
    fn place(&self) -> String;
}

#[async_trait]
impl Transport for Session {
    async fn start(&self, line: &str, purpose: Purpose) -> Result<Process> {
        let SessionChannel { channel, lease } = self.open(purpose).await?;
        let (read, write) = channel.split();
        let connection = lease.connection().map(Arc::clone);
        // No waiting for the answer: input follows at once, which saves a round trip.
        if write.exec(true, line).await.is_err() {
            let detail = connection
                .as_ref()
                .map_or_else(String::new, |connection| connection.lost());
            return Err(crate::session::lost_while_running(&self.place(), &detail));
        }
        let write = Arc::new(write);
        Ok(Process {
            outgoing: Box::new(Writer {
                write: Some(Arc::clone(&write)),
            }),
            incoming: Box::new(Reader {
                read: Some(read),
                write,
                connection,
                lease: Some(lease),
                closed: false,
            }),
        })
    }

    fn reports_status(&self) -> bool {
        true
    }

    fn place(&self) -> String {
        let destination = self.destination();
        destination.place(self.port().or(destination.ports.first().copied()).unwrap_or(22))
    }
}

struct Reader {
    read: Option<ChannelReadHalf>,
    write: Arc<ChannelWriteHalf<Msg>>,
    connection: Option<Arc<Connection>>,
    lease: Option<ChannelLease>,
    closed: bool,
}

#[async_trait]
impl Incoming for Reader {
    async fn next(&mut self) -> Event {
        let Some(read) = &mut self.read else {
            return Event::Closed;
        };
        loop {
            match read.wait().await {
                Some(ChannelMsg::Data { data }) => return Event::Stdout(data),
                Some(ChannelMsg::ExtendedData { data, ext: 1 }) => return Event::Stderr(data),
                Some(ChannelMsg::Failure) => return Event::Refused,
                Some(ChannelMsg::ExitStatus { exit_status }) => {
                    return Event::Exit(ExecStatus::exited(i32::try_from(exit_status).unwrap_or(255)));
                }
                Some(ChannelMsg::ExitSignal { signal_name, .. }) => return Event::Exit(signalled(&signal_name)),
                Some(ChannelMsg::Close) => {
                    self.closed = true;
                    return Event::Closed;
                }
                Some(_) => {}
                None => {
                    self.closed = true;
                    let lost = self.connection.as_ref().map(|connection| connection.lost());
                    return Event::Lost(lost.unwrap_or_else(|| "the connection was closed".to_owned()));
                }
            }
        }
    }

    fn stall(&self) -> Option<Stall> {
        self.connection.as_ref().map(|connection| connection.stall())
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // Dropping the receiver first lets a connection go on that waits for this reader.
        self.read = None;
        if self.closed {
            return;
        }
        let (write, lease) = (Arc::clone(&self.write), self.lease.take());
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let _ = write.close().await;
                drop(lease);
            });
        }
    }
}

struct Writer {
    write: Option<Arc<ChannelWriteHalf<Msg>>>,
}

#[async_trait]
impl Outgoing for Writer {
    async fn write(&mut self, chunk: Bytes) -> bool {
        match &self.write {
            Some(write) => write.data_bytes(chunk).await.is_ok(),
            None => false,
        }
    }

    async fn finish(&mut self) {
        if let Some(write) = &self.write {
            // The process may be gone.
            let _ = write.eof().await;
        }
    }
}

/// The status of a process that a signal ended.
pub(crate) fn signalled(signal: &Sig) -> ExecStatus {
    let name = match signal {
        Sig::ABRT => "ABRT",
        Sig::ALRM => "ALRM",
        Sig::FPE => "FPE",
        Sig::HUP => "HUP",
        Sig::ILL => "ILL",
        Sig::INT => "INT",
        Sig::KILL => "KILL",
        Sig::PIPE => "PIPE",
        Sig::QUIT => "QUIT",
        Sig::SEGV => "SEGV",
        Sig::TERM => "TERM",
        Sig::USR1 => "USR1",
        Sig::Custom(name) => name.split('@').next().unwrap_or_default(),
    };
    match SIGNALS.iter().find(|(known, _)| *known == name) {
        Some((_, number)) => ExecStatus::signalled(*number),
        // A signal that we cannot number: surely not success.
        None => ExecStatus::exited(255),
    }
}
