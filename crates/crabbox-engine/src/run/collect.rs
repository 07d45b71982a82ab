//! What a run brings back: test results on every end, downloads after success.

use std::io::Write as _;

use crabbox_core::remote::{Capture, ExecRequest, RemotePath};
use crabbox_core::{Error, ErrorKind, IntoError as _, Result};
use crabbox_evidence::downloads::Download;
use crabbox_evidence::junit::{self, Discovery};
use crabbox_evidence::private_file::PrivateFile;
use crabbox_evidence::timing::Artifact;
use crabbox_state::random;
use tokio::io::AsyncReadExt as _;

use super::Run;
use crate::event::Event;

/// Bytes of one download that are in memory at once.
const PIPE_BYTES: usize = 256 * 1024;

impl Run<'_> {
    /// Fetches and reads test reports. A problem with them never changes the outcome.
    pub(super) async fn collect_results(&mut self) {
        let discovery = Discovery {
            explicit: self.plan.results.files.clone(),
            auto: self.plan.results.auto,
        };
        if discovery.is_empty() {
            return;
        }
        match self.fetch_results(&discovery).await {
            Ok(results) => {
                for warning in results.warnings {
                    self.engine.warn(warning);
                }
                if let Some(summary) = &results.summary {
                    self.engine.info(summary.run_line());
                }
                self.results = results.summary;
            }
            Err(error) => self.engine.warn(format!("test results were not collected: {error}")),
        }
    }

    async fn fetch_results(&self, discovery: &Discovery) -> Result<junit::Results> {
        let nonce = crabbox_core::id::hex(&random::bytes::<16>()?);
        let limit = usize::try_from(discovery.max_output_bytes()).unwrap_or(usize::MAX);
        let mut capture = Capture::new(limit);
        let request = ExecRequest::script(&discovery.collect_script(&nonce), [""; 0]).in_dir(self.workdir.clone());
        let status = self.remote.exec(request, &mut capture).await?;
        let mut collected = Discovery::read(&nonce, capture.stdout());
        if !status.success() {
            collected
                .warnings
                .push(format!("collecting test results exited {}", status.code));
        }
        let mut results = junit::read_reports(collected.files);
        results.warnings.splice(0..0, collected.warnings);
        Ok(results)
    }

    /// Fetches what `--download` names, in order. The first failure ends it.
    pub(super) async fn collect_downloads(&mut self) -> Result<()> {
        for download in std::mem::take(&mut self.plan.downloads) {
            let fetched = self.fetch(&download);
            let bytes = self.engine.unless_cancelled(fetched).await?;
            self.engine.info(download.line(bytes));
            self.engine.emit(Event::Collected {
                kind: "download",
                path: download.local.clone(),
                bytes,
            });
            self.artifacts.push(Artifact {
                kind: "delegated-download".to_owned(),
                path: download.local.display().to_string(),
                template: String::new(),
                size_bytes: bytes,
            });
        }
        Ok(())
    }

    async fn fetch(&self, download: &Download) -> Result<u64> {
        let source: RemotePath = if download.remote.starts_with('/') {
            download.remote.parse()?
        } else {
            self.workdir.join(&download.remote)?
        };
        let mut file = PrivateFile::create(&download.local)?;
        // The box writes into a pipe and the file is written from its other end, so that a large file never stands in memory.
        let (mut write_end, mut read_end) = tokio::io::duplex(PIPE_BYTES);
        let local = &download.local;
        // Owns its end, so that a file which cannot be written ends the sending too.
        let receive = async move {
            let mut buffer = vec![0; PIPE_BYTES];
            loop {
                let length = read_end
                    .read(&mut buffer)
                    .await
                    .or_error(ErrorKind::Other, || "receive".to_owned())?;
                if length == 0 {
                    return Ok::<_, Error>(file);
                }
                let words = || format!("write `{}`", local.display());
                file.write_all(&buffer[..length]).or_error(ErrorKind::Usage, words)?;
            }
        };
        let send = async {
            let sent = self.remote.download(&source, &mut write_end).await;
            drop(write_end);
            sent.map_err(|error| {
                error
                    .with_kind(ErrorKind::Remote)
                    .context(format!("download `{}`", download.remote))
            })
        };
        let (file, sent) = tokio::join!(receive, send);
        // Its error is the cause when both failed: the box then found nobody to send to.
        let file = file?;
        sent?;
        file.finish()
    }
}
