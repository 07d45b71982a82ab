//! The one place that changes files: durable, atomic, private, and observable step by step.

mod failure;
mod names;

use std::fmt;
use std::fs;
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::Arc;

use crabbox_core::Result;
pub(crate) use failure::io_error;
pub use failure::lacks_space;
pub(crate) use names::{is_hidden, names, sweep};
use tempfile::{Builder, NamedTempFile};

/// One effect on the disk. An [`Disk::observed`] hook is called before each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Step {
    /// A directory is created.
    CreateDirectory,
    /// A temporary file is created beside its destination.
    CreateTemporary,
    /// Content goes into the temporary file.
    Write,
    /// The temporary file is flushed to the device.
    Sync,
    /// The temporary file or directory gets its final name.
    Publish,
    /// The directory entry is flushed to the device.
    SyncDirectory,
    /// Content is added to a file.
    Append,
    /// A file or directory moves.
    Rename,
    /// A file or directory goes.
    Remove,
}

type Hook = Arc<dyn Fn(Step, &Path) -> io::Result<()> + Send + Sync>;

/// How state reaches the disk.
///
/// A file is written beside its destination, flushed, renamed over it, and the directory is flushed, so a reader sees
/// the old content or the new, whatever happens in between. Directories get mode 0700, files 0600.
#[derive(Clone, Default)]
pub struct Disk {
    hook: Option<Hook>,
    unsynced: bool,
}

impl fmt::Debug for Disk {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Disk")
            .field("observed", &self.hook.is_some())
            .field("unsynced", &self.unsynced)
            .finish()
    }
}

impl Disk {
    /// The real disk, surviving a crash of the process and a loss of power.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same without flushing to the device: surviving a crash of the process, not a loss of power. For records
    /// whose subject does not survive that either.
    #[must_use]
    pub fn unsynced(&self) -> Self {
        Self {
            unsynced: true,
            ..self.clone()
        }
    }

    /// Calls a hook before each effect. Its error stands for the failure of that effect; it may also end the process.
    #[must_use]
    pub fn observed(&self, hook: impl Fn(Step, &Path) -> io::Result<()> + Send + Sync + 'static) -> Self {
        Self {
            hook: Some(Arc::new(hook)),
            ..self.clone()
        }
    }

    /// Tells the hook what is about to happen.
    pub(crate) fn before(&self, step: Step, path: &Path) -> io::Result<()> {
        self.hook.as_ref().map_or(Ok(()), |hook| hook(step, path))
    }

    /// Creates a directory and its missing parents, each durable in its own parent.
    ///
    /// # Errors
    /// `Usage` when a parent is not a directory or not writable, `Other` when the disk is full or fails.
    pub fn create_directory(&self, path: &Path) -> Result<()> {
        self.try_create_directory(path)
            .map_err(|cause| io_error("create directory", path, cause))
    }

    fn try_create_directory(&self, path: &Path) -> io::Result<()> {
        if path.is_dir() {
            return Ok(());
        }
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        if let Some(parent) = parent {
            self.try_create_directory(parent)?;
        }
        self.before(Step::CreateDirectory, path)?;
        match private_directory().create(path) {
            // Another process may have been faster; a file of that name is a failure.
            Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
            Err(cause) => Err(cause),
            Ok(()) => parent.map_or(Ok(()), |parent| self.sync_directory(parent)),
        }
    }

    /// Replaces a file's content, creating file and directories that are missing.
    ///
    /// # Errors
    /// `Usage` when the place is not writable, `Other` when the disk is full or fails. The previous content is intact
    /// unless only the flush of the directory failed, in which case either content may be found after a loss of power.
    pub fn replace(&self, path: &Path, content: &[u8]) -> Result<()> {
        self.create_parent(path)?;
        self.try_replace(path, content)
            .map_err(|cause| io_error("write", path, cause))
    }

    fn try_replace(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let temporary = self.temporary(path, content)?;
        self.before(Step::Publish, path)?;
        temporary.persist(path).map_err(|failure| failure.error)?;
        self.sync_directory(parent_of(path))
    }

    /// Creates a file with its content; `false` when something of that name exists already.
    ///
    /// # Errors
    /// As [`Disk::replace`].
    pub fn create(&self, path: &Path, content: &[u8]) -> Result<bool> {
        self.create_parent(path)?;
        self.try_create(path, content)
            .map_err(|cause| io_error("create", path, cause))
    }

    fn try_create(&self, path: &Path, content: &[u8]) -> io::Result<bool> {
        let temporary = self.temporary(path, content)?;
        self.before(Step::Publish, path)?;
        match temporary.persist_noclobber(path) {
            Ok(_) => self.sync_directory(parent_of(path)).map(|()| true),
            Err(failure) if failure.error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(failure) => Err(failure.error),
        }
    }

    /// Removes a file; `false` when there was none.
    ///
    /// # Errors
    /// `Usage` when the directory is not writable, `Other` when the disk fails.
    pub fn remove(&self, path: &Path) -> Result<bool> {
        let removed = self
            .before(Step::Remove, path)
            .and_then(|()| match fs::remove_file(path) {
                Ok(()) => self.sync_directory(parent_of(path)).map(|()| true),
                Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(false),
                Err(cause) => Err(cause),
            });
        removed.map_err(|cause| io_error("remove", path, cause))
    }

    /// Removes a directory with all it holds; `false` when there was none. Symbolic links are removed, not followed.
    ///
    /// The directory first moves to a hidden name, so that no reader sees half of it.
    ///
    /// # Errors
    /// As [`Disk::remove`].
    pub fn remove_directory(&self, path: &Path) -> Result<bool> {
        self.try_remove_directory(path)
            .map_err(|cause| io_error("remove directory", path, cause))
    }

    fn try_remove_directory(&self, path: &Path) -> io::Result<bool> {
        match fs::symlink_metadata(path) {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(cause) => return Err(cause),
            Ok(metadata) if !metadata.is_dir() => return Err(io::ErrorKind::NotADirectory.into()),
            Ok(_) => {}
        }
        let parent = parent_of(path);
        self.before(Step::CreateDirectory, path)?;
        let grave = hidden_directory(path, "removed")?;
        self.before(Step::Rename, path)?;
        match fs::rename(path, grave.path().join("content")) {
            // Another process removes it too, and was faster.
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(false),
            result => result?,
        }
        self.sync_directory(parent)?;
        self.before(Step::Remove, path)?;
        grave.close()?;
        Ok(true)
    }

    /// Moves a file or directory within one filesystem; refuses when the destination exists.
    ///
    /// # Errors
    /// `Usage` when the destination exists or is not writable, `Other` when the disk fails.
    pub fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.before(Step::Rename, to)
            .and_then(|()| rename_exclusive(from, to))
            .and_then(|()| self.sync_directory(parent_of(to)))
            .and_then(|()| {
                if parent_of(from) == parent_of(to) {
                    Ok(())
                } else {
                    self.sync_directory(parent_of(from))
                }
            })
            .map_err(|cause| io_error("move to", to, cause))
    }

    /// Publishes a directory under its final name as one step: it is filled while it is hidden. `false` when something
    /// of that name exists already.
    pub(crate) fn publish_directory(&self, path: &Path, fill: impl FnOnce(&Self, &Path) -> Result<()>) -> Result<bool> {
        self.create_parent(path)?;
        let fail = |cause| io_error("create directory", path, cause);
        self.before(Step::CreateDirectory, path).map_err(fail)?;
        let hidden = hidden_directory(path, "tmp").map_err(fail)?;
        fill(self, hidden.path())?;
        self.before(Step::Publish, path).map_err(fail)?;
        match rename_exclusive(hidden.path(), path) {
            Ok(()) => {
                // The name no longer belongs to the guard that would remove it.
                let _ = hidden.keep();
                self.sync_directory(parent_of(path)).map_err(fail)?;
                Ok(true)
            }
            Err(cause)
                if matches!(
                    cause.kind(),
                    io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty
                ) =>
            {
                Ok(false)
            }
            Err(cause) => Err(fail(cause)),
        }
    }

    /// Whether what is written is flushed to the device.
    pub(crate) fn is_synced(&self) -> bool {
        !self.unsynced
    }

    fn create_parent(&self, path: &Path) -> Result<()> {
        self.create_directory(parent_of(path))
    }

    fn temporary(&self, path: &Path, content: &[u8]) -> io::Result<NamedTempFile> {
        self.before(Step::CreateTemporary, path)?;
        // The builder creates exclusively with mode 0600 and removes the file unless it is persisted.
        let mut file = Builder::new()
            .prefix(&hidden_prefix(path, "tmp"))
            .tempfile_in(parent_of(path))?;
        self.before(Step::Write, path)?;
        file.write_all(content)?;
        if !self.unsynced {
            self.before(Step::Sync, path)?;
            file.as_file().sync_all()?;
        }
        Ok(file)
    }

    pub(crate) fn sync_directory(&self, path: &Path) -> io::Result<()> {
        if self.unsynced {
            return Ok(());
        }
        self.before(Step::SyncDirectory, path)?;
        sync_directory(path)
    }
}

#[cfg(unix)]
fn sync_directory(path: &Path) -> io::Result<()> {
    match fs::File::open(path)?.sync_all() {
        // Some network and user-space filesystems cannot flush a directory; there is nothing better to do on them.
        Err(cause) if matches!(cause.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => Ok(()),
        result => result,
    }
}

#[cfg(not(unix))]
fn sync_directory(_: &Path) -> io::Result<()> {
    // Directories cannot be flushed here; the rename itself is written through.
    Ok(())
}

/// A builder of directories that only the user may enter.
pub(crate) fn private_directory() -> fs::DirBuilder {
    #[cfg_attr(not(unix), expect(unused_mut, reason = "the mode is set on Unix only"))]
    let mut builder = fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder
}

#[cfg(any(target_os = "linux", target_os = "macos"))]
fn rename_exclusive(from: &Path, to: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    use rustix::io::Errno;
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => rename_checked(from, to),
        result => Ok(result?),
    }
}

#[cfg(not(any(target_os = "linux", target_os = "macos")))]
fn rename_exclusive(from: &Path, to: &Path) -> io::Result<()> {
    rename_checked(from, to)
}

/// The best there is where the kernel has no exclusive rename: a full directory is never replaced anyway.
fn rename_checked(from: &Path, to: &Path) -> io::Result<()> {
    if fs::symlink_metadata(to).is_ok() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    fs::rename(from, to)
}

fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn hidden_prefix(path: &Path, what: &str) -> String {
    format!(".{}.{what}-", path.file_name().unwrap_or_default().to_string_lossy())
}

/// Makes a directory of a hidden name beside a path; it goes when the guard does.
fn hidden_directory(path: &Path, what: &str) -> io::Result<tempfile::TempDir> {
    let prefix = hidden_prefix(path, what);
    let mut builder = Builder::new();
    builder.prefix(&prefix);
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o700));
    builder.tempdir_in(parent_of(path))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use crabbox_core::ErrorKind;

    use super::*;

    fn root() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    #[cfg(unix)]
    fn mode(path: &Path) -> u32 {
        use std::os::unix::fs::PermissionsExt as _;
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[cfg(unix)]
    #[test]
    fn files_and_directories_are_private() {
        let root = root();
        let file = root.path().join("a/b/c.json");
        Disk::new().replace(&file, b"one").unwrap();
        assert_eq!(
            (mode(&file), mode(file.parent().unwrap()), mode(&root.path().join("a"))),
            (0o600, 0o700, 0o700)
        );
        Disk::new().replace(&file, b"two").unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"two");
        assert_eq!(names(file.parent().unwrap()).unwrap().len(), 1);
    }

    #[test]
    fn creation_is_exclusive() {
        let root = root();
        let file = root.path().join("x");
        assert!(Disk::new().create(&file, b"one").unwrap());
        assert!(!Disk::new().create(&file, b"two").unwrap());
        assert_eq!(fs::read(&file).unwrap(), b"one");
        assert_eq!(names(root.path()).unwrap().len(), 1);
    }

    #[test]
    fn a_failure_of_any_step_before_publication_keeps_the_old_content() {
        let root = root();
        let file = root.path().join("x");
        for failing in [Step::CreateTemporary, Step::Write, Step::Sync, Step::Publish] {
            Disk::new().replace(&file, b"old").unwrap();
            let full = Disk::new().observed(move |step, _| {
                if step == failing {
                    Err(io::ErrorKind::StorageFull.into())
                } else {
                    Ok(())
                }
            });
            let error = full.replace(&file, b"new").unwrap_err();
            assert!(
                error.to_string().starts_with(&format!("write: `{}`: ", file.display())),
                "{error}"
            );
            assert_eq!(
                error.hint(),
                Some("free some disk space and try again; what was stored before is unchanged")
            );
            assert_eq!(fs::read(&file).unwrap(), b"old");
            assert_eq!(
                names(root.path()).unwrap().len(),
                1,
                "{failing:?} leaves a temporary file"
            );
        }
    }

    #[test]
    fn the_order_of_effects_makes_a_write_durable() {
        let root = root();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let disk = Disk::new().observed({
            let seen = Arc::clone(&seen);
            move |step, _| {
                seen.lock().unwrap().push(step);
                Ok(())
            }
        });
        disk.replace(&root.path().join("new/x"), b"1").unwrap();
        use Step::{CreateDirectory, CreateTemporary, Publish, Sync, SyncDirectory, Write};
        assert_eq!(
            *seen.lock().unwrap(),
            [
                CreateDirectory,
                SyncDirectory,
                CreateTemporary,
                Write,
                Sync,
                Publish,
                SyncDirectory
            ]
        );
        seen.lock().unwrap().clear();
        disk.unsynced().replace(&root.path().join("x"), b"1").unwrap();
        assert_eq!(*seen.lock().unwrap(), [CreateTemporary, Write, Publish]);
    }

    #[test]
    fn a_file_where_a_directory_should_be_is_the_users_to_move() {
        let root = root();
        Disk::new().replace(&root.path().join("claims"), b"").unwrap();
        let error = Disk::new()
            .replace(&root.path().join("claims/x.json"), b"")
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage, "{error}");
        assert!(error.hint().is_some());
    }

    #[test]
    fn directories_move_and_go_as_a_whole() {
        let root = root();
        let (one, two) = (root.path().join("one"), root.path().join("two"));
        let disk = Disk::new();
        disk.replace(&one.join("x"), b"1").unwrap();
        disk.rename(&one, &two).unwrap();
        disk.replace(&one.join("y"), b"1").unwrap();
        assert_eq!(disk.rename(&one, &two).unwrap_err().kind(), ErrorKind::Usage);
        assert!(disk.remove_directory(&two).unwrap());
        assert!(!disk.remove_directory(&two).unwrap());
        assert_eq!(names(root.path()).unwrap(), ["one"]);
    }
}
