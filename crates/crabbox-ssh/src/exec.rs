//! Running one command over any transport.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use crabbox_core::remote::{ExecRequest, ExecStatus, OutputSink, OutputStream, Stdin};
use crabbox_core::{Error, ErrorKind, IntoError as _, Result};
use tokio::io::AsyncReadExt as _;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::bootstrap::{self, Plan};
use crate::channel::{Event, Incoming, Outgoing, Process, Transport};
use crate::marker::{MarkerFilter, Piece};
use crate::session::{Purpose, lost_while_running};
use crate::terminate::terminate;

/// Input is read and sent in pieces of this size.
const CHUNK: usize = 64 << 10;

/// A write to the sink that takes longer holds up the connection and is said to.
const STALL_AFTER: Duration = Duration::from_millis(100);

/// Longest wait for the box to say that a command started, before giving up on a cancelled one.
const START_WAIT: Duration = Duration::from_secs(10);

/// Time in which a script that was sent has been read.
const SETTLE: Duration = Duration::from_secs(1);

/// Longest wait for the last output of a command that was ended.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Standard output that is kept back until the box has said that the command started: the two streams may overtake
/// each other, and a sink that takes nothing must not keep us from learning whom to end.
const EARLY: usize = 1 << 20;

/// Standard error before the start that is kept back for the message of a start that fails.
const PREAMBLE: usize = 16 << 10;

/// Why a command is ended early.
enum Stop {
    Cancelled,
    TimedOut(Duration),
}

impl Stop {
    fn error(&self) -> Error {
        match self {
            Self::Cancelled => Error::cancelled("command cancelled"),
            Self::TimedOut(limit) => Error::cancelled(format!("command took longer than {} s", limit.as_secs_f32())),
        }
    }
}

/// What the box has said about a command.
enum End {
    Exited(ExecStatus),
    /// The connection went; the status, if it came before.
    Lost(String, Option<ExecStatus>),
    /// The box refused to start anything.
    Refused,
    NoDirectory,
    /// The login shell ended without running the command.
    NeverStarted(Option<ExecStatus>, String),
}

/// Runs one command once.
pub(crate) async fn run(
    transport: &Arc<dyn Transport>,
    request: ExecRequest,
    output: &mut dyn OutputSink,
    grace: Duration,
    purpose: Purpose,
) -> Result<ExecStatus> {
    let plan = Plan::new(&request, !transport.reports_status())?;
    let ExecRequest {
        workdir,
        stdin,
        timeout,
        cancel,
        ..
    } = request;
    let mut stop = pin!(stopped(timeout, cancel));
    let start = {
        let transport = Arc::clone(transport);
        // On a task of its own, so that a channel that is just being opened is closed properly when we are dropped.
        tokio::spawn(async move { transport.start(bootstrap::LINE, purpose).await })
    };
    let Process { mut incoming, outgoing } = tokio::select! {
        biased;
        why = &mut stop => return Err(why.error()),
        started = start => started.or_error(ErrorKind::Other, || "start a command on the box".to_owned())??,
    };
    let (started, mut pid) = watch::channel(None);
    let mut abandoned = Abandoned {
        transport: Arc::clone(transport),
        pid: pid.clone(),
        id: plan.id.clone(),
        grace,
        armed: purpose == Purpose::Command,
    };
    let failure = {
        let mut reader = pin!(read(
            &mut *incoming,
            output,
            &plan.mark,
            &started,
            transport.reports_status()
        ));
        let mut writer = pin!(write(outgoing, plan.preface, stdin));
        let mut writing = true;
        let failure = loop {
            tokio::select! {
                biased;
                why = &mut stop => break Failure::Other(why.error()),
                end = &mut reader => {
                    match end {
                        Ok(end) => {
                            abandoned.armed = false;
                            return ended(end, &transport.place(), workdir.as_ref().map(ToString::to_string));
                        }
                        Err(error) => break Failure::Sink(error),
                    }
                }
                written = &mut writer, if writing => {
                    writing = false;
                    if let Err(error) = written {
                        break Failure::Other(error);
                    }
                }
            }
        };
        match failure {
            Failure::Other(error) if purpose == Purpose::Command => {
                let ending = end_early(transport, &mut pid, &plan.id, grace);
                Failure::Done(finish(ending, reader, (writer, writing), error).await)
            }
            failure => failure,
        }
    };
    let error = match failure {
        Failure::Sink(error) if purpose == Purpose::Command => {
            // Nobody takes the output any more, but it must not hold up the connection through which we end the command.
            let ending = end_early(transport, &mut pid, &plan.id, grace);
            let rest = pin!(discard(&mut *incoming));
            finish(ending, rest, (pin!(std::future::pending::<()>()), false), error).await
        }
        Failure::Sink(error) | Failure::Other(error) | Failure::Done(error) => error,
    };
    abandoned.armed = false;
    Err(error)
}

/// Why a command must be ended, and how far that is.
enum Failure {
    /// The sink takes no more.
    Sink(Error),
    /// Anything else: output and input may go on for a while.
    Other(Error),
    /// The command has been ended.
    Done(Error),
}

async fn discard(incoming: &mut dyn Incoming) {
    while !matches!(incoming.next().await, Event::Closed | Event::Lost(_) | Event::Refused) {}
}

/// Ends the command while its output and input go on, so that a program that ends in good order can say so.
async fn finish<R, W>(
    ending: impl Future<Output = Result<()>>,
    mut reader: Pin<&mut impl Future<Output = R>>,
    (mut writer, mut writing): (Pin<&mut impl Future<Output = W>>, bool),
    failure: Error,
) -> Error {
    let mut reading = true;
    let mut ending = pin!(ending);
    let done = loop {
        tokio::select! {
            biased;
            done = &mut ending => break done,
            _ = &mut reader, if reading => reading = false,
            _ = &mut writer, if writing => writing = false,
        }
    };
    if reading && done.is_ok() {
        // A sink that does not take the last output is not waited for.
        let _ = tokio::time::timeout(LAST_WORDS, reader).await;
    }
    match done {
        Err(error) if failure.is_cancelled() => failure
            .with_source(error)
            .with_facts(|facts| facts.outcome_unknown = true),
        _ => failure,
    }
}

async fn end_early(
    transport: &Arc<dyn Transport>,
    pid: &mut watch::Receiver<Option<u32>>,
    id: &str,
    grace: Duration,
) -> Result<()> {
    let known = tokio::time::timeout(START_WAIT, async {
        pid.wait_for(Option::is_some).await.ok().and_then(|pid| *pid)
    });
    match known.await {
        Ok(pid @ Some(_)) => terminate(transport, pid, id, grace).await,
        // It ended before it started.
        Ok(None) => Ok(()),
        Err(_) => Err(Error::remote("the box did not say whether the command started")),
    }
}

async fn stopped(timeout: Option<Duration>, cancel: CancellationToken) -> Stop {
    match timeout {
        None => {
            cancel.cancelled().await;
            Stop::Cancelled
        }
        Some(limit) => tokio::select! {
            () = cancel.cancelled() => Stop::Cancelled,
            () = tokio::time::sleep(limit) => Stop::TimedOut(limit),
        },
    }
}

fn ended(end: End, place: &str, workdir: Option<String>) -> Result<ExecStatus> {
    match end {
        End::Exited(status) => Ok(status),
        End::Lost(detail, None) => Err(lost_while_running(place, &detail)),
        End::Lost(detail, Some(status)) => Err(Error::remote(format!(
            "connection to {place} lost after the command exited {}: {detail}",
            status.code
        ))
        .with_hint("the command has finished, but the end of its output may be missing")
        .with_facts(|facts| facts.outcome_unknown = true)),
        End::Refused => Err(Error::remote(format!("the box refuses to run commands: {place}"))
            .with_hint("the user may be restricted to file transfer or a fixed command")),
        End::NoDirectory => Err(Error::remote(format!(
            "no such directory on the box: `{}`",
            workdir.unwrap_or_default()
        ))
        .with_hint("create it first, or give another directory")),
        End::NeverStarted(status, said) => {
            let code = status.map_or_else(
                || "without a status".to_owned(),
                |status| format!("with {}", status.code),
            );
            let said = said
                .lines()
                .map(str::trim)
                .find(|line| !line.is_empty())
                .unwrap_or("no message")
                .to_owned();
            Err(Error::remote(format!(
                "the login shell of the box ended {code} before the command started: {said}"
            ))
            .with_hint("check that the user has a login shell and that `sh` is on the box"))
        }
    }
}

/// Sends the script, then the command's own input.
async fn write(mut outgoing: Box<dyn Outgoing>, preface: String, stdin: Stdin) -> Result<()> {
    let preface = Bytes::from(preface);
    match stdin {
        Stdin::Empty => {
            if send(&mut *outgoing, preface).await {
                outgoing.finish().await;
            }
        }
        Stdin::Bytes(bytes) => {
            if send(&mut *outgoing, preface).await && send(&mut *outgoing, bytes).await {
                outgoing.finish().await;
            }
        }
        Stdin::Stream(mut stream) => {
            if !send(&mut *outgoing, preface).await {
                return Ok(());
            }
            loop {
                let mut chunk = BytesMut::with_capacity(CHUNK);
                let length = stream
                    .read_buf(&mut chunk)
                    .await
                    .or_error(ErrorKind::Other, || "read the input of the command".to_owned())?;
                if length == 0 {
                    outgoing.finish().await;
                    break;
                }
                // A command that takes no more input is not an error.
                if !outgoing.write(chunk.freeze()).await {
                    break;
                }
            }
        }
    }
    Ok(())
}

async fn send(outgoing: &mut dyn Outgoing, mut bytes: Bytes) -> bool {
    while !bytes.is_empty() {
        let chunk = bytes.split_to(bytes.len().min(CHUNK));
        if !outgoing.write(chunk).await {
            return false;
        }
    }
    true
}

/// Hands output on until the command has ended.
async fn read(
    incoming: &mut dyn Incoming,
    output: &mut dyn OutputSink,
    mark: &str,
    started: &watch::Sender<Option<u32>>,
    transport_reports: bool,
) -> Result<End> {
    let mut filter = Some(MarkerFilter::new(mark));
    let mut preamble = Vec::new();
    let mut status = None;
    let mut reported = None;
    let mut no_directory = false;
    let mut has_started = false;
    let (mut early, mut early_bytes) = (Vec::new(), 0);
    let lost = loop {
        match incoming.next().await {
            Event::Stdout(data) if !has_started && early_bytes + data.len() <= EARLY => {
                early_bytes += data.len();
                early.push(data);
            }
            Event::Stdout(data) => deliver(incoming, output, OutputStream::Stdout, data).await?,
            Event::Stderr(data) => {
                let Some(marks) = &mut filter else {
                    deliver(incoming, output, OutputStream::Stderr, data).await?;
                    continue;
                };
                for piece in marks.push(&data) {
                    match piece {
                        Piece::Data(data) if !has_started && preamble.len() + data.len() <= PREAMBLE => {
                            preamble.extend_from_slice(&data);
                        }
                        Piece::Data(data) => deliver(incoming, output, OutputStream::Stderr, data).await?,
                        Piece::Line(line) => match line.split_once(' ').unwrap_or((&line, "")) {
                            ("start", pid) => {
                                has_started = true;
                                started.send_replace(pid.parse().ok());
                                let noise = Bytes::from(std::mem::take(&mut preamble));
                                if !noise.is_empty() {
                                    deliver(incoming, output, OutputStream::Stderr, noise).await?;
                                }
                                for data in early.drain(..) {
                                    deliver(incoming, output, OutputStream::Stdout, data).await?;
                                }
                            }
                            ("exit", code) => reported = code.parse().ok().map(ExecStatus::exited),
                            ("nodir", _) => no_directory = true,
                            _ => {}
                        },
                    }
                }
                if transport_reports && has_started {
                    // Nothing of ours follows: the rest passes untouched.
                    let rest = filter.as_mut().map(MarkerFilter::finish).unwrap_or_default();
                    filter = None;
                    if !rest.is_empty() {
                        deliver(incoming, output, OutputStream::Stderr, rest).await?;
                    }
                }
            }
            Event::Exit(exit) => status = Some(exit),
            Event::Refused => return Ok(End::Refused),
            Event::Closed => break None,
            Event::Lost(detail) => break Some(detail),
        }
    };
    if let Some(rest) = filter
        .as_mut()
        .map(MarkerFilter::finish)
        .filter(|rest| !rest.is_empty())
    {
        if has_started {
            deliver(incoming, output, OutputStream::Stderr, rest).await?;
        } else {
            preamble.extend_from_slice(&rest);
        }
    }
    if !transport_reports && reported.is_some() {
        return Ok(reported.map_or(End::Refused, End::Exited));
    }
    Ok(match (lost, status) {
        _ if no_directory => End::NoDirectory,
        (Some(detail), status) => End::Lost(detail, status.filter(|_| has_started)),
        (None, status) if !has_started => {
            preamble.extend(early.iter().flatten().take(PREAMBLE));
            End::NeverStarted(status, String::from_utf8_lossy(&preamble).into_owned())
        }
        (None, Some(status)) if transport_reports => End::Exited(status),
        (None, _) => End::Lost("it ended without saying how".to_owned(), None),
    })
}

async fn deliver(
    incoming: &dyn Incoming,
    output: &mut dyn OutputSink,
    stream: OutputStream,
    data: Bytes,
) -> Result<()> {
    let mut write = output.write(stream, data);
    if let Ok(written) = tokio::time::timeout(STALL_AFTER, &mut write).await {
        return written;
    }
    let _stall = incoming.stall();
    write.await
}

/// Ends a command whose future was dropped without being cancelled.
struct Abandoned {
    transport: Arc<dyn Transport>,
    pid: watch::Receiver<Option<u32>>,
    id: String,
    grace: Duration,
    armed: bool,
}

impl Drop for Abandoned {
    fn drop(&mut self) {
        let pid = *self.pid.borrow();
        let (true, Ok(runtime)) = (self.armed, tokio::runtime::Handle::try_current()) else {
            return;
        };
        let (transport, id, grace) = (Arc::clone(&self.transport), std::mem::take(&mut self.id), self.grace);
        runtime.spawn(async move {
            if pid.is_none() {
                // Its script may just have arrived. Whatever it starts is known by its variable.
                tokio::time::sleep(SETTLE).await;
            }
            // Nobody is left to be told.
            let _ = terminate(&transport, pid, &id, grace).await;
        });
    }
}
