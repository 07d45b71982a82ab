//! Makes a directory on this machine equal to a manifest: for boxes whose workspace is such a directory.
//!
//! The directory belongs to the box, so whatever lies in it may be hostile: nothing in it is followed, and a link, pipe
//! or directory in the place of a file is removed. Only files whose size, time or mode differ are copied.
//!
//! `.crabbox/sync-manifest` in the directory holds the paths of the last apply, each followed by NUL. Before anything is
//! written it is replaced by the union with the new paths, and at the very end by the new paths alone. An apply that was
//! interrupted therefore leaves nothing behind that the next one does not know of.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use crabbox_core::remote::HostDirectory;
use crabbox_core::{Error, ErrorKind, IntoError as _, Result};
use gix::bstr::ByteSlice as _;
use rayon::iter::{IntoParallelIterator as _, ParallelIterator as _};
use rustix::fs::{AtFlags, FileType, Mode};
use rustix::io::Errno;

use crate::beneath::{self, Beneath, Missing};
use crate::manifest::{Entry, EntryKind, Manifest, stat_key};
use crate::rules::is_safe_path;
use crate::tree_hash::changed_meanwhile;

/// Directory of what Crabbox keeps in a workspace.
const METADATA: &[u8] = b".crabbox";
const STORED: &[u8] = b"sync-manifest";
/// Largest stored manifest that is believed.
const MAX_STORED: u64 = 512 << 20;
/// Most paths of a stored manifest that is believed: each costs memory here, however short the box made it.
const MAX_STORED_PATHS: usize = 4 << 20;
/// Entries that one worker takes at a time.
const CHUNK: usize = 256;
/// Files up to this length are copied through memory, larger ones by the kernel.
const SMALL: u64 = 128 * 1024;
/// Bytes of a large file that are copied before cancellation is looked at again.
const PIECE: u64 = 16 << 20;

/// How to apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApplyOptions {
    /// `sync.delete`: remove paths that the last apply brought and the manifest does not have, and deleted paths.
    pub delete: bool,
    /// `sync.checksum`: compare contents instead of sizes and times.
    pub checksum: bool,
}

impl Default for ApplyOptions {
    fn default() -> Self {
        Self {
            delete: true,
            checksum: false,
        }
    }
}

/// What an apply did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ApplyReport {
    /// Files and links that were written.
    pub written: u64,
    /// Files and links that were removed because they left the manifest.
    pub deleted: u64,
    /// Files and links that were as they should be.
    pub unchanged: u64,
    /// Bytes that were written.
    pub bytes: u64,
}

/// Makes `destination` equal to the manifest of `source`. Files that no apply brought stay, unless the manifest has
/// something else in their place.
///
/// Two applies to one destination must not run at once; the caller holds the workspace's lock.
///
/// # Errors
/// `Sync` when a source file cannot be read or changes while it is copied, or the destination cannot be written. The
/// next apply repairs what was left half done.
pub fn apply_to_directory(
    source: &Path,
    manifest: &Manifest,
    destination: &Path,
    options: &ApplyOptions,
) -> Result<ApplyReport> {
    let destination = HostDirectory {
        path: destination.to_path_buf(),
        owner: None,
    };
    apply_until(source, manifest, &destination, options, &AtomicBool::new(false))
}

/// Like [`apply_to_directory`], for a directory whose files belong to somebody else than this process, and until
/// `cancel` is set: then it stops soon, and the next apply repairs.
///
/// The path to the directory is walked once.
///
/// # Errors
/// Those of [`apply_to_directory`], and a cancelled error.
pub fn apply_until(
    source: &Path,
    manifest: &Manifest,
    destination: &HostDirectory,
    options: &ApplyOptions,
    cancel: &AtomicBool,
) -> Result<ApplyReport> {
    let HostDirectory { path, owner } = destination;
    // A path below /proc names a directory that is already open. It looks like a link, so its own `.` is opened; of any
    // other path, a link at the end is refused.
    let path = &if path.starts_with("/proc") {
        path.join(".")
    } else {
        path.clone()
    };
    if !path.is_dir() {
        std::fs::create_dir_all(path).or_error(ErrorKind::Sync, || format!("make directory {}", path.display()))?;
    }
    let failed = || format!("open directory {}", path.display());
    let mut root = Beneath::open(path).or_error(ErrorKind::Sync, failed)?.owned_by(*owner);
    let source_root =
        Beneath::open(source).or_error(ErrorKind::Sync, || format!("open directory {}", source.display()))?;
    let stored = read_stored(&mut root)?;
    let previous = stored.as_deref().map(paths_of).unwrap_or_default();
    let wanted = manifest.iter().map(|entry| entry.path);
    if !wanted.clone().all(|path| previous.binary_search(&path).is_ok()) {
        let mut union: Vec<&[u8]> = previous.iter().copied().chain(wanted.clone()).collect();
        union.sort_unstable();
        union.dedup();
        write_stored(&mut root, union.into_iter())?;
    }
    let mut report = ApplyReport::default();
    if options.delete {
        let left = previous.iter().copied().filter(|path| manifest.find(path).is_none());
        let gone = manifest.deleted().filter(|path| previous.binary_search(path).is_err());
        for path in left.chain(gone) {
            report.deleted += u64::from(prune(&mut root, path)?);
        }
    }
    let reflinks = AtomicBool::new(cfg!(target_os = "linux"));
    let written = (0..manifest.len().div_ceil(CHUNK))
        .into_par_iter()
        .map_init(
            || Worker::new(&source_root, &root, options.checksum, &reflinks, cancel).or_error(ErrorKind::Sync, failed),
            |worker, chunk| {
                let worker = match worker {
                    Ok(worker) => worker,
                    Err(error) => return Err(Error::new(error.kind(), error.to_string())),
                };
                let places = chunk * CHUNK..((chunk + 1) * CHUNK).min(manifest.len());
                let mut report = ApplyReport::default();
                places
                    .map(|place| manifest.entry(place))
                    .try_for_each(|entry| worker.apply(&entry, &mut report))?;
                Ok(report)
            },
        )
        .try_reduce(ApplyReport::default, |left, right| Ok(left.plus(right)))?;
    // Paths that stay behind because deletion is off are remembered, so that a later apply can still remove them.
    let mut kept: Vec<&[u8]> = if options.delete { Vec::new() } else { previous.clone() };
    if kept.is_empty() {
        if previous.len() != manifest.len() || !wanted.clone().eq(previous.iter().copied()) {
            write_stored(&mut root, wanted)?;
        }
    } else {
        kept.extend(wanted);
        kept.sort_unstable();
        kept.dedup();
        if kept != previous {
            write_stored(&mut root, kept.into_iter())?;
        }
    }
    Ok(report.plus(written))
}

impl ApplyReport {
    fn plus(self, other: Self) -> Self {
        Self {
            written: self.written + other.written,
            deleted: self.deleted + other.deleted,
            unchanged: self.unchanged + other.unchanged,
            bytes: self.bytes + other.bytes,
        }
    }
}

/// Whether a path is where the stored manifest lies.
fn is_stored_manifest(path: &[u8]) -> bool {
    path.strip_prefix(METADATA)
        .and_then(|rest| rest.strip_prefix(b"/"))
        .is_some_and(|rest| rest.starts_with(STORED))
}

/// The stored manifest, sorted or not; nothing when there is none or it is not one.
fn read_stored(root: &mut Beneath) -> Result<Option<Vec<u8>>> {
    let failed = || "read the manifest of the last sync".to_owned();
    let Ok(directory) = root.enter(METADATA, Missing::Fail) else {
        return Ok(None);
    };
    // A link, pipe or directory in its place is the box's doing and says nothing.
    let Ok(file) = beneath::open_file(directory, STORED) else {
        return Ok(None);
    };
    if file.metadata().or_error(ErrorKind::Sync, failed)?.len() > MAX_STORED {
        return Ok(None);
    }
    let mut content = Vec::new();
    file.take(MAX_STORED)
        .read_to_end(&mut content)
        .or_error(ErrorKind::Sync, failed)?;
    let believed = content.iter().filter(|byte| **byte == 0).count() <= MAX_STORED_PATHS;
    Ok(Some(content).filter(|_| believed))
}

/// Safe paths of a stored manifest, sorted. The box can write to it, so each path is checked.
fn paths_of(stored: &[u8]) -> Vec<&[u8]> {
    let mut paths: Vec<&[u8]> = stored
        .split(|byte| *byte == 0)
        .filter(|path| is_safe_path(path) && !is_stored_manifest(path))
        .collect();
    if !paths.is_sorted() {
        paths.sort_unstable();
    }
    paths.dedup();
    paths
}

fn write_stored<'a>(root: &mut Beneath, paths: impl Iterator<Item = &'a [u8]>) -> Result<()> {
    let failed = || "write the manifest of this sync".to_owned();
    let owner = root.owner();
    let directory = root
        .enter(METADATA, Missing::Replace)
        .or_error(ErrorKind::Sync, failed)?;
    let mut token = [0; 8];
    getrandom::fill(&mut token)
        .map_err(io::Error::other)
        .or_error(ErrorKind::Sync, failed)?;
    let name = format!("sync-manifest.{:016x}.new", u64::from_le_bytes(token));
    let written = (|| -> io::Result<()> {
        let file = beneath::create_file(directory, name.as_bytes())?;
        beneath::give(&file, owner)?;
        let mut file = io::BufWriter::with_capacity(128 * 1024, file);
        for path in paths {
            file.write_all(path)?;
            file.write_all(&[0])?;
        }
        file.flush()?;
        if beneath::look(directory, STORED)?.is_some_and(|stat| beneath::kind_of(&stat) == FileType::Directory) {
            beneath::remove(directory, STORED)?;
        }
        rustix::fs::renameat(directory, name.as_str(), directory, STORED)?;
        Ok(())
    })();
    if written.is_err() {
        let _ = rustix::fs::unlinkat(directory, name.as_str(), AtFlags::empty());
    }
    written.or_error(ErrorKind::Sync, failed)
}

/// Removes a file or link, then the directories above it that are empty. Whether there was something to remove.
fn prune(root: &mut Beneath, path: &[u8]) -> Result<bool> {
    if !is_safe_path(path) || is_stored_manifest(path) {
        return Ok(false);
    }
    let failed = || format!("remove `{}` from the box", path.as_bstr());
    let (directory, name) = match root.enter_parent(path, Missing::Fail) {
        Ok(parent) => parent,
        // A directory of it is gone, or something else is in its place: so is the file.
        Err(error) if is_not_there(&error) => return Ok(false),
        Err(error) => return Err(error).or_error(ErrorKind::Sync, failed),
    };
    let removed = match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) => true,
        // A directory has taken its place; it is not ours.
        Err(Errno::NOENT | Errno::ISDIR | Errno::PERM) => false,
        Err(error) => return Err(io::Error::from(error)).or_error(ErrorKind::Sync, failed),
    };
    let mut above = beneath::split(path).0;
    while !above.is_empty() {
        let Ok((directory, name)) = root.enter_parent(above, Missing::Fail) else {
            break;
        };
        if rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR).is_err() {
            break;
        }
        above = beneath::split(above).0;
    }
    // The chain may hold directories that were just removed.
    root.reset();
    Ok(removed)
}

fn is_not_there(error: &io::Error) -> bool {
    [Errno::NOENT, Errno::NOTDIR, Errno::LOOP, Errno::MLINK]
        .iter()
        .any(|known| error.raw_os_error() == Some(known.raw_os_error()))
}

fn refuse_if_cancelled(cancel: &AtomicBool) -> Result<()> {
    if cancel.load(Ordering::Relaxed) {
        return Err(Error::cancelled("sync was cancelled"));
    }
    Ok(())
}

/// One thread's open directories on both sides.
struct Worker<'a> {
    source: Beneath,
    destination: Beneath,
    checksum: bool,
    reflinks: &'a AtomicBool,
    cancel: &'a AtomicBool,
    buffer: Vec<u8>,
}

impl<'a> Worker<'a> {
    fn new(
        source: &Beneath,
        destination: &Beneath,
        checksum: bool,
        reflinks: &'a AtomicBool,
        cancel: &'a AtomicBool,
    ) -> io::Result<Self> {
        let [source, destination] = [source.another()?, destination.another()?];
        Ok(Self {
            source,
            destination,
            checksum,
            reflinks,
            cancel,
            buffer: Vec::new(),
        })
    }

    fn apply(&mut self, entry: &Entry<'_>, report: &mut ApplyReport) -> Result<()> {
        refuse_if_cancelled(self.cancel)?;
        if !is_safe_path(entry.path) {
            return Err(Error::sync(format!("unsafe sync path: `{}`", entry.path.as_bstr())));
        }
        if is_stored_manifest(entry.path) {
            return Ok(());
        }
        let written = match entry.kind {
            EntryKind::Symlink => self.link(entry),
            EntryKind::File => self.file(entry),
        }?;
        match written {
            None => report.unchanged += 1,
            Some(bytes) => {
                report.written += 1;
                report.bytes += bytes;
            }
        }
        Ok(())
    }

    fn link(&mut self, entry: &Entry<'_>) -> Result<Option<u64>> {
        let owner = self.destination.owner();
        let read = || format!("read `{}`", entry.path.as_bstr());
        let write = || format!("write `{}` to the box", entry.path.as_bstr());
        let (directory, name) = self
            .source
            .enter_parent(entry.path, Missing::Fail)
            .or_error(ErrorKind::Sync, read)?;
        let target = rustix::fs::readlinkat(directory, name, Vec::new()).or_error(ErrorKind::Sync, read)?;
        let (directory, name) = self
            .destination
            .enter_parent(entry.path, Missing::Replace)
            .or_error(ErrorKind::Sync, write)?;
        if let Some(stat) = beneath::look(directory, name).or_error(ErrorKind::Sync, write)? {
            let same = beneath::kind_of(&stat) == FileType::Symlink
                && rustix::fs::readlinkat(directory, name, Vec::new()).is_ok_and(|existing| existing == target);
            if same {
                return Ok(None);
            }
            beneath::remove(directory, name).or_error(ErrorKind::Sync, write)?;
        }
        rustix::fs::symlinkat(&target, directory, name).or_error(ErrorKind::Sync, write)?;
        beneath::give_link(directory, name, owner).or_error(ErrorKind::Sync, write)?;
        rustix::fs::utimensat(
            directory,
            name,
            &beneath::timestamps(entry.mtime_ns),
            AtFlags::SYMLINK_NOFOLLOW,
        )
        .or_error(ErrorKind::Sync, write)?;
        Ok(Some(target.as_bytes().len() as u64))
    }

    fn file(&mut self, entry: &Entry<'_>) -> Result<Option<u64>> {
        let owner = self.destination.owner();
        let read = || format!("read `{}`", entry.path.as_bstr());
        let write = || format!("write `{}` to the box", entry.path.as_bstr());
        let (to, to_name) = self
            .destination
            .enter_parent(entry.path, Missing::Replace)
            .or_error(ErrorKind::Sync, write)?;
        let existing = beneath::look(to, to_name).or_error(ErrorKind::Sync, write)?;
        let regular = existing.filter(|stat| beneath::kind_of(stat) == FileType::RegularFile);
        let same_shape = regular.is_some_and(|stat| {
            u64::try_from(stat.st_size).is_ok_and(|size| size == entry.size)
                && Mode::from_raw_mode(stat.st_mode) == Mode::from_raw_mode(entry.mode as _)
        });
        let same_time = regular.is_some_and(|stat| beneath::mtime_ns(&stat) == entry.mtime_ns);
        if same_shape && same_time && !self.checksum {
            return Ok(None);
        }
        let (from, from_name) = self
            .source
            .enter_parent(entry.path, Missing::Fail)
            .or_error(ErrorKind::Sync, read)?;
        let mut source = beneath::open_file(from, from_name).or_error(ErrorKind::Sync, read)?;
        if same_shape && self.checksum {
            let mut destination = beneath::open_file(to, to_name).or_error(ErrorKind::Sync, write)?;
            if same_content(&mut source, &mut destination).or_error(ErrorKind::Sync, read)? {
                if !same_time {
                    rustix::fs::utimensat(
                        to,
                        to_name,
                        &beneath::timestamps(entry.mtime_ns),
                        AtFlags::SYMLINK_NOFOLLOW,
                    )
                    .or_error(ErrorKind::Sync, write)?;
                }
                return Ok(None);
            }
            source = beneath::open_file(from, from_name).or_error(ErrorKind::Sync, read)?;
        }
        let before = stat_key(&source.metadata().or_error(ErrorKind::Sync, read)?);
        if before.size != entry.size || before.mtime_ns != entry.mtime_ns {
            return Err(changed_meanwhile(entry.path));
        }
        if existing.is_some() {
            beneath::remove(to, to_name).or_error(ErrorKind::Sync, write)?;
        }
        let mut target = beneath::create_file(to, to_name).or_error(ErrorKind::Sync, write)?;
        beneath::give(&target, owner).or_error(ErrorKind::Sync, write)?;
        let (reflinks, cancel) = (self.reflinks, self.cancel);
        let copied = copy(&mut source, &mut target, entry.size, reflinks, cancel, &mut self.buffer)
            .or_error(ErrorKind::Sync, || {
                format!("copy `{}` to the box", entry.path.as_bstr())
            })?;
        if copied < entry.size
            && let Err(cancelled) = refuse_if_cancelled(cancel)
        {
            discard(to, to_name);
            return Err(cancelled);
        }
        let after = stat_key(&source.metadata().or_error(ErrorKind::Sync, read)?);
        if copied != entry.size || after.size != before.size || after.mtime_ns != before.mtime_ns {
            discard(to, to_name);
            return Err(changed_meanwhile(entry.path));
        }
        // The time comes last: until it is set, the file does not pass for an unchanged one.
        rustix::fs::fchmod(&target, Mode::from_raw_mode(entry.mode as _)).or_error(ErrorKind::Sync, write)?;
        rustix::fs::futimens(&target, &beneath::timestamps(entry.mtime_ns)).or_error(ErrorKind::Sync, write)?;
        Ok(Some(entry.size))
    }
}

/// A half-copied file would be found by its time anyway; removing it is tidier.
fn discard(directory: BorrowedFd<'_>, name: &[u8]) {
    let _ = rustix::fs::unlinkat(directory, name, AtFlags::empty());
}

fn same_content(left: &mut File, right: &mut File) -> io::Result<bool> {
    let mut one = vec![0; 64 * 1024];
    let mut other = vec![0; 64 * 1024];
    loop {
        let length = left.read(&mut one)?;
        if length == 0 {
            return Ok(right.read(&mut other[..1])? == 0);
        }
        if right.read_exact(&mut other[..length]).is_err() || one[..length] != other[..length] {
            return Ok(false);
        }
    }
}

/// Shares the blocks where the file system can, else copies, and stops early when the apply is cancelled. Returns how many
/// bytes were copied.
fn copy(
    source: &mut File,
    target: &mut File,
    size: u64,
    reflinks: &AtomicBool,
    cancel: &AtomicBool,
    buffer: &mut Vec<u8>,
) -> io::Result<u64> {
    if size <= SMALL {
        buffer.clear();
        source.take(SMALL + 1).read_to_end(buffer)?;
        target.write_all(buffer)?;
        return Ok(buffer.len() as u64);
    }
    if reflinks.load(Ordering::Relaxed) {
        if share(source, target) {
            return Ok(target.metadata()?.len());
        }
        reflinks.store(false, Ordering::Relaxed);
    }
    let mut copied = 0;
    loop {
        let piece = io::copy(&mut (&*source).take(PIECE), target)?;
        copied += piece;
        if piece < PIECE || cancel.load(Ordering::Relaxed) {
            return Ok(copied);
        }
    }
}

#[cfg(target_os = "linux")]
fn share(source: &File, target: &File) -> bool {
    rustix::fs::ioctl_ficlone(target, source).is_ok()
}

#[cfg(not(target_os = "linux"))]
fn share(_source: &File, _target: &File) -> bool {
    false
}
