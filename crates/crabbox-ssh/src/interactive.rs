//! A terminal on a box.

use bytes::Bytes;
use crabbox_core::remote::ExecStatus;
use crabbox_core::{Error, Result};
use russh::client::Msg;
use russh::{ChannelMsg, ChannelReadHalf, ChannelWriteHalf};

use crate::channel::signalled;
use crate::session::{ChannelLease, Purpose, Session, SessionChannel, lost_while_running};

/// Size of a terminal in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TerminalSize {
    /// Width.
    pub columns: u16,
    /// Height.
    pub rows: u16,
}

impl Default for TerminalSize {
    fn default() -> Self {
        Self { columns: 80, rows: 24 }
    }
}

/// What comes from a terminal on a box.
#[derive(Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PtyEvent {
    /// Bytes for the screen.
    Output(Bytes),
    /// The program has ended; nothing follows.
    Ended(ExecStatus),
}

/// A program in a terminal on a box.
pub struct Pty {
    read: ChannelReadHalf,
    write: PtyInput,
    place: String,
    status: Option<ExecStatus>,
    _lease: ChannelLease,
}

/// The keyboard and the size of a terminal on a box.
#[derive(Clone)]
pub(crate) struct PtyInput(std::sync::Arc<ChannelWriteHalf<Msg>>);

impl PtyInput {
    async fn write(&self, bytes: Bytes) -> Result<()> {
        self.0.data_bytes(bytes).await.map_err(|_| gone())
    }

    async fn resize(&self, size: TerminalSize) -> Result<()> {
        self.0
            .window_change(size.columns.into(), size.rows.into(), 0, 0)
            .await
            .map_err(|_| gone())
    }
}

fn gone() -> Error {
    Error::remote("the terminal on the box has ended")
}

impl Session {
    /// Starts a program, or the login shell when there is none, in a terminal on the box.
    ///
    /// `term` is the kind of the local terminal, such as `xterm-256color`.
    ///
    /// # Errors
    /// As [`Session::connect`]; `Remote` when the box refuses a terminal.
    pub async fn pty(&self, command: Option<&str>, term: &str, size: TerminalSize) -> Result<Pty> {
        let SessionChannel { channel, lease } = self.open(Purpose::Command).await?;
        let destination = self.destination();
        let place = destination.place(self.port().unwrap_or(22));
        let (mut read, write) = channel.split();
        let lost = |_: russh::Error| lost_while_running(&place, "closed");
        let (columns, rows) = (u32::from(size.columns), u32::from(size.rows));
        write
            .request_pty(true, term, columns, rows, 0, 0, &[])
            .await
            .map_err(lost)?;
        granted(&mut read, "a terminal").await?;
        match command {
            Some(command) => write.exec(true, command).await.map_err(lost)?,
            None => write.request_shell(true).await.map_err(lost)?,
        }
        granted(&mut read, "a shell").await?;
        Ok(Pty {
            read,
            write: PtyInput(std::sync::Arc::new(write)),
            place,
            status: None,
            _lease: lease,
        })
    }
}

async fn granted(read: &mut ChannelReadHalf, what: &str) -> Result<()> {
    loop {
        match read.wait().await {
            Some(ChannelMsg::Success) => return Ok(()),
            Some(ChannelMsg::Failure | ChannelMsg::Close) | None => {
                return Err(Error::remote(format!("the box refuses {what}"))
                    .with_hint("look at PermitTTY and ForceCommand in its sshd_config"));
            }
            Some(_) => {}
        }
    }
}

impl Pty {
    /// Types bytes.
    ///
    /// # Errors
    /// `Remote` when the program has ended or the connection is lost.
    pub async fn write(&self, bytes: impl Into<Bytes>) -> Result<()> {
        self.write.write(bytes.into()).await
    }

    /// Tells the program a new size.
    ///
    /// # Errors
    /// `Remote` when the program has ended or the connection is lost.
    pub async fn resize(&self, size: TerminalSize) -> Result<()> {
        self.write.resize(size).await
    }

    /// The next bytes or the end. Cancelling it loses nothing.
    ///
    /// # Errors
    /// `Remote`, with `outcome_unknown`, when the connection is lost.
    pub async fn next(&mut self) -> Result<PtyEvent> {
        loop {
            match self.read.wait().await {
                Some(ChannelMsg::Data { data } | ChannelMsg::ExtendedData { data, .. }) => {
                    return Ok(PtyEvent::Output(data));
                }
                Some(ChannelMsg::ExitStatus { exit_status }) => {
                    self.status = Some(ExecStatus::exited(i32::try_from(exit_status).unwrap_or(255)));
                }
                Some(ChannelMsg::ExitSignal { signal_name, .. }) => self.status = Some(signalled(&signal_name)),
                Some(ChannelMsg::Close) | None => {
                    return match self.status {
                        Some(status) => Ok(PtyEvent::Ended(status)),
                        None => Err(lost_while_running(&self.place, "the terminal closed without a status")),
                    };
                }
                Some(_) => {}
            }
        }
    }
}

impl std::fmt::Debug for Pty {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Pty")
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}

/// What typed bytes mean: `~.` after a newline hangs up, `~~` is one tilde, as in OpenSSH's client.
#[derive(Debug)]
pub(crate) struct Escape {
    at_line_start: bool,
    tilde: bool,
}

impl Escape {
    pub(crate) fn new() -> Self {
        Self {
            at_line_start: true,
            tilde: false,
        }
    }

    /// Returns the bytes to send, and whether to hang up.
    pub(crate) fn push(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let mut send = Vec::with_capacity(typed.len());
        for byte in typed {
            if std::mem::take(&mut self.tilde) {
                match byte {
                    b'.' => return (send, true),
                    b'~' => {
                        send.push(b'~');
                        self.at_line_start = false;
                        continue;
                    }
                    _ => send.push(b'~'),
                }
            } else if *byte == b'~' && self.at_line_start {
                self.tilde = true;
                continue;
            }
            send.push(*byte);
            self.at_line_start = matches!(byte, b'\r' | b'\n');
        }
        (send, false)
    }
}

#[cfg(unix)]
pub use unix::attach;

#[cfg(unix)]
mod unix {
    use std::os::fd::{AsFd as _, BorrowedFd};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use bytes::Bytes;
    use crabbox_core::remote::ExecStatus;
    use crabbox_core::{Error, ErrorKind, IntoError as _, Result};
    use rustix::event::{PollFd, PollFlags, Timespec};
    use rustix::termios::{OptionalActions, Termios};
    use tokio::io::AsyncWriteExt as _;
    use tokio::signal::unix::{SignalKind, signal};
    use tokio::sync::mpsc;

    use super::{Escape, PtyEvent, Session, TerminalSize};

    /// How often the thread that waits for the keyboard looks whether it is still needed.
    const LOOK: Duration = Duration::from_millis(100);

    /// The local terminal in raw mode; as it was before when dropped.
    struct Raw(Termios);

    impl Raw {
        fn enter(terminal: BorrowedFd<'_>) -> std::io::Result<Self> {
            let before = rustix::termios::tcgetattr(terminal)?;
            let mut raw = before.clone();
            raw.make_raw();
            rustix::termios::tcsetattr(terminal, OptionalActions::Drain, &raw)?;
            Ok(Self(before))
        }
    }

    impl Drop for Raw {
        fn drop(&mut self) {
            // The terminal may be gone.
            let _ = rustix::termios::tcsetattr(std::io::stdin().as_fd(), OptionalActions::Drain, &self.0);
        }
    }

    fn size() -> TerminalSize {
        rustix::termios::tcgetwinsize(std::io::stdin().as_fd())
            .map(|size| TerminalSize {
                columns: size.ws_col,
                rows: size.ws_row,
            })
            .ok()
            .filter(|size| size.columns > 0 && size.rows > 0)
            .unwrap_or_default()
    }

    /// Connects the terminal of this process to one on the box until the program there ends.
    ///
    /// The local terminal is in raw mode meanwhile, so that every key reaches the program; `~.` after a newline hangs up.
    ///
    /// # Errors
    /// `Usage` when standard input is not a terminal; otherwise as [`Session::pty`] and [`Pty::next`](super::Pty::next);
    /// a cancelled error after `~.`.
    pub async fn attach(session: &Session, command: Option<&str>, term: &str) -> Result<ExecStatus> {
        let mut pty = session.pty(command, term, size()).await?;
        let _raw = Raw::enter(std::io::stdin().as_fd())
            .or_error(ErrorKind::Usage, || "standard input is not a terminal".to_owned())?;
        let mut resized =
            signal(SignalKind::window_change()).or_error(ErrorKind::Other, || "watch the terminal".to_owned())?;
        let stop = Arc::new(AtomicBool::new(false));
        let _stop = StopOnDrop(Arc::clone(&stop));
        let (keys, mut typed) = mpsc::channel(16);
        tokio::task::spawn_blocking(move || read_keyboard(&stop, &keys));
        let mut screen = tokio::io::stdout();
        let mut escape = Escape::new();
        loop {
            tokio::select! {
                event = pty.next() => match event? {
                    PtyEvent::Output(data) => {
                        screen.write_all(&data).await.or_error(ErrorKind::Other, || "write to the terminal".to_owned())?;
                        screen.flush().await.or_error(ErrorKind::Other, || "write to the terminal".to_owned())?;
                    }
                    PtyEvent::Ended(status) => return Ok(status),
                },
                Some(bytes) = typed.recv() => {
                    let bytes: Bytes = bytes;
                    let (send, hang_up) = escape.push(&bytes);
                    if hang_up {
                        return Err(Error::cancelled("terminal closed by the user"));
                    }
                    pty.write(send).await?;
                }
                Some(()) = resized.recv() => pty.resize(size()).await?,
            }
        }
    }

    struct StopOnDrop(Arc<AtomicBool>);

    impl Drop for StopOnDrop {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Release);
        }
    }

    /// Reads keys without ever blocking for long, so that the process can end while nobody types.
    fn read_keyboard(stop: &AtomicBool, keys: &mpsc::Sender<Bytes>) {
        let stdin = std::io::stdin();
        let wait = Timespec::try_from(LOOK).ok();
        let mut buffer = [0_u8; 4096];
        while !stop.load(Ordering::Acquire) {
            let mut polled = [PollFd::new(&stdin, PollFlags::IN)];
            match rustix::event::poll(&mut polled, wait.as_ref()) {
                Ok(0) | Err(rustix::io::Errno::INTR) => continue,
                Ok(_) => {}
                Err(_) => return,
            }
            match rustix::io::read(&stdin, &mut buffer) {
                Ok(length @ 1..) => {
                    if keys.blocking_send(Bytes::copy_from_slice(&buffer[..length])).is_err() {
                        return;
                    }
                }
                Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
                Ok(_) | Err(_) => return,
            }
        }
    }
}

/// Connects the terminal of this process to one on the box; not possible on this system.
///
/// # Errors
/// Always `Usage`: this needs a Unix terminal.
#[cfg(not(unix))]
pub async fn attach(_session: &Session, _command: Option<&str>, _term: &str) -> Result<ExecStatus> {
    Err(
        Error::usage("an interactive terminal needs a Unix terminal on this machine")
            .with_hint("set `ssh.transport: openssh` to use the system's client"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tilde_means_something_only_after_a_newline() {
        let mut escape = Escape::new();
        assert_eq!(escape.push(b"a~.b"), (b"a~.b".to_vec(), false));
        assert_eq!(escape.push(b"\r~"), (b"\r".to_vec(), false));
        assert_eq!(escape.push(b"~x"), (b"~x".to_vec(), false));
        assert_eq!(escape.push(b"\r~x"), (b"\r~x".to_vec(), false));
        assert_eq!(escape.push(b"\r~."), (b"\r".to_vec(), true));
        assert_eq!(Escape::new().push(b"~."), (vec![], true));
    }
}
