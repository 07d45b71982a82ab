//! Files of the box, opened by its first process, so with the rights and the view of the box: a hostile link leads
//! nowhere that the box could not go itself.

use std::os::fd::OwnedFd;
use std::path::Path;

use crabbox_core::error::{Error, ErrorKind, IntoError as _, Result};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags};

/// Opens a regular file.
pub(super) fn open_for_reading(path: &str) -> Result<OwnedFd> {
    let failed = || format!("open in the box: {path}");
    // Without NONBLOCK a pipe would hold the first process until somebody writes into it.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty()).or_error(ErrorKind::Remote, failed)?;
    let stat = rustix::fs::fstat(&file).or_error(ErrorKind::Remote, failed)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Error::remote(format!("not a regular file in the box: {path}")));
    }
    Ok(file)
}

/// A file that takes its place when it is complete.
#[derive(Debug)]
pub(super) struct PendingFile {
    directory: OwnedFd,
    draft: String,
    name: String,
    path: String,
    mode: u32,
    committed: bool,
}

impl PendingFile {
    /// Makes the directories that are missing and an empty file beside the one to replace.
    pub(super) fn new(path: &str, mode: u32) -> Result<(Self, OwnedFd)> {
        let failed = || format!("write in the box: {path}");
        let (parent, name) = path
            .rsplit_once('/')
            .filter(|(_, name)| !name.is_empty())
            .ok_or_else(|| Error::remote(format!("not the path of a file in the box: {path}")))?;
        let parent = if parent.is_empty() { "/" } else { parent };
        std::fs::create_dir_all(parent).or_error(ErrorKind::Remote, failed)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(parent, flags, Mode::empty()).or_error(ErrorKind::Remote, failed)?;
        let draft = format!(".crabbox-{}", crate::token(8));
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&directory, &draft, flags, Mode::from_raw_mode(0o600))
            .or_error(ErrorKind::Remote, failed)?;
        let pending = Self {
            directory,
            draft,
            name: name.to_owned(),
            path: path.to_owned(),
            mode,
            committed: false,
        };
        Ok((pending, file))
    }

    /// Puts it into its place.
    pub(super) fn commit(mut self) -> Result<()> {
        let failed = || format!("write in the box: {}", self.path);
        let mode = Mode::from_raw_mode(self.mode & 0o777);
        rustix::fs::chmodat(&self.directory, &self.draft, mode, AtFlags::empty())
            .or_error(ErrorKind::Remote, failed)?;
        rustix::fs::renameat(&self.directory, &self.draft, &self.directory, &self.name)
            .or_error(ErrorKind::Remote, failed)?;
        self.committed = true;
        Ok(())
    }
}

impl Drop for PendingFile {
    fn drop(&mut self) {
        if !self.committed {
            let _ = rustix::fs::unlinkat(&self.directory, &self.draft, AtFlags::empty());
        }
    }
}

/// Opens a directory below another without following links, making what is missing.
pub(super) fn open_directory(root: &str, below: &str) -> Result<OwnedFd> {
    let path = Path::new(root).join(below);
    let failed = || format!("open the directory in the box: {}", path.display());
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut directory = rustix::fs::openat(CWD, root, flags, Mode::empty()).or_error(ErrorKind::Remote, failed)?;
    for part in below.split('/').filter(|part| !part.is_empty()) {
        match rustix::fs::mkdirat(&directory, part, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(Error::remote(failed()).with_source(error)),
        }
        let resolve =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        directory = rustix::fs::openat2(&directory, part, flags, Mode::empty(), resolve)
            .or_error(ErrorKind::Remote, failed)
            .map_err(|error| error.with_hint("something in the box put a link in its place; use a fresh box"))?;
    }
    Ok(directory)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn directories_are_made_and_links_refused() {
        let root = tempfile::tempdir().unwrap();
        let text = root.path().to_str().unwrap();
        open_directory(text, "a/b/c").unwrap();
        assert!(root.path().join("a/b/c").is_dir());
        open_directory(text, "").unwrap();
        symlink("/etc", root.path().join("link")).unwrap();
        for bad in ["link", "link/ssh", "a/../../x"] {
            assert!(open_directory(text, bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_file_takes_its_place_only_when_complete() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("deep/file");
        let text = path.to_str().unwrap();
        let (pending, file) = PendingFile::new(text, 0o4755).unwrap();
        rustix::io::write(&file, b"x").unwrap();
        drop(pending);
        assert_eq!(std::fs::read_dir(root.path().join("deep")).unwrap().count(), 0);
        let (pending, file) = PendingFile::new(text, 0o4755).unwrap();
        rustix::io::write(&file, b"y").unwrap();
        pending.commit().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"y");
        let mode = rustix::fs::stat(&path).unwrap().st_mode & 0o7777;
        assert_eq!(mode, 0o755);
        assert!(PendingFile::new(&format!("{text}/below"), 0o644).is_err());
    }

    #[test]
    fn only_regular_files_are_opened() {
        let root = tempfile::tempdir().unwrap();
        let pipe = root.path().join("pipe");
        rustix::fs::mknodat(CWD, &pipe, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        assert!(open_for_reading(pipe.to_str().unwrap()).is_err());
        assert!(open_for_reading(root.path().to_str().unwrap()).is_err());
        assert!(open_for_reading("/nonexistent").is_err());
    }
}
