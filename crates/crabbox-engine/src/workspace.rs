//! Making a workspace on a box equal to the checkout.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crabbox_core::remote::{ExecRequest, HostDirectory, RemotePath};
use crabbox_core::{Error, Remote, Result};
use crabbox_evidence::timing::PhaseTiming;
use crabbox_sync::apply::{ApplyOptions, apply_until};
use crabbox_sync::remote_archive::{RemoteArchiveOptions, sync_archive};

use crate::checkout::Look;
use crate::engine::{Engine, blocking, interrupted};
use crate::event::Event;
use crate::step::Step;

/// How often a long sync says that it still goes on.
const PROGRESS: Duration = Duration::from_secs(15);

/// How to sync.
#[derive(Clone, Copy)]
pub(crate) struct SyncWish {
    /// Delete what left the manifest.
    pub(crate) delete: bool,
    /// Compare contents instead of size and time.
    pub(crate) checksum: bool,
    /// Empty the workspace first.
    pub(crate) full: bool,
    /// Longest transfer.
    pub(crate) timeout: Duration,
    /// Say what was moved.
    pub(crate) debug: bool,
}

/// What a sync did.
pub(crate) struct SyncOutcome {
    /// What the workspace holds now.
    pub(crate) look: Arc<Look>,
    pub(crate) elapsed: Duration,
    pub(crate) phases: Vec<PhaseTiming>,
    pub(crate) skipped: bool,
}

impl Engine {
    /// Makes the workspace equal to the checkout, by the shortest way that the box offers.
    pub(crate) async fn sync(
        &self,
        remote: &Arc<dyn Remote>,
        workdir: &RemotePath,
        look: Arc<Look>,
        destination: String,
        wish: SyncWish,
    ) -> Result<SyncOutcome> {
        self.emit(Event::SyncStarted {
            root: look.root.clone(),
            destination,
        });
        let started = self.monotonic();
        let transfer = async {
            if wish.full {
                self.info(format!("full-resync resetting remote workdir {workdir}"));
                remote
                    .output(ExecRequest::script(r#"rm -rf -- "$1""#, [workdir.as_str()]))
                    .await?;
            }
            match self.unless_cancelled(remote.host_directory(workdir)).await? {
                Some(directory) => apply_settled(self, look, directory, wish).await,
                None => archive(self, remote, workdir, look, wish).await,
            }
        };
        let Moved {
            written,
            deleted,
            bytes,
            phases,
            look,
        } = self.with_progress(transfer).await?;
        let elapsed = self.monotonic().saturating_sub(started);
        let skipped = written == 0 && deleted == 0;
        self.emit(Event::SyncFinished {
            elapsed,
            skipped,
            written,
            deleted,
            bytes,
        });
        if wish.debug {
            self.info(format!("sync moved written={written} deleted={deleted} bytes={bytes}"));
        }
        self.step(Step::Synced);
        Ok(SyncOutcome {
            look,
            elapsed,
            phases,
            skipped,
        })
    }

    async fn with_progress<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let started = self.monotonic();
        tokio::pin!(work);
        loop {
            tokio::select! {
                result = &mut work => return result,
                () = self.shared.runtime.clock.sleep(PROGRESS) => {
                    self.emit(Event::SyncProgress { elapsed: self.monotonic().saturating_sub(started) });
                }
            }
        }
    }
}

fn too_slow(limit: Duration) -> Error {
    Error::sync(format!(
        "sync timed out after {}",
        crabbox_core::duration::format(limit)
    ))
    .with_hint("raise sync.timeout, or retry with --full-resync or a fresh lease")
}

struct Moved {
    look: Arc<Look>,
    written: u64,
    deleted: u64,
    bytes: u64,
    phases: Vec<PhaseTiming>,
}

/// Applies the checkout as it is when nobody writes to it.
async fn apply_settled(
    engine: &Engine,
    mut look: Arc<Look>,
    directory: HostDirectory,
    wish: SyncWish,
) -> Result<Moved> {
    let mut attempt = 1;
    loop {
        match apply(engine, Arc::clone(&look), directory.clone(), wish).await {
            Ok(moved) => return Ok(moved),
            Err(error) => look = engine.look_again(&look, attempt, error).await?,
        }
        attempt += 1;
    }
}

/// The workspace is a directory of this machine: only what differs is copied.
///
/// When the operation is cancelled or takes too long, this returns once the copying has stopped: a box cannot be given
/// back while files are still written to it. When this future is dropped, the copying stops soon. The next sync repairs
/// what either left.
async fn apply(engine: &Engine, look: Arc<Look>, directory: HostDirectory, wish: SyncWish) -> Result<Moved> {
    let stop = StopOnDrop(Arc::new(AtomicBool::new(false)));
    let flag = Arc::clone(&stop.0);
    let copying = blocking(move || {
        let started = std::time::Instant::now();
        let options = ApplyOptions {
            delete: wish.delete,
            checksum: wish.checksum,
        };
        let report = apply_until(&look.root, &look.manifest, &directory, &options, &flag)?;
        Ok(Moved {
            written: report.written,
            deleted: report.deleted,
            bytes: report.bytes,
            phases: vec![PhaseTiming::ran("manifest_apply", started.elapsed())],
            look,
        })
    });
    tokio::pin!(copying);
    let reason = tokio::select! {
        biased;
        () = engine.shared.cancel.cancelled() => interrupted(),
        result = &mut copying => return result,
        () = tokio::time::sleep(wish.timeout) => too_slow(wish.timeout),
    };
    drop(stop);
    // Its own error says only that it was stopped.
    let _ = copying.await;
    Err(reason)
}

struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The workspace is elsewhere: everything travels as one archive that replaces what is there.
async fn archive(
    engine: &Engine,
    remote: &Arc<dyn Remote>,
    workdir: &RemotePath,
    look: Arc<Look>,
    wish: SyncWish,
) -> Result<Moved> {
    let mut options = RemoteArchiveOptions::new()?;
    options.delete = wish.delete;
    options.timeout = Some(wish.timeout);
    // Ended by the token and not by dropping, so that what the transfer left on the box is removed.
    options.cancel = engine.shared.cancel.clone();
    let packed = look.archive.lock().ok().and_then(|mut slot| slot.take());
    let (look, archive) = match packed {
        Some(archive) => (look, archive),
        None => engine.pack(look).await?,
    };
    let files = look.manifest.len() as u64;
    let bytes = archive.length();
    let report = sync_archive(&**remote, &archive, workdir, &options).await?;
    for warning in report.warnings {
        engine.warn(warning);
    }
    let phases = report
        .phases
        .into_iter()
        .map(|phase| PhaseTiming::ran(phase.name, phase.duration))
        .collect();
    Ok(Moved {
        written: files,
        deleted: 0,
        bytes,
        phases,
        look,
    })
}
