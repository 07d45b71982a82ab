//! Where output goes in cases.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use crabbox_core::error::{Error, Result};
use crabbox_core::remote::{OutputSink, OutputStream};
use tokio::sync::{mpsc, oneshot};

/// Keeps everything, both streams apart.
#[derive(Debug, Default)]
pub(super) struct Keep {
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: Vec<u8>,
}

#[async_trait]
impl OutputSink for Keep {
    async fn write(&mut self, stream: OutputStream, chunk: Bytes) -> Result<()> {
        match stream {
            OutputStream::Stdout => self.stdout.extend_from_slice(&chunk),
            OutputStream::Stderr => self.stderr.extend_from_slice(&chunk),
        }
        Ok(())
    }
}

/// Hands every chunk on.
pub(super) struct Forward(pub(super) mpsc::UnboundedSender<Bytes>);

/// A sink and what comes out of it.
pub(super) fn forward() -> (Forward, Received) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (
        Forward(sender),
        Received {
            receiver,
            seen: Vec::new(),
        },
    )
}

#[async_trait]
impl OutputSink for Forward {
    async fn write(&mut self, _stream: OutputStream, chunk: Bytes) -> Result<()> {
        // Whoever listened may have seen enough.
        let _unheard = self.0.send(chunk);
        Ok(())
    }
}

/// What a [`Forward`] handed on.
pub(super) struct Received {
    receiver: mpsc::UnboundedReceiver<Bytes>,
    seen: Vec<u8>,
}

impl Received {
    /// Waits until the output holds a text.
    pub(super) async fn until(&mut self, text: &str) {
        while !crate::processes::contains(&self.seen, text.as_bytes()) {
            let chunk = self.receiver.recv().await;
            let chunk = chunk.unwrap_or_else(|| panic!("output ended without {text:?}: {:?}", self.text()));
            self.seen.extend_from_slice(&chunk);
        }
    }

    /// Waits until nothing has come for a while.
    pub(super) async fn quiet(&mut self, silence: Duration) {
        for _ in 0..100 {
            match tokio::time::timeout(silence, self.receiver.recv()).await {
                Err(_nothing) => return,
                Ok(chunk) => self.seen.extend_from_slice(&chunk.expect("output goes on")),
            }
        }
        panic!("output never stops");
    }

    /// Waits for the next output.
    pub(super) async fn more(&mut self) {
        let chunk = self.receiver.recv().await.expect("output goes on");
        self.seen.extend_from_slice(&chunk);
    }

    /// Everything up to the end.
    pub(super) async fn rest(mut self) -> String {
        while let Some(chunk) = self.receiver.recv().await {
            self.seen.extend_from_slice(&chunk);
        }
        self.text()
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.seen).into_owned()
    }
}

/// Counts bytes, and looks at this process's memory as they come.
#[derive(Debug, Default)]
pub(super) struct Count {
    pub(super) bytes: u64,
    pub(super) zeroes_only: bool,
    pub(super) peak_resident: u64,
}

impl Count {
    pub(super) fn new() -> Self {
        Self {
            bytes: 0,
            zeroes_only: true,
            peak_resident: resident_bytes(),
        }
    }
}

#[async_trait]
impl OutputSink for Count {
    async fn write(&mut self, _stream: OutputStream, chunk: Bytes) -> Result<()> {
        const EVERY: u64 = 8 * 1024 * 1024;
        let before = self.bytes / EVERY;
        self.bytes += chunk.len() as u64;
        self.zeroes_only &= chunk.iter().all(|byte| *byte == 0);
        if self.bytes / EVERY != before {
            self.peak_resident = self.peak_resident.max(resident_bytes());
        }
        Ok(())
    }
}

/// Memory of this process that is in use, 0 where the system does not say.
pub(super) fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|rest| rest.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok())
        .unwrap_or_default()
        * 1024
}

/// Takes the first chunk and then nothing until it is released.
pub(super) struct Gate {
    pub(super) reached: Option<oneshot::Sender<()>>,
    pub(super) release: Option<oneshot::Receiver<()>>,
    pub(super) bytes: u64,
}

#[async_trait]
impl OutputSink for Gate {
    async fn write(&mut self, _stream: OutputStream, chunk: Bytes) -> Result<()> {
        self.bytes += chunk.len() as u64;
        if let Some(reached) = self.reached.take() {
            // The case waits for this before it does anything else.
            let _heard = reached.send(());
        }
        if let Some(release) = self.release.take() {
            release.await.expect("the case releases the gate");
        }
        Ok(())
    }
}

/// Fails at the first chunk.
pub(super) struct Fail;

#[async_trait]
impl OutputSink for Fail {
    async fn write(&mut self, _stream: OutputStream, _chunk: Bytes) -> Result<()> {
        Err(Error::other("the sink is full"))
    }
}
