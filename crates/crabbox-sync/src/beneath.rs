//! Directories opened below a root, one component at a time, without ever following a symbolic link.
//!
//! What lies below the root may have been planted by a hostile box. Every operation names one component relative to an
//! open directory, so neither `..` nor a link that appears between two steps can lead outside.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Uid};
use rustix::io::Errno;

/// Depth from which a directory is moved up before it is removed, so that no depth of nesting uses up the descriptors.
const DEEP: usize = 64;

/// What to do about a directory that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    /// Fail.
    Fail,
    /// Make it; fail when something else is in its place.
    Create,
    /// Make it; a file or link in its place is removed.
    Replace,
}

/// A root directory and the chain of open directories down to where the last operation was.
pub(crate) struct Beneath {
    root: OwnedFd,
    /// User and group of what is made.
    owner: Option<(u32, u32)>,
    open: Vec<(Vec<u8>, OwnedFd)>,
}

impl Beneath {
    /// Opens a root. The path to it is trusted, its last component must not be a link.
    pub(crate) fn open(root: &Path) -> io::Result<Self> {
        let root = rustix::fs::open(root, directory_flags(), Mode::empty())?;
        Ok(Self {
            root,
            owner: None,
            open: Vec::new(),
        })
    }

    /// Gives everything that is made from now on to a user and group.
    pub(crate) fn owned_by(mut self, owner: Option<(u32, u32)>) -> Self {
        self.owner = owner;
        self
    }

    /// The same root for another thread. The path to it is not walked again.
    pub(crate) fn another(&self) -> io::Result<Self> {
        Ok(Self {
            root: self.root.try_clone()?,
            owner: self.owner,
            open: Vec::new(),
        })
    }

    /// Opens a directory below the root; an empty path is the root itself.
    pub(crate) fn enter(&mut self, directory: &[u8], missing: Missing) -> io::Result<BorrowedFd<'_>> {
        let parts: Vec<&[u8]> = match directory {
            b"" => Vec::new(),
            directory => directory.split(|byte| *byte == b'/').collect(),
        };
        let common = self
            .open
            .iter()
            .zip(&parts)
            .take_while(|((open, _), part)| open == *part)
            .count();
        self.open.truncate(common);
        for part in &parts[common..] {
            let parent = self.current();
            let child = open_directory(parent, part, missing, self.owner)?;
            self.open.push((part.to_vec(), child));
        }
        Ok(self.current())
    }

    /// Opens the directory that holds a path, and returns it with the last component.
    pub(crate) fn enter_parent<'a>(
        &mut self,
        path: &'a [u8],
        missing: Missing,
    ) -> io::Result<(BorrowedFd<'_>, &'a [u8])> {
        let (parent, name) = split(path);
        Ok((self.enter(parent, missing)?, name))
    }

    /// Closes all directories but the root.
    pub(crate) fn reset(&mut self) {
        self.open.clear();
    }

    /// User and group of what is made.
    pub(crate) fn owner(&self) -> Option<(u32, u32)> {
        self.owner
    }

    fn current(&self) -> BorrowedFd<'_> {
        self.open.last().map_or(self.root.as_fd(), |(_, open)| open.as_fd())
    }
}

/// A path's directory and its last component.
pub(crate) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

fn directory_flags() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

fn open_directory(
    parent: BorrowedFd<'_>,
    name: &[u8],
    missing: Missing,
    owner: Option<(u32, u32)>,
) -> io::Result<OwnedFd> {
    if matches!(name, b"" | b"." | b"..") {
        return Err(Errno::INVAL.into());
    }
    // Several workers may make the same directory, each seeing a different moment of the other's work.
    let mut last = Errno::LOOP;
    let mut made = false;
    for _ in 0..8 {
        match rustix::fs::openat(parent, name, directory_flags(), Mode::empty()) {
            Ok(directory) => {
                if made {
                    give(&directory, owner)?;
                }
                return Ok(directory);
            }
            Err(error) => last = error,
        }
        match (last, missing) {
            (Errno::NOENT, Missing::Create | Missing::Replace) => {}
            (Errno::LOOP | Errno::NOTDIR | Errno::MLINK, Missing::Replace) => {
                match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
                    Ok(()) | Err(Errno::NOENT | Errno::ISDIR | Errno::PERM) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            _ => break,
        }
        match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755)) {
            Ok(()) => made = true,
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(last.into())
}

/// Looks at a name without following a link; nothing when it does not exist.
pub(crate) fn look(directory: BorrowedFd<'_>, name: &[u8]) -> io::Result<Option<Stat>> {
    match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// What a stat is of.
pub(crate) fn kind_of(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// Opens a regular file for reading. A link, a device or a pipe in its place is an error, and never waited for.
pub(crate) fn open_file(directory: BorrowedFd<'_>, name: &[u8]) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::openat(directory, name, flags, Mode::empty())?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    Ok(file)
}

/// Makes a new file that only its owner can reach. Anything in its place is an error.
pub(crate) fn create_file(directory: BorrowedFd<'_>, name: &[u8]) -> io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::openat(
        directory,
        name,
        flags,
        Mode::from_raw_mode(0o600),
    )?))
}

/// Gives an open file or directory to a user and group.
pub(crate) fn give(file: impl AsFd, owner: Option<(u32, u32)>) -> io::Result<()> {
    let Some((user, group)) = owner else { return Ok(()) };
    Ok(rustix::fs::fchown(
        file,
        Some(Uid::from_raw(user)),
        Some(Gid::from_raw(group)),
    )?)
}

/// Gives a link itself to a user and group.
pub(crate) fn give_link(directory: BorrowedFd<'_>, name: &[u8], owner: Option<(u32, u32)>) -> io::Result<()> {
    let Some((user, group)) = owner else { return Ok(()) };
    let (user, group) = (Uid::from_raw(user), Gid::from_raw(group));
    Ok(rustix::fs::chownat(
        directory,
        name,
        Some(user),
        Some(group),
        AtFlags::SYMLINK_NOFOLLOW,
    )?)
}

/// Removes whatever a name stands for: a file, a link itself, or a directory with all it holds.
pub(crate) fn remove(directory: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => remove_tree(directory, name),
        Err(error) => Err(error.into()),
    }
}

/// How often a directory that is being removed may turn out to have been filled again.
const MAX_REFILLED: u32 = 1_000;

/// Removes a directory without recursion, so that no depth of nesting exhausts the stack.
fn remove_tree(directory: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    let mut open = vec![(name.to_vec(), open_directory(directory, name, Missing::Fail, None)?)];
    let mut moved: u64 = 0;
    let mut refilled = 0;
    while let Some((_, current)) = open.last() {
        let mut below = None;
        let mut listing = rustix::fs::Dir::read_from(current)?;
        while let Some(entry) = listing.read() {
            let entry = entry?;
            let child = entry.file_name().to_bytes();
            if matches!(child, b"." | b"..") {
                continue;
            }
            match rustix::fs::unlinkat(current, child, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(Errno::ISDIR | Errno::PERM) => {
                    below = Some(child.to_vec());
                    break;
                }
                Err(error) => return Err(error.into()),
            }
        }
        if let (Some(child), true) = (&below, open.len() > DEEP) {
            let (_, top) = &open[0];
            // A name that is taken by a directory with something in it is left to the next try.
            let place = format!(".crabbox-deep-{moved}");
            moved += 1;
            match rustix::fs::renameat(current, child.as_slice(), top, place) {
                Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => continue,
                Err(error) => return Err(error.into()),
            }
        }
        if let Some(child) = below {
            let opened = open_directory(current.as_fd(), &child, Missing::Fail, None)?;
            open.push((child, opened));
            continue;
        }
        let Some((done, _)) = open.pop() else { break };
        let parent = open.last().map_or(directory, |(_, parent)| parent.as_fd());
        match rustix::fs::unlinkat(parent, done.as_slice(), AtFlags::REMOVEDIR) {
            // Somebody put something in meanwhile: look again, but not for ever.
            Err(Errno::NOTEMPTY) if !open.is_empty() && refilled < MAX_REFILLED => refilled += 1,
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Access and modification times from nanoseconds since the epoch.
pub(crate) fn timestamps(mtime_ns: i64) -> rustix::fs::Timestamps {
    let time = rustix::fs::Timespec {
        tv_sec: mtime_ns.div_euclid(1_000_000_000),
        tv_nsec: mtime_ns.rem_euclid(1_000_000_000),
    };
    rustix::fs::Timestamps {
        last_access: time,
        last_modification: time,
    }
}

/// Modification time in nanoseconds since the epoch.
pub(crate) fn mtime_ns(stat: &Stat) -> i64 {
    let nanoseconds = i64::try_from(stat.st_mtime_nsec).unwrap_or_default();
    stat.st_mtime.saturating_mul(1_000_000_000).saturating_add(nanoseconds)
}
