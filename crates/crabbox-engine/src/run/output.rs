//! Where a command's output goes: the caller's sink, the log, the tails, captures, digests.

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use bytes::Bytes;
use crabbox_core::Result;
use crabbox_core::remote::{OutputSink, OutputStream};
use crabbox_evidence::stream::{OutputCollector, OutputEvidence, Stream};
use crabbox_state::runs::{RunWriter, Stream as RecordStream};

use crate::engine::Engine;

/// Hands every chunk to everybody who wants it, within bounded memory.
pub(super) struct FanOut<'a> {
    engine: &'a Engine,
    caller: &'a mut dyn OutputSink,
    collector: OutputCollector,
    record: Arc<RunWriter>,
}

impl<'a> FanOut<'a> {
    pub(super) fn new(
        engine: &'a Engine,
        caller: &'a mut dyn OutputSink,
        collector: OutputCollector,
        record: &Arc<RunWriter>,
    ) -> Self {
        Self {
            engine,
            caller,
            collector,
            record: Arc::clone(record),
        }
    }

    /// Ends both streams.
    pub(super) fn finish(self) -> OutputEvidence {
        self.collector.finish(Instant::now())
    }
}

#[async_trait]
impl OutputSink for FanOut<'_> {
    async fn write(&mut self, stream: OutputStream, chunk: Bytes) -> Result<()> {
        let (lane, recorded) = match stream {
            OutputStream::Stdout => (Stream::Stdout, RecordStream::Stdout),
            OutputStream::Stderr => (Stream::Stderr, RecordStream::Stderr),
        };
        self.collector.write(lane, &chunk, Instant::now())?;
        if self.collector.is_captured(lane) {
            return Ok(());
        }
        if let Err(error) = self.record.append_log(recorded, &chunk) {
            // A full disk must not end the command; the writer says so once.
            self.engine.warn(format!("the log of this run is incomplete: {error}"));
        }
        self.caller.write(stream, chunk).await
    }
}
