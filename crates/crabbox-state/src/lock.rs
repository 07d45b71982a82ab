//! Advisory locks between processes and threads.
//!
//! The lock belongs to the open file (`flock` on Unix), as in the Go implementation, so it excludes other threads of
//! this process as well as other processes, and the system drops it when its holder dies.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crabbox_core::{Error, Result};

use crate::disk::{Disk, io_error};

const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(25);

/// How long to wait for somebody else.
#[derive(Clone, Copy, Default)]
pub struct Wait<'a> {
    longest: Option<Duration>,
    cancelled: Option<&'a (dyn Fn() -> bool + Send + Sync)>,
}

impl<'a> Wait<'a> {
    /// Waits as long as it takes.
    pub const fn forever() -> Self {
        Self {
            longest: None,
            cancelled: None,
        }
    }

    /// Waits at most this long.
    pub const fn at_most(longest: Duration) -> Self {
        Self {
            longest: Some(longest),
            cancelled: None,
        }
    }

    /// Ends the wait as soon as the function returns `true`; it is asked every few milliseconds.
    #[must_use]
    pub const fn unless(mut self, cancelled: &'a (dyn Fn() -> bool + Send + Sync)) -> Self {
        self.cancelled = Some(cancelled);
        self
    }
}

/// Holds a lock until it is dropped. It can be held across an `await` and moves between threads.
#[derive(Debug)]
#[must_use = "the lock is given back at once when its guard is dropped"]
pub struct LockGuard {
    file: File,
    path: PathBuf,
}

impl LockGuard {
    /// The file that carries the lock.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for LockGuard {
    fn drop(&mut self) {
        // Closing alone would keep the lock as long as a child that was just forked has the file open.
        let _ = self.file.unlock();
    }
}

/// Takes a lock if nobody holds it. The lock file is created when missing, and stays.
///
/// # Errors
/// `Usage` when the lock file cannot be created or is not a regular file, `Other` when the disk fails.
pub fn try_lock(disk: &Disk, path: &Path) -> Result<Option<LockGuard>> {
    let file = open(disk, path)?;
    try_file(file, path).map(Result::ok)
}

/// Takes a lock, waiting for whoever holds it.
///
/// # Errors
/// As [`try_lock`]; `Readiness`, retryable, when the wait is over; `Other`, cancelled, when it was ended.
pub fn lock(disk: &Disk, path: &Path, wait: &Wait<'_>) -> Result<LockGuard> {
    let mut file = open(disk, path)?;
    let mut pause = Pause::new(wait);
    loop {
        match try_file(file, path)? {
            Ok(guard) => return Ok(guard),
            Err(busy) => file = busy,
        }
        pause.next(path)?;
    }
}

/// Locks an existing file or directory that is replaced by renaming, without a lock file beside it; `None` when it
/// does not exist.
///
/// The lock is only good while its file is the one under that name: a holder publishes once, as its last act, and a
/// waiter that wakes on a replaced file tries the new one.
#[cfg(unix)]
pub(crate) fn lock_in_place(path: &Path, wait: &Wait<'_>) -> Result<Option<LockGuard>> {
    use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};

    use rustix::fs::OFlags;

    let fail = |cause| io_error("lock", path, cause);
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC)
        .bits()
        .cast_signed();
    let mut pause = Pause::new(wait);
    loop {
        let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
            Ok(file) => file,
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(cause) => return Err(fail(cause)),
        };
        if let Ok(guard) = try_file(file, path)? {
            let held = guard.file.metadata().map_err(fail)?;
            match std::fs::symlink_metadata(path) {
                Ok(named) if (named.dev(), named.ino()) == (held.dev(), held.ino()) => return Ok(Some(guard)),
                Ok(_) => continue,
                Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(cause) => return Err(fail(cause)),
            }
        }
        pause.next(path)?;
    }
}

/// Where a file cannot be recognised by number, a hidden lock file beside it carries the lock.
#[cfg(not(unix))]
pub(crate) fn lock_in_place(path: &Path, wait: &Wait<'_>) -> Result<Option<LockGuard>> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let guard = lock(&Disk::new(), &path.with_file_name(format!(".{name}.lock")), wait)?;
    Ok(path.exists().then_some(guard))
}

struct Pause<'a> {
    wait: &'a Wait<'a>,
    started: Instant,
    next: Duration,
}

impl<'a> Pause<'a> {
    fn new(wait: &'a Wait<'a>) -> Self {
        Self {
            wait,
            started: Instant::now(),
            next: FIRST_PAUSE,
        }
    }

    fn next(&mut self, path: &Path) -> Result<()> {
        if self.wait.cancelled.is_some_and(|cancelled| cancelled()) {
            return Err(Error::cancelled(format!(
                "interrupted while waiting for lock: `{}`",
                path.display()
            )));
        }
        let mut pause = self.next;
        if let Some(longest) = self.wait.longest {
            let left = longest.saturating_sub(self.started.elapsed());
            if left.is_zero() {
                return Err(
                    Error::readiness(format!("locked by another process: `{}`", path.display()))
                        .with_facts(|facts| facts.retryable = true)
                        .with_hint("another crabbox works on this lease; wait for it to end and try again"),
                );
            }
            pause = pause.min(left);
        }
        thread::sleep(pause);
        self.next = (self.next * 2).min(LONGEST_PAUSE);
        Ok(())
    }
}

/// Returns the file when somebody else holds its lock.
fn try_file(file: File, path: &Path) -> Result<std::result::Result<LockGuard, File>> {
    match file.try_lock() {
        Ok(()) => Ok(Ok(LockGuard {
            file,
            path: path.to_path_buf(),
        })),
        Err(TryLockError::WouldBlock) => Ok(Err(file)),
        Err(TryLockError::Error(cause)) => Err(io_error("lock", path, cause)),
    }
}

fn open(disk: &Disk, path: &Path) -> Result<File> {
    if let Some(parent) = path.parent() {
        disk.create_directory(parent)?;
    }
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;

        use rustix::fs::OFlags;
        options.mode(0o600).custom_flags(
            (OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC)
                .bits()
                .cast_signed(),
        );
    }
    options.open(path).map_err(|cause| io_error("open lock", path, cause))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use crabbox_core::ErrorKind;

    use super::*;

    const fn assert_send<T: Send>() {}
    const _: () = assert_send::<LockGuard>();

    #[test]
    fn a_held_lock_is_seen_by_the_same_process_and_ends_with_its_guard() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("locks/x.lock");
        let disk = Disk::new();
        let guard = try_lock(&disk, &path).unwrap().unwrap();
        assert!(try_lock(&disk, &path).unwrap().is_none());
        let error = lock(&disk, &path, &Wait::at_most(Duration::from_millis(5))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Readiness);
        assert!(error.is_retryable());
        let error = lock(&disk, &path, &Wait::forever().unless(&|| true)).unwrap_err();
        assert!(error.is_cancelled());
        drop(guard);
        assert!(try_lock(&disk, &path).unwrap().is_some());
        assert!(path.exists());
    }

    #[test]
    fn threads_exclude_each_other() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("x.lock");
        let (inside, total) = (AtomicUsize::new(0), AtomicUsize::new(0));
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..25 {
                        let _guard = lock(&Disk::new(), &path, &Wait::forever()).unwrap();
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        total.fetch_add(1, Ordering::SeqCst);
                        inside.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert_eq!(total.into_inner(), 100);
    }

    #[test]
    fn a_file_locked_in_place_may_be_replaced_by_its_holder() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("counter");
        let disk = Disk::new().unsynced();
        assert!(lock_in_place(&path, &Wait::forever()).unwrap().is_none());
        disk.replace(&path, b"0").unwrap();
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let _guard = lock_in_place(&path, &Wait::forever()).unwrap().unwrap();
                        let count: u32 = std::fs::read_to_string(&path).unwrap().parse().unwrap();
                        disk.replace(&path, (count + 1).to_string().as_bytes()).unwrap();
                    }
                });
            }
        });
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "200");
    }

    #[cfg(unix)]
    #[test]
    fn a_planted_link_is_not_followed() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("x.lock");
        std::os::unix::fs::symlink(root.path().join("elsewhere"), &path).unwrap();
        assert!(try_lock(&Disk::new(), &path).is_err());
        assert!(!root.path().join("elsewhere").exists());
    }
}
