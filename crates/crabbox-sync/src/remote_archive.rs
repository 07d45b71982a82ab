//! Puts a packed checkout on any box: upload, unpack beside the workspace, exchange.
//!
//! The box needs a POSIX shell, `tar` and, for gzip, `gzip`. With `delete` the workspace is replaced in one step and the
//! old one is put back when that fails; without, the archive is unpacked over it.

use std::future::Future;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use crabbox_core::remote::{ExecRequest, Remote, RemotePath, Upload};
use crabbox_core::{Error, ErrorKind, IntoError as _, Result};
use tokio_util::sync::CancellationToken;

use crate::archive::{ArchiveFormat, ArchiveOptions, ArchiveReport, write_archive};
use crate::manifest::Manifest;

/// How long cleaning up on the box may take, whatever happened before.
const CLEANUP: Duration = Duration::from_secs(30);

/// An archive in a private temporary file. The file goes with it.
#[derive(Debug)]
pub struct PreparedArchive {
    file: tempfile::NamedTempFile,
    format: ArchiveFormat,
    report: ArchiveReport,
    length: u64,
    took: Duration,
}

impl PreparedArchive {
    /// Packs a manifest's files. Blocks; later edits are not in the archive, so it can be made before anything is paid
    /// for.
    ///
    /// # Errors
    /// Those of [`write_archive`], and `Sync` when the temporary file cannot be written.
    pub fn build(root: &Path, manifest: &Manifest, options: &ArchiveOptions) -> Result<Self> {
        let started = Instant::now();
        let failed = || "write temporary archive".to_owned();
        let file = tempfile::Builder::new()
            .prefix("crabbox-sync-")
            .suffix(&format!(".{}", options.format.extension()))
            .tempfile()
            .or_error(ErrorKind::Sync, failed)?;
        let writer = std::io::BufWriter::with_capacity(256 * 1024, file.as_file());
        let (mut writer, report) = write_archive(root, manifest, options, writer)?;
        writer.flush().or_error(ErrorKind::Sync, failed)?;
        drop(writer);
        let length = file.as_file().metadata().or_error(ErrorKind::Sync, failed)?.len();
        Ok(Self {
            file,
            format: options.format,
            report,
            length,
            took: started.elapsed(),
        })
    }

    /// What was packed.
    pub fn report(&self) -> ArchiveReport {
        self.report
    }

    /// Length of the archive in bytes.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// How long packing took.
    pub fn took(&self) -> Duration {
        self.took
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.file.path()
    }
}

/// How to put an archive on a box.
#[derive(Clone, Debug)]
pub struct RemoteArchiveOptions {
    /// `sync.delete`: the workspace becomes exactly the archive's content.
    pub delete: bool,
    /// Directory on the box for the archive.
    pub directory: RemotePath,
    /// Start of the archive's name there.
    pub prefix: String,
    /// `sync.timeout`: longest time for packing and everything on the box together.
    pub timeout: Option<Duration>,
    /// Ends the transfer; what it left on the box is still removed.
    pub cancel: CancellationToken,
}

impl RemoteArchiveOptions {
    /// Deletion on, `/tmp/crabbox-sync-…`, no time limit.
    ///
    /// # Errors
    /// Never; the path is a constant one.
    pub fn new() -> Result<Self> {
        Ok(Self {
            delete: true,
            directory: "/tmp".parse()?,
            prefix: "crabbox-sync-".to_owned(),
            timeout: None,
            cancel: CancellationToken::new(),
        })
    }
}

/// A part of a transfer and how long it took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncPhase {
    /// `archive`, `upload`, `prepare`, `extract`, `replace` or `cleanup`.
    pub name: &'static str,
    /// How long it took.
    pub duration: Duration,
}

/// What a transfer did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RemoteArchiveReport {
    /// Its parts in order.
    pub phases: Vec<SyncPhase>,
    /// What went wrong without consequences for the workspace.
    pub warnings: Vec<String>,
}

/// Puts an archive into a workspace on a box.
///
/// The workspace is not touched before the archive was received and unpacked completely when `delete` is on. What the
/// transfer leaves on the box is removed afterwards in any case, except when this future is dropped: cancel by the token.
///
/// # Errors
/// `Sync` when the archive cannot be unpacked or the time is over; those of the [`Remote`] when the box fails; a
/// cancelled error after cancellation.
pub async fn sync_archive(
    remote: &dyn Remote,
    archive: &PreparedArchive,
    workdir: &RemotePath,
    options: &RemoteArchiveOptions,
) -> Result<RemoteArchiveReport> {
    let mut token = [0; 3];
    getrandom::fill(&mut token)
        .map_err(std::io::Error::other)
        .or_error(ErrorKind::Other, || "make a random name".to_owned())?;
    let token = format!("{:02x}{:02x}{:02x}", token[0], token[1], token[2]);
    let name = format!("{}{token}.{}", options.prefix, archive.format.extension());
    let remote_archive = options.directory.join(&name)?;
    let parent = workdir
        .parent()
        .filter(|_| !workdir.file_name().is_empty())
        .ok_or_else(|| Error::usage(format!("not a workspace directory: `{workdir}`")))?;
    let staging = parent.join(&format!(".{}.crabbox-sync-{token}", workdir.file_name()))?;

    let mut report = RemoteArchiveReport::default();
    report.phases.push(SyncPhase {
        name: "archive",
        duration: archive.took,
    });
    let transfer = Transfer {
        remote,
        archive,
        workdir,
        options,
        remote_archive: &remote_archive,
        staging: &staging,
    };
    let budget = options.timeout.map(|timeout| timeout.saturating_sub(archive.took));
    let result = bounded(transfer.run(&mut report), budget, options).await;

    let started = Instant::now();
    let request = ExecRequest::script(CLEAN, [remote_archive.as_str(), staging.as_str()]).with_timeout(Some(CLEANUP));
    let cleaned = tokio::time::timeout(CLEANUP, remote.output(request)).await;
    report.phases.push(SyncPhase {
        name: "cleanup",
        duration: started.elapsed(),
    });
    match cleaned {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => report
            .warnings
            .push(format!("remove temporary files of the sync on the box: {error}")),
        Err(_) => report
            .warnings
            .push("remove temporary files of the sync on the box: timed out".to_owned()),
    }
    result.map(|()| report)
}

const CLEAN: &str = r#"rm -rf -- "$1" "$2""#;
const PREPARE_STAGING: &str = r#"rm -rf -- "$1" && mkdir -p -- "$1""#;
const PREPARE_WORKDIR: &str = r#"mkdir -p -- "$1""#;
const EXTRACT_GZ: &str = r#"tar -xzf "$1" -C "$2""#;
const EXTRACT_ZST: &str = r#"tar --zstd -xf "$1" -C "$2""#;
/// Parameters: workspace, staging. Prints `kept` when the old workspace could not be removed.
const REPLACE: &str = r#"
previous="$2.previous"
rm -rf -- "$previous" || exit 1
if [ -e "$1" ] || [ -L "$1" ]; then
  mv -- "$1" "$previous" || exit 1
fi
if mv -- "$2" "$1"; then
  rm -rf -- "$previous" || echo kept
else
  code=$?
  if [ -e "$previous" ] || [ -L "$previous" ]; then mv -- "$previous" "$1"; fi
  exit "$code"
fi
"#;

struct Transfer<'a> {
    remote: &'a dyn Remote,
    archive: &'a PreparedArchive,
    workdir: &'a RemotePath,
    options: &'a RemoteArchiveOptions,
    remote_archive: &'a RemotePath,
    staging: &'a RemotePath,
}

impl Transfer<'_> {
    async fn run(&self, report: &mut RemoteArchiveReport) -> Result<()> {
        self.phase(report, "upload", self.upload()).await?;
        let (target, prepare) = if self.options.delete {
            (self.staging, PREPARE_STAGING)
        } else {
            (self.workdir, PREPARE_WORKDIR)
        };
        self.phase(report, "prepare", self.script(prepare, &[target])).await?;
        let extract = match self.archive.format {
            ArchiveFormat::TarGz => EXTRACT_GZ,
            ArchiveFormat::TarZst => EXTRACT_ZST,
        };
        self.phase(report, "extract", self.script(extract, &[self.remote_archive, target]))
            .await?;
        if self.options.delete {
            let output = self
                .phase(report, "replace", self.script(REPLACE, &[self.workdir, self.staging]))
                .await?;
            if output.starts_with(b"kept") {
                report.warnings.push(format!(
                    "the previous workspace could not be removed: {}.previous",
                    self.staging
                ));
            }
        }
        Ok(())
    }

    async fn phase<T>(
        &self,
        report: &mut RemoteArchiveReport,
        name: &'static str,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let started = Instant::now();
        let result = work.await;
        report.phases.push(SyncPhase {
            name,
            duration: started.elapsed(),
        });
        result.map_err(|error| error.context(format!("archive sync failed: {name}")))
    }

    async fn upload(&self) -> Result<()> {
        let file = self
            .archive
            .file
            .reopen()
            .or_error(ErrorKind::Sync, || "open temporary archive".to_owned())?;
        let upload = Upload {
            content: Box::pin(tokio::fs::File::from_std(file)),
            length: Some(self.archive.length),
            mode: 0o600,
        };
        self.remote.upload(self.remote_archive, upload).await
    }

    async fn script(&self, script: &str, parameters: &[&RemotePath]) -> Result<Vec<u8>> {
        let request = ExecRequest::script(script, parameters.iter().map(|path| path.as_str()))
            .with_cancel(self.options.cancel.clone());
        let cancelled = self.options.cancel.clone();
        self.remote.output(request).await.map_err(|error| {
            if cancelled.is_cancelled() || error.is_cancelled() {
                error
            } else {
                error.with_kind(ErrorKind::Sync)
            }
        })
    }
}

/// Ends work when the time is over or the user says so. Commands on the box are asked to end through the token first.
async fn bounded(
    work: impl Future<Output = Result<()>>,
    budget: Option<Duration>,
    options: &RemoteArchiveOptions,
) -> Result<()> {
    let over = async {
        match budget {
            Some(budget) => tokio::time::sleep(budget).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        // First, so that nothing starts after a cancellation.
        () = options.cancel.cancelled() => Err(Error::cancelled("archive sync was cancelled")),
        result = work => result,
        () = over => {
            let limit = options.timeout.unwrap_or_default();
            Err(Error::sync(format!("archive sync timed out after {limit:?}"))
                .with_hint("raise sync.timeout, or exclude what the box does not need")
                .with_facts(|facts| facts.cancelled = true))
        }
    }
}
