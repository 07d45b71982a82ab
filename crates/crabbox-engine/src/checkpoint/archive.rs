//! Checkpoints as archives on this machine, for providers without their own.

use std::os::unix::fs::OpenOptionsExt as _;

use async_trait::async_trait;
use bytes::Bytes;
use crabbox_core::remote::{ExecRequest, OutputSink, OutputStream, RemotePath, Stdin};
use crabbox_core::{CheckpointId, Error, ErrorKind, IntoError as _, Result};
use crabbox_state::checkpoints::CheckpointRecord;
use tokio::io::AsyncWriteExt as _;

use crate::engine::Engine;
use crate::lease::Lease;

/// Directories that may hold secrets never enter an archive.
const PACK: &str = r#"exec tar -C "$1" --exclude ./.crabbox/env --exclude ./.crabbox/scripts -czf - ."#;

/// Unpacks standard input into `$1`, emptied first when `$2` is `clear`.
const UNPACK: &str = r#"
set -e
mkdir -p -- "$1"
if [ "$2" = clear ]; then find "$1" -mindepth 1 -maxdepth 1 -exec rm -rf -- {} +; fi
exec tar -C "$1" -xzf -
"#;

impl Engine {
    /// Streams the workspace into the checkpoint's archive, which appears only when it is complete.
    pub(super) async fn take_archive(
        &self,
        lease: &Lease,
        id: &CheckpointId,
        workdir: &RemotePath,
        record: &mut CheckpointRecord,
    ) -> Result<()> {
        let (temporary, path) = (
            self.checkpoints().temporary_archive_path(id),
            self.checkpoints().archive_path(id),
        );
        let words = || format!("write `{}`", temporary.display());
        let file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)
            .or_error(ErrorKind::Usage, words)?;
        let limit = self.settings().sync().fail_bytes;
        let mut sink = FileSink {
            limit,
            file: tokio::fs::File::from_std(file),
            bytes: 0,
            message: Vec::new(),
        };
        let status = lease
            .remote()?
            .exec(ExecRequest::script(PACK, [workdir.as_str()]), &mut sink)
            .await?;
        if !status.success() || sink.bytes == 0 {
            let message = String::from_utf8_lossy(&sink.message).trim().to_owned();
            return Err(
                Error::remote(format!("tar on the box exited {}: {message}", status.code))
                    .with_hint("run something on the lease first, so that its workspace exists"),
            );
        }
        sink.file.sync_all().await.or_error(ErrorKind::Usage, words)?;
        std::fs::rename(&temporary, &path).or_error(ErrorKind::Usage, words)?;
        super::ARCHIVE.clone_into(&mut record.kind);
        crabbox_state::checkpoints::ARCHIVE.clone_into(&mut record.archive_path);
        record.archive_bytes = i64::try_from(sink.bytes).unwrap_or(i64::MAX);
        Ok(())
    }

    /// Streams the archive into a workspace.
    pub(super) async fn restore_archive(
        &self,
        lease: &Lease,
        id: &CheckpointId,
        workdir: &RemotePath,
        clear: bool,
    ) -> Result<()> {
        let path = self.checkpoints().archive_path(id);
        let file = tokio::fs::File::open(&path)
            .await
            .or_error(ErrorKind::Identity, || format!("open archive `{}`", path.display()))?;
        let mode = if clear { "clear" } else { "keep" };
        let request = ExecRequest::script(UNPACK, [workdir.as_str(), mode]).with_stdin(Stdin::Stream(Box::pin(file)));
        lease
            .remote()?
            .output(request)
            .await
            .map(drop)
            .map_err(|error| error.context("restore archive"))
    }
}

struct FileSink {
    /// Most bytes that a box may make this machine keep.
    limit: u64,
    file: tokio::fs::File,
    bytes: u64,
    message: Vec<u8>,
}

#[async_trait]
impl OutputSink for FileSink {
    async fn write(&mut self, stream: OutputStream, chunk: Bytes) -> Result<()> {
        match stream {
            OutputStream::Stdout => {
                self.bytes += chunk.len() as u64;
                if self.bytes > self.limit {
                    return Err(
                        Error::remote(format!("workspace archive is larger than {} bytes", self.limit))
                            .with_hint("remove build output from the workspace, or raise sync.failBytes"),
                    );
                }
                self.file
                    .write_all(&chunk)
                    .await
                    .or_error(ErrorKind::Usage, || "write archive".to_owned())
            }
            OutputStream::Stderr => {
                let room = 4096_usize.saturating_sub(self.message.len());
                self.message.extend_from_slice(&chunk[..chunk.len().min(room)]);
                Ok(())
            }
        }
    }
}
