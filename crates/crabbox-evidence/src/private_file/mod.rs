//! Files that a run leaves on this machine, for its owner only.
//!
//! A target is never opened: a temp file beside it is written and renamed over it, so that a symlink at the target is
//! replaced and not followed, and permissions of an old file never matter.

mod outputs;

pub use outputs::{Output, OutputKind, OutputSet};

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crabbox_core::{Error, ErrorKind, IntoError as _, Result};
use tempfile::{Builder, NamedTempFile};

const OWNER_ONLY: u32 = 0o600;
const MAX_PREFIX_BYTES: usize = 100;

/// A file in the making.
#[derive(Debug)]
pub struct PrivateFile {
    path: PathBuf,
    state: State,
    written: u64,
}

#[derive(Debug)]
enum State {
    /// Beside the target until it is finished.
    Staged(NamedTempFile),
    /// At the target already.
    Live(File),
}

impl PrivateFile {
    /// Starts a file that appears at its path when it is [finished](Self::finish), and not at all otherwise. Missing
    /// directories are created with mode 0700.
    ///
    /// # Errors
    ///
    /// `Usage` when the path is a directory or a device, or the temp file cannot be created.
    pub fn create(path: &Path) -> Result<Self> {
        create_parent(path)?;
        Ok(Self {
            path: path.to_path_buf(),
            state: State::Staged(stage(path, OWNER_ONLY)?),
            written: 0,
        })
    }

    /// Starts a file that replaces what is at its path now, and grows there. The directory must exist.
    ///
    /// # Errors
    ///
    /// As for [`create`](Self::create).
    pub fn create_live(path: &Path) -> Result<Self> {
        let file = stage(path, OWNER_ONLY)?;
        let file = persist(file, path)?;
        Ok(Self {
            path: path.to_path_buf(),
            state: State::Live(file),
            written: 0,
        })
    }

    /// Where the file is, or will be.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes written so far.
    pub fn written_bytes(&self) -> u64 {
        self.written
    }

    /// Makes the content durable and the file visible. Returns its size.
    ///
    /// # Errors
    ///
    /// `Usage` when that fails; a staged file is then gone.
    pub fn finish(self) -> Result<u64> {
        let words = || format!("write `{}`", self.path.display());
        match self.state {
            State::Staged(file) => {
                file.as_file().sync_all().or_error(ErrorKind::Usage, words)?;
                persist(file, &self.path)?;
                sync_directory(&self.path);
            }
            State::Live(file) => file.sync_all().or_error(ErrorKind::Usage, words)?,
        }
        Ok(self.written)
    }

    /// A file on a device that is always full.
    #[cfg(test)]
    #[cfg(target_os = "linux")]
    pub(crate) fn full_for_tests() -> Self {
        let path = PathBuf::from("/dev/full");
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        Self {
            path,
            state: State::Live(file),
            written: 0,
        }
    }

    fn file(&mut self) -> &mut File {
        match &mut self.state {
            State::Staged(file) => file.as_file_mut(),
            State::Live(file) => file,
        }
    }
}

impl Write for PrivateFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file().write(bytes)?;
        self.written += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file().flush()
    }
}

/// Writes a whole file that its owner alone can read.
///
/// # Errors
///
/// As for [`PrivateFile::create`] and [`PrivateFile::finish`].
pub fn write_private(path: &Path, content: &[u8]) -> Result<()> {
    let mut file = PrivateFile::create(path)?;
    file.write_all(content)
        .or_error(ErrorKind::Usage, || format!("write `{}`", path.display()))?;
    file.finish().map(drop)
}

/// Writes a whole file with mode 0644, for other programs to read.
///
/// # Errors
///
/// As for [`write_private`].
pub fn write_shared(path: &Path, content: &[u8]) -> Result<()> {
    let words = || format!("write `{}`", path.display());
    let mut file = stage(path, 0o644)?;
    file.write_all(content).or_error(ErrorKind::Usage, words)?;
    file.as_file().sync_all().or_error(ErrorKind::Usage, words)?;
    persist(file, path)?;
    sync_directory(path);
    Ok(())
}

/// Appends one line to a file with mode 0600, under a lock that other writers respect. A last line that a crash left
/// unfinished is closed first, so that it spoils only itself.
///
/// # Errors
///
/// `Usage` when the file cannot be opened, is not a regular file, or cannot be written.
pub fn append_line(path: &Path, line: &str) -> Result<()> {
    let words = || format!("append to `{}`", path.display());
    create_parent(path)?;
    refuse_special(path)?;
    let mut options = OpenOptions::new();
    options.read(true).append(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, OWNER_ONLY);
    let mut file = options.open(path).or_error(ErrorKind::Usage, words)?;
    file.lock().or_error(ErrorKind::Usage, words)?;
    let mut bytes = Vec::with_capacity(line.len() + 2);
    if file.metadata().or_error(ErrorKind::Usage, words)?.len() > 0 {
        let mut last = [0];
        file.seek(SeekFrom::End(-1)).or_error(ErrorKind::Usage, words)?;
        file.read_exact(&mut last).or_error(ErrorKind::Usage, words)?;
        if last != *b"\n" {
            bytes.push(b'\n');
        }
    }
    bytes.extend_from_slice(line.as_bytes());
    bytes.push(b'\n');
    file.write_all(&bytes).or_error(ErrorKind::Usage, words)?;
    file.sync_data().or_error(ErrorKind::Usage, words)
}

/// Creates the directories above a path that are missing, for their owner only.
fn create_parent(path: &Path) -> Result<()> {
    let parent = parent(path);
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder
        .create(parent)
        .or_error(ErrorKind::Usage, || format!("create directory `{}`", parent.display()))
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Refuses what a rename would destroy, or what is no file.
fn refuse_special(path: &Path) -> Result<()> {
    let refuse = |what: &str| {
        Err(Error::usage(format!("output path is {what}: `{}`", path.display()))
            .with_hint("name a file in a directory of yours"))
    };
    if path.file_name().is_none() || path.as_os_str().as_encoded_bytes().ends_with(b"/") {
        return refuse("a directory");
    }
    let Ok(metadata) = fs::metadata(path) else {
        return Ok(());
    };
    if metadata.is_dir() {
        return refuse("a directory");
    }
    if !metadata.is_file() {
        return refuse("a device, pipe or socket");
    }
    Ok(())
}

fn stage(path: &Path, mode: u32) -> Result<NamedTempFile> {
    refuse_special(path)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let prefix = format!(".{}.crabbox-", crate::text::cut(&name, MAX_PREFIX_BYTES));
    let mut builder = Builder::new();
    builder.prefix(&prefix).suffix("");
    let words = || format!("create `{}`", path.display());
    let file = builder.tempfile_in(parent(path)).or_error(ErrorKind::Usage, words)?;
    set_mode(file.as_file(), mode).or_error(ErrorKind::Usage, words)?;
    Ok(file)
}

/// Sets the mode on the handle and looks again: some file systems accept a mode and ignore it.
#[cfg(unix)]
fn set_mode(file: &File, mode: u32) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    let found = file.metadata()?.permissions().mode() & 0o777;
    if found & !mode != 0 {
        return Err(io::Error::other(format!(
            "the file system keeps mode {found:04o} instead of {mode:04o}"
        )));
    }
    Ok(())
}

#[cfg(not(unix))]
fn set_mode(_file: &File, _mode: u32) -> io::Result<()> {
    // A new file inherits the access list of its directory.
    Ok(())
}

fn persist(file: NamedTempFile, path: &Path) -> Result<File> {
    file.persist(path)
        .map_err(|error| error.error)
        .or_error(ErrorKind::Usage, || format!("replace `{}`", path.display()))
}

/// Makes a rename durable as far as the file system can.
fn sync_directory(path: &Path) {
    if let Ok(directory) = File::open(parent(path)) {
        // Some file systems cannot sync a directory; the content itself is already durable.
        let _ = directory.sync_all();
    }
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::fs;
    use std::io::Write as _;
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use std::path::Path;

    use super::{PrivateFile, append_line, write_private, write_shared};

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn files_and_new_directories_are_for_their_owner() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a/b/out.txt");
        write_private(&path, b"x").unwrap();
        assert_eq!(
            (
                mode(&path),
                mode(&directory.path().join("a")),
                mode(path.parent().unwrap())
            ),
            (0o600, 0o700, 0o700)
        );
        write_shared(&path, b"y").unwrap();
        assert_eq!((mode(&path), fs::read(&path).unwrap()), (0o644, b"y".to_vec()));
        write_private(&path, b"z").unwrap();
        assert_eq!(mode(&path), 0o600);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_symlink_is_replaced_and_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let (target, link) = (directory.path().join("target"), directory.path().join("link"));
        for live in [false, true] {
            write_private(&target, b"mine").unwrap();
            let _ = fs::remove_file(&link);
            symlink(&target, &link).unwrap();
            let mut file = if live {
                PrivateFile::create_live(&link)
            } else {
                PrivateFile::create(&link)
            }
            .unwrap();
            file.write_all(b"new").unwrap();
            assert_eq!(file.finish().unwrap(), 3);
            assert_eq!(fs::read(&target).unwrap(), b"mine");
            assert!(fs::symlink_metadata(&link).unwrap().is_file());
        }
    }

    #[test]
    fn an_unfinished_file_never_appears() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("out");
        let mut file = PrivateFile::create(&path).unwrap();
        file.write_all(b"half").unwrap();
        drop(file);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
        let mut file = PrivateFile::create_live(&path).unwrap();
        file.write_all(b"half").unwrap();
        assert_eq!((fs::read(&path).unwrap(), file.written_bytes()), (b"half".to_vec(), 4));
    }

    #[test]
    fn directories_and_devices_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let link = directory.path().join("null");
        symlink("/dev/null", &link).unwrap();
        for path in [
            directory.path(),
            Path::new("/dev/null"),
            &link,
            &directory.path().join("x/"),
        ] {
            for error in [
                PrivateFile::create(path).unwrap_err(),
                PrivateFile::create_live(path).unwrap_err(),
            ] {
                assert_eq!(error.kind().exit_code(), 2);
                assert!(error.message().starts_with("output path is a "), "{error}");
            }
        }
        assert!(append_line(Path::new("/dev/null"), "x").is_err());
        assert!(PrivateFile::create_live(&directory.path().join("absent/x")).is_err());
    }

    #[test]
    fn appended_lines_stay_lines() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state/timings.jsonl");
        append_line(&path, "{}").unwrap();
        fs::OpenOptions::new()
            .append(true)
            .open(&path)
            .unwrap()
            .write_all(b"{\"cut")
            .unwrap();
        append_line(&path, "[]").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "{}\n{\"cut\n[]\n");
        assert_eq!(mode(&path), 0o600);
    }

    #[test]
    fn concurrent_appends_do_not_mix() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("timings.jsonl");
        std::thread::scope(|scope| {
            for letter in ["a", "b", "c", "d"] {
                let path = &path;
                scope.spawn(move || (0..20).for_each(|_| append_line(path, &letter.repeat(5_000)).unwrap()));
            }
        });
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 80);
        assert!(
            text.lines()
                .all(|line| line.len() == 5_000 && line.bytes().all(|byte| byte == line.as_bytes()[0]))
        );
    }
}
