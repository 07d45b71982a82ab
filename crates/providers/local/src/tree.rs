//! Directory trees that a box wrote: removed and copied without following anything in them.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rayon::iter::{IntoParallelRefIterator as _, ParallelIterator as _};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, Timespec, Timestamps};

/// Depth from which a directory is moved up before it is removed, so that a deep tree needs no deep stack.
const DEEP: usize = 64;

/// Deepest directory that is copied: each level costs two descriptors and some stack.
const DEEPEST: usize = 256;

/// Removes a file or a whole directory; fine when it does not exist, or when somebody else removes it at the same time.
///
/// Directories that their owner may not write to are made writable first. Links are removed, never followed.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match rustix::fs::unlink(path) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => return Ok(()),
        Err(rustix::io::Errno::ISDIR | rustix::io::Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    let Some(top) = open_to_empty(CWD, path)? else {
        return Ok(());
    };
    let mut moved = 0;
    // What was moved up appears at the top, so the top is read until nothing is left.
    loop {
        let names = names(&top)?;
        if names.is_empty() {
            break;
        }
        for name in &names {
            remove_entry(&top, &top, name, 0, &mut moved)?;
        }
    }
    unless_gone(rustix::fs::rmdir(path))
}

/// That something is not there any more is what was wanted.
fn unless_gone(outcome: rustix::io::Result<()>) -> io::Result<()> {
    match outcome {
        Err(rustix::io::Errno::NOENT) => Ok(()),
        other => Ok(other?),
    }
}

fn remove_entry(
    top: &OwnedFd,
    parent: &OwnedFd,
    name: &std::ffi::CStr,
    depth: usize,
    moved: &mut u64,
) -> io::Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => return Ok(()),
        Err(rustix::io::Errno::ISDIR | rustix::io::Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    let Some(directory) = open_to_empty(parent, name)? else {
        return Ok(());
    };
    if depth >= DEEP {
        *moved += 1;
        let place = format!(".crabbox-deep-{moved}-{}", crate::token(4));
        return unless_gone(rustix::fs::renameat(parent, name, top, place));
    }
    for entry in names(&directory)? {
        remove_entry(top, &directory, &entry, depth + 1, moved)?;
    }
    unless_gone(rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR))
}

/// Opens a directory and makes sure that it can be read and emptied; `None` when it is not there any more.
fn open_to_empty<P: rustix::path::Arg + Copy>(parent: impl AsFd, name: P) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let all = Mode::RWXU;
    let directory = match rustix::fs::openat(&parent, name, flags, Mode::empty()) {
        Err(rustix::io::Errno::ACCESS) => {
            rustix::fs::chmodat(&parent, name, all, AtFlags::empty())?;
            rustix::fs::openat(&parent, name, flags, Mode::empty())?
        }
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        other => other?,
    };
    let mode = Mode::from_raw_mode(rustix::fs::fstat(&directory)?.st_mode);
    if !mode.contains(all) {
        // Somebody else's directory cannot be changed, but then removal says so with a better message.
        let _ = rustix::fs::fchmod(&directory, all);
    }
    Ok(Some(directory))
}

fn names(directory: &OwnedFd) -> io::Result<Vec<std::ffi::CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// How files were copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Copied {
    /// Regular files.
    pub(crate) files: u64,
    /// Their length together, in bytes.
    pub(crate) bytes: u64,
    /// Files that share their blocks with the original.
    pub(crate) shared: u64,
}

impl Copied {
    fn plus(self, other: Self) -> Self {
        Self {
            files: self.files + other.files,
            bytes: self.bytes + other.bytes,
            shared: self.shared + other.shared,
        }
    }
}

/// Copies what is in a directory into another that exists: files (sharing blocks where the file system can), directories,
/// links as links; with modes, times and, for root, owners. Sockets and devices are left out, and holes stay holes.
///
/// # Errors
/// Also when directories are nested deeper than [`DEEPEST`].
pub(crate) fn copy(source: &Path, destination: &Path) -> io::Result<Copied> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let source = rustix::fs::open(source, flags, Mode::empty())?;
    let destination = rustix::fs::open(destination, flags, Mode::empty())?;
    copy_directory(&source, &destination, DEEPEST)
}

/// Gives a directory the owner, mode and times of another.
pub(crate) fn match_directory(original: &Path, copy: &Path) -> io::Result<()> {
    let stat = rustix::fs::stat(original)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    finish(rustix::fs::open(copy, flags, Mode::empty())?, &stat)
}

fn copy_directory(source: &OwnedFd, destination: &OwnedFd, depth: usize) -> io::Result<Copied> {
    let names = names(source)?;
    let mut entries = Vec::with_capacity(names.len());
    for name in names {
        let stat = rustix::fs::statat(source, &name, AtFlags::SYMLINK_NOFOLLOW)?;
        entries.push((name, stat));
    }
    let kind = |stat: &Stat| FileType::from_raw_mode(stat.st_mode);
    let files = entries
        .par_iter()
        .filter(|(_, stat)| kind(stat) == FileType::RegularFile)
        .map(|(name, stat)| copy_file(source, destination, name, stat))
        .try_reduce(Copied::default, |left, right| Ok(left.plus(right)))?;
    let mut total = files;
    for (name, stat) in &entries {
        match kind(stat) {
            FileType::Directory => {
                let depth = depth.checked_sub(1).ok_or_else(|| {
                    io::Error::other(format!("directories are nested deeper than the limit: {DEEPEST}"))
                })?;
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let from = rustix::fs::openat(source, name, flags, Mode::empty())?;
                rustix::fs::mkdirat(destination, name, Mode::RWXU)?;
                let to = rustix::fs::openat(destination, name, flags, Mode::empty())?;
                total = total.plus(copy_directory(&from, &to, depth)?);
                finish(&to, stat)?;
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(source, name, Vec::new())?;
                rustix::fs::symlinkat(&target, destination, name)?;
                if rustix::process::geteuid().is_root() {
                    let (user, group) = owner(stat);
                    rustix::fs::chownat(destination, name, user, group, AtFlags::SYMLINK_NOFOLLOW)?;
                }
            }
            FileType::Fifo => {
                rustix::fs::mknodat(destination, name, FileType::Fifo, Mode::from_raw_mode(stat.st_mode), 0)?;
            }
            _ => {}
        }
    }
    Ok(total)
}

fn copy_file(source: &OwnedFd, destination: &OwnedFd, name: &std::ffi::CStr, stat: &Stat) -> io::Result<Copied> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let from = rustix::fs::openat(source, name, flags, Mode::empty())?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let to = rustix::fs::openat(destination, name, flags, Mode::RUSR | Mode::WUSR)?;
    let shared = share_blocks(&from, &to);
    let (from, to) = (std::fs::File::from(from), std::fs::File::from(to));
    if !shared {
        copy_content(&from, &to)?;
    }
    finish(&to, stat)?;
    Ok(Copied {
        files: 1,
        bytes: u64::try_from(stat.st_size).unwrap_or_default(),
        shared: u64::from(shared),
    })
}

/// Copies the parts of a file that hold data, so that a file of nothing but length takes no space.
#[cfg(target_os = "linux")]
fn copy_content(mut from: &std::fs::File, mut to: &std::fs::File) -> io::Result<()> {
    use std::io::{Read as _, Seek as _};

    use rustix::fs::SeekFrom;

    let length = from.metadata()?.len();
    to.set_len(length)?;
    let mut at = 0;
    while at < length {
        let start = match rustix::fs::seek(from, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(rustix::io::Errno::NXIO) => break,
            // A file system that knows no holes.
            Err(_) => at,
        };
        let end = rustix::fs::seek(from, SeekFrom::Hole(start)).map_or(length, |end| end.min(length));
        if end <= start {
            break;
        }
        from.seek(io::SeekFrom::Start(start))?;
        to.seek(io::SeekFrom::Start(start))?;
        io::copy(&mut from.take(end - start), &mut to)?;
        at = end;
    }
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn copy_content(mut from: &std::fs::File, mut to: &std::fs::File) -> io::Result<()> {
    io::copy(&mut from, &mut to).map(drop)
}

/// Makes a file share the blocks of another; whether the file system can.
#[cfg(target_os = "linux")]
fn share_blocks(from: &OwnedFd, to: &OwnedFd) -> bool {
    rustix::fs::ioctl_ficlone(to, from).is_ok()
}

#[cfg(not(target_os = "linux"))]
fn share_blocks(_from: &OwnedFd, _to: &OwnedFd) -> bool {
    false
}

/// Whether files in a directory can share blocks, found out by trying.
pub(crate) fn shares_blocks(directory: &Path) -> bool {
    let draft = |end: &str| directory.join(format!(".probe-{end}-{}", crate::token(4)));
    let (one, two) = (draft("a"), draft("b"));
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let try_it = || -> io::Result<bool> {
        let from = rustix::fs::open(&one, flags, Mode::RUSR | Mode::WUSR)?;
        rustix::io::write(&from, &[0; 4096])?;
        let to = rustix::fs::open(&two, flags, Mode::RUSR | Mode::WUSR)?;
        Ok(share_blocks(&from, &to))
    };
    let shared = try_it().unwrap_or(false);
    for path in [one, two] {
        let _ = rustix::fs::unlink(&path);
    }
    shared
}

/// Gives a copy the owner, mode and times of its original, in an order in which none undoes another.
fn finish(copy: impl AsFd, stat: &Stat) -> io::Result<()> {
    if rustix::process::geteuid().is_root() {
        let (user, group) = owner(stat);
        rustix::fs::fchown(&copy, user, group)?;
    }
    rustix::fs::fchmod(&copy, Mode::from_raw_mode(stat.st_mode & 0o777))?;
    let times = Timestamps {
        last_access: Timespec {
            tv_sec: stat.st_atime,
            tv_nsec: nanoseconds(stat.st_atime_nsec),
        },
        last_modification: Timespec {
            tv_sec: stat.st_mtime,
            tv_nsec: nanoseconds(stat.st_mtime_nsec),
        },
    };
    rustix::fs::futimens(&copy, &times)?;
    Ok(())
}

fn nanoseconds(count: impl TryInto<i64>) -> rustix::fs::Nsecs {
    count.try_into().unwrap_or_default() as rustix::fs::Nsecs
}

fn owner(stat: &Stat) -> (Option<rustix::fs::Uid>, Option<rustix::fs::Gid>) {
    (
        Some(rustix::fs::Uid::from_raw(stat.st_uid)),
        Some(rustix::fs::Gid::from_raw(stat.st_gid)),
    )
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "files of a test need no care")]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

    #[test]
    fn removal_takes_locked_and_deep_trees_and_spares_what_links_name() {
        let root = tempfile::tempdir().unwrap();
        let outside = root.path().join("outside");
        fs::write(&outside, "x").unwrap();
        let tree = root.path().join("tree");
        fs::create_dir_all(tree.join("locked/below")).unwrap();
        fs::write(tree.join("locked/below/file"), "x").unwrap();
        symlink(&outside, tree.join("link")).unwrap();
        symlink(root.path(), tree.join("up")).unwrap();
        fs::set_permissions(tree.join("locked/below"), fs::Permissions::from_mode(0o000)).unwrap();
        fs::set_permissions(tree.join("locked"), fs::Permissions::from_mode(0o500)).unwrap();
        let mut at = rustix::fs::open(&tree, OFlags::PATH, Mode::empty()).unwrap();
        for _ in 0..500 {
            rustix::fs::mkdirat(&at, "d", Mode::RWXU).unwrap();
            at = rustix::fs::openat(&at, "d", OFlags::PATH, Mode::empty()).unwrap();
        }
        remove(&tree).unwrap();
        assert!(!tree.exists() && outside.exists());
        remove(&tree).unwrap();
    }

    #[test]
    fn a_tree_too_deep_to_copy_is_an_error() {
        let root = tempfile::tempdir().unwrap();
        let (from, to) = (root.path().join("from"), root.path().join("to"));
        fs::create_dir(&from).unwrap();
        fs::create_dir(&to).unwrap();
        let mut at = rustix::fs::open(&from, OFlags::PATH, Mode::empty()).unwrap();
        for _ in 0..4000 {
            rustix::fs::mkdirat(&at, "d", Mode::RWXU).unwrap();
            at = rustix::fs::openat(&at, "d", OFlags::PATH, Mode::empty()).unwrap();
        }
        let copied = copy(&from, &to);
        // Ordinary removal would meet the same depth.
        remove(&from).unwrap();
        remove(&to).unwrap();
        assert!(copied.unwrap_err().to_string().contains("nested deeper"));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn holes_take_no_space_in_a_copy() {
        use std::os::unix::fs::FileExt as _;
        let root = tempfile::tempdir().unwrap();
        let (from, to) = (root.path().join("from"), root.path().join("to"));
        fs::create_dir(&from).unwrap();
        fs::create_dir(&to).unwrap();
        let file = fs::File::create(from.join("file")).unwrap();
        file.write_all_at(b"begin", 0).unwrap();
        file.write_all_at(b"middle", 1 << 29).unwrap();
        file.set_len(1 << 30).unwrap();
        drop(file);
        fs::write(from.join("empty"), "").unwrap();
        copy(&from, &to).unwrap();
        let copied = fs::File::open(to.join("file")).unwrap();
        let metadata = copied.metadata().unwrap();
        assert_eq!(metadata.len(), 1 << 30);
        assert!(metadata.blocks() * 512 < 1 << 20, "{}", metadata.blocks());
        let mut text = [0; 6];
        copied.read_exact_at(&mut text[..5], 0).unwrap();
        assert_eq!(&text[..5], b"begin");
        copied.read_exact_at(&mut text, 1 << 29).unwrap();
        assert_eq!(&text, b"middle");
        assert_eq!(fs::metadata(to.join("empty")).unwrap().len(), 0);
    }

    #[test]
    fn a_copy_is_equal_and_independent() {
        let root = tempfile::tempdir().unwrap();
        let (from, to) = (root.path().join("from"), root.path().join("to"));
        fs::create_dir_all(from.join("a/b")).unwrap();
        fs::create_dir(&to).unwrap();
        fs::write(from.join("a/b/file"), "one").unwrap();
        fs::write(from.join("tool"), "#!").unwrap();
        fs::set_permissions(from.join("tool"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::hard_link(from.join("tool"), from.join("same")).unwrap();
        symlink("/nowhere", from.join("link")).unwrap();
        let copied = copy(&from, &to).unwrap();
        assert_eq!((copied.files, copied.bytes), (3, 7));
        let (old, new) = (
            fs::metadata(from.join("tool")).unwrap(),
            fs::metadata(to.join("tool")).unwrap(),
        );
        assert_eq!(
            (old.mode(), old.mtime(), old.mtime_nsec()),
            (new.mode(), new.mtime(), new.mtime_nsec())
        );
        assert_ne!(old.ino(), new.ino());
        fs::write(to.join("a/b/file"), "two").unwrap();
        assert_eq!(fs::read(from.join("a/b/file")).unwrap(), b"one");
        assert_eq!(fs::read_link(to.join("link")).unwrap(), Path::new("/nowhere"));
    }
}
