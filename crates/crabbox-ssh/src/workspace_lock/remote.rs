//! A box whose commands run under the workspace lock.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use crabbox_core::remote::{
    ByteWriter, ExecRequest, ExecStatus, HostDirectory, OutputSink, OutputStream, RemotePath, Upload,
};
use crabbox_core::spec::Target;
use crabbox_core::{Error, Remote, Result};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::{Calls, GATE_WAIT_SECS, Reply, refused, script};
use crate::files;
use crate::marker::{MarkerFilter, Piece};
use crate::random;

/// A box whose commands run under the workspace lock, one at a time.
#[derive(Clone)]
pub struct LockedRemote {
    calls: Arc<Calls>,
    lost: CancellationToken,
    turn: Arc<Mutex<()>>,
}

impl LockedRemote {
    pub(super) fn new(calls: Arc<Calls>, lost: CancellationToken) -> Self {
        Self {
            calls,
            lost,
            turn: Arc::default(),
        }
    }
}

impl std::fmt::Debug for LockedRemote {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("LockedRemote")
            .field("key", &self.calls.key)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Remote for LockedRemote {
    fn target(&self) -> Target {
        self.calls.remote.target()
    }

    async fn exec(&self, request: ExecRequest, output: &mut dyn OutputSink) -> Result<ExecStatus> {
        if request.argv.is_empty() {
            return self.calls.remote.exec(request, output).await;
        }
        let lost = || Error::remote("the workspace lock is lost").with_hint("run again");
        let _turn = tokio::select! {
            () = request.cancel.cancelled() => return Err(Error::cancelled("command cancelled before it started")),
            () = self.lost.cancelled() => return Err(lost()),
            turn = self.turn.lock() => turn,
        };
        let mark = random::token::<16>()?;
        let mut parameters = self.calls.parameters("witness", GATE_WAIT_SECS);
        parameters.push(mark.clone());
        parameters.extend(request.argv.iter().cloned());
        // Ends with the caller's or with the lock, whichever comes first.
        let cancel = request.cancel.child_token();
        let mut wrapped = ExecRequest::script(script::WITNESS, parameters)
            .with_env(request.env)
            .with_stdin(request.stdin)
            .with_timeout(request.timeout)
            .with_cancel(cancel.clone());
        wrapped.workdir = request.workdir;
        let mut sink = Witness {
            output,
            filter: Some(MarkerFilter::new(&mark)),
            reply: None,
        };
        let outcome = {
            let run = self.calls.remote.exec(wrapped, &mut sink);
            tokio::pin!(run);
            tokio::select! {
                outcome = &mut run => outcome,
                () = self.lost.cancelled() => {
                    cancel.cancel();
                    // Its processes are ended before this returns.
                    return Err(run.await.err().map_or_else(lost, |error| lost().with_source(error)));
                }
            }
        };
        sink.finish().await?;
        match (sink.reply, outcome) {
            (Some(Reply::Started), outcome) => outcome,
            (Some(reply), Ok(_)) => Err(refused("start a command under the workspace lock", reply)),
            (None, Ok(status)) => Err(Error::remote(format!(
                "the workspace lock on the box did not answer, exit {}",
                status.code
            ))),
            (_, Err(error)) => Err(error),
        }
    }

    async fn upload(&self, destination: &RemotePath, upload: Upload) -> Result<()> {
        files::upload(self, destination, upload).await
    }

    async fn download(&self, source: &RemotePath, destination: ByteWriter<'_>) -> Result<u64> {
        // Reading changes nothing, and needs no turn.
        self.calls.remote.download(source, destination).await
    }

    async fn host_directory(&self, path: &RemotePath) -> Result<Option<HostDirectory>> {
        self.calls.remote.host_directory(path).await
    }
}

/// Takes the lock's report out of standard error.
struct Witness<'a> {
    output: &'a mut dyn OutputSink,
    filter: Option<MarkerFilter>,
    reply: Option<Reply>,
}

impl Witness<'_> {
    async fn finish(&mut self) -> Result<()> {
        let rest = self.filter.take().map(|mut filter| filter.finish()).unwrap_or_default();
        if rest.is_empty() {
            Ok(())
        } else {
            self.output.write(OutputStream::Stderr, rest).await
        }
    }
}

#[async_trait]
impl OutputSink for Witness<'_> {
    async fn write(&mut self, stream: OutputStream, chunk: Bytes) -> Result<()> {
        let (OutputStream::Stderr, Some(filter)) = (stream, &mut self.filter) else {
            return self.output.write(stream, chunk).await;
        };
        for piece in filter.push(&chunk) {
            match piece {
                Piece::Data(data) => self.output.write(OutputStream::Stderr, data).await?,
                Piece::Line(line) => self.reply = Some(line.parse()?),
            }
        }
        if self.reply.is_some() {
            self.finish().await?;
        }
        Ok(())
    }
}
