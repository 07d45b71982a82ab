//! A delegated box as a [`Remote`].

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use crabbox_core::remote::{
    ByteWriter, Capture, ExecRequest, ExecStatus, HostDirectory, OutputSink, OutputStream, RemotePath, Upload,
};
use crabbox_core::{Backend, DelegatedRunBackend, Error, Machine, Remote, Result, Target};
use tokio::io::AsyncWriteExt as _;

/// Longest standard error of a helper command that is kept.
const MESSAGE_LIMIT_BYTES: usize = 64 * 1024;

/// Acts on a box through its provider's own API.
pub(crate) struct DelegatedRemote {
    backend: Arc<dyn Backend>,
    machine: Machine,
}

impl DelegatedRemote {
    /// Wraps a machine of a delegated backend.
    pub(crate) fn new(backend: Arc<dyn Backend>, machine: Machine) -> Result<Self> {
        match backend.delegated() {
            Some(_) => Ok(Self { backend, machine }),
            None => Err(
                Error::usage(format!("provider {} cannot run commands", machine.provider))
                    .with_hint("choose a provider that leases boxes"),
            ),
        }
    }

    fn delegated(&self) -> Result<&dyn DelegatedRunBackend> {
        self.backend
            .delegated()
            .ok_or_else(|| Error::other("a delegated backend lost its shape"))
    }
}

#[async_trait]
impl Remote for DelegatedRemote {
    fn target(&self) -> Target {
        self.machine.target
    }

    async fn exec(&self, request: ExecRequest, output: &mut dyn OutputSink) -> Result<ExecStatus> {
        self.delegated()?.exec(&self.machine, request, output).await
    }

    async fn upload(&self, destination: &RemotePath, upload: Upload) -> Result<()> {
        self.delegated()?.upload(&self.machine, destination, upload).await
    }

    async fn download(&self, source: &RemotePath, destination: ByteWriter<'_>) -> Result<u64> {
        if let Some(files) = self.backend.files() {
            return files.download(&self.machine, source, destination).await;
        }
        // A symbolic link is followed here as it is by every reader on the box; what is refused is what never ends.
        let script = r#"test -f "$1" || { echo "not a regular file: $1" >&2; exit 66; }; exec cat -- "$1""#;
        let mut sink = FileSink {
            destination,
            length: 0,
            stderr: Capture::new(MESSAGE_LIMIT_BYTES),
        };
        let status = self
            .exec(ExecRequest::script(script, [source.as_str()]), &mut sink)
            .await?;
        if status.success() {
            sink.destination
                .flush()
                .await
                .map_err(|error| Error::other("write downloaded file").with_source(error))?;
            return Ok(sink.length);
        }
        let message = String::from_utf8_lossy(sink.stderr.stderr()).trim().to_owned();
        Err(Error::remote(format!(
            "download from the box exited {}: {message}",
            status.code
        )))
    }

    async fn host_directory(&self, path: &RemotePath) -> Result<Option<HostDirectory>> {
        match self.backend.host_workspace() {
            Some(workspace) => workspace.directory(&self.machine, path).await.map(Some),
            None => Ok(None),
        }
    }
}

/// Sends standard output into a writer and keeps standard error for the message.
struct FileSink<'a> {
    destination: ByteWriter<'a>,
    length: u64,
    stderr: Capture,
}

#[async_trait]
impl OutputSink for FileSink<'_> {
    async fn write(&mut self, stream: OutputStream, chunk: Bytes) -> Result<()> {
        match stream {
            OutputStream::Stdout => {
                self.length += chunk.len() as u64;
                let written = self.destination.write_all(&chunk).await;
                written.map_err(|error| Error::other("write downloaded file").with_source(error))
            }
            OutputStream::Stderr => self.stderr.write(stream, chunk).await,
        }
    }
}
