//! What travels: every path of a source that git would show or that the plain directory holds, after the rules.
//!
//! One parallel walk of the work tree is compared with the index as it goes, so a file is looked at once. Paths live in
//! one buffer and each entry in 40 bytes, which keeps a million files far below the memory of one path object each.

mod checkout;
mod content;
mod ignore;
mod staged;
mod tracked;
mod walk;

use std::io;

use crabbox_core::{Error, ErrorKind, IntoError as _, Result};
use gix::bstr::ByteSlice as _;

pub(crate) use walk::stat_key;

use crate::rules::Rules;
use crate::source::{Source, SourceKind};
use crate::stat_cache::{StatCache, StatKey};

/// What an entry is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A symbolic link, never followed.
    Symlink,
}

/// One path of a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Entry<'a> {
    /// Path from the root in raw bytes, with `/` between its parts.
    pub path: &'a [u8],
    /// What it is.
    pub kind: EntryKind,
    /// Permission bits, without set-id and sticky bits.
    pub mode: u32,
    /// Length in bytes; of a link, the length of its target's text.
    pub size: u64,
    /// Modification time, nanoseconds since the epoch.
    pub mtime_ns: i64,
    /// It differs from the commit that is checked out, or is not in it.
    pub changed: bool,
    /// What the stat cache compares.
    pub(crate) key: StatKey,
}

impl Entry<'_> {
    /// Whether it is a file that its owner may execute.
    pub fn is_executable(&self) -> bool {
        self.kind == EntryKind::File && self.mode & 0o100 != 0
    }
}

/// A tracked file that travels although a built-in exclude names it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct ProtectedTracked {
    /// Path from the root; bytes that are not text are replaced.
    pub path: String,
    /// The exclude's text.
    pub pattern: String,
}

/// The files of a source that travel.
#[derive(Clone, Debug, Default)]
pub struct Manifest {
    arena: Vec<u8>,
    entries: Vec<Packed>,
    deleted: Vec<Vec<u8>>,
    protected: Vec<ProtectedTracked>,
    warnings: Vec<String>,
    bytes: u64,
    changed_files: usize,
    changed_bytes: u64,
}

const SYMLINK: u16 = 1 << 15;
const CHANGED: u16 = 1 << 14;
const MODE: u16 = 0o777;

#[derive(Clone, Copy, Debug)]
struct Packed {
    key: StatKey,
    start: u32,
    length: u16,
    bits: u16,
}

impl Manifest {
    /// Looks at a source. The cache spares reading files whose stat the index does not know; it learns from the look.
    ///
    /// # Errors
    /// `Sync`: the source cannot be synced; an index or a directory with tracked files cannot be read; a path is both
    /// file and submodule in a conflict; a tracked file that should travel is left out of a sparse checkout.
    pub fn build(source: &Source, rules: &Rules, cache: &StatCache) -> Result<Self> {
        source.require_syncable()?;
        match source.kind() {
            SourceKind::Directory => walk::directory(source.root(), rules),
            _ => checkout::checkout(source, rules, cache),
        }
        .map_err(|error| error.context("build sync file list"))
    }

    /// Number of files and links.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing travels.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The entry at a place.
    ///
    /// # Panics
    /// When the place is not below [`Manifest::len`].
    pub fn entry(&self, place: usize) -> Entry<'_> {
        let packed = &self.entries[place];
        Entry {
            path: self.path_of(packed),
            kind: if packed.bits & SYMLINK == 0 {
                EntryKind::File
            } else {
                EntryKind::Symlink
            },
            mode: u32::from(packed.bits & MODE),
            size: packed.key.size,
            mtime_ns: packed.key.mtime_ns,
            changed: packed.bits & CHANGED != 0,
            key: packed.key,
        }
    }

    /// Every entry, sorted bytewise by path.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Entry<'_>> + DoubleEndedIterator + Clone {
        (0..self.entries.len()).map(|place| self.entry(place))
    }

    /// The place of a path.
    pub fn find(&self, path: &[u8]) -> Option<usize> {
        self.entries
            .binary_search_by(|packed| self.path_of(packed).cmp(path))
            .ok()
    }

    /// Tracked paths that are gone, from the work tree or from the index, sorted.
    pub fn deleted(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.deleted.iter().map(Vec::as_slice)
    }

    /// Sum of all sizes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Number of changed paths, deleted ones included.
    pub fn changed_paths(&self) -> usize {
        self.changed_files + self.deleted.len()
    }

    /// Sum of the sizes of changed files.
    pub fn changed_bytes(&self) -> u64 {
        self.changed_bytes
    }

    /// Changed paths sorted, each with its entry, or without one when it was deleted.
    pub fn changed(&self) -> impl Iterator<Item = (&[u8], Option<Entry<'_>>)> {
        let mut files = self.iter().filter(|entry| entry.changed).peekable();
        let mut gone = self.deleted().peekable();
        std::iter::from_fn(move || match (files.peek(), gone.peek()) {
            (Some(file), Some(path)) if file.path > *path => gone.next().map(|path| (path, None)),
            (Some(_), _) => files.next().map(|entry| (entry.path, Some(entry))),
            (None, _) => gone.next().map(|path| (path, None)),
        })
    }

    /// Tracked files that travel although a built-in exclude names them, sorted by path.
    pub fn protected_tracked(&self) -> &[ProtectedTracked] {
        &self.protected
    }

    /// What could not be looked at and holds nothing tracked.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Writes every path followed by NUL.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn write_nul_list(&self, writer: &mut dyn io::Write) -> io::Result<()> {
        self.iter().try_for_each(|entry| {
            writer.write_all(entry.path)?;
            writer.write_all(&[0])
        })
    }

    fn path_of(&self, packed: &Packed) -> &[u8] {
        let start = packed.start as usize;
        &self.arena[start..start + usize::from(packed.length)]
    }

    /// Adds an entry in any order; [`Manifest::finish`] sorts.
    fn push(&mut self, path: &[u8], key: StatKey, bits: u16) -> Result<()> {
        let too_much = || Error::sync("paths of the source exceed 4 GiB in total");
        let start = u32::try_from(self.arena.len()).ok().ok_or_else(too_much)?;
        let length = u16::try_from(path.len()).or_error(ErrorKind::Sync, || {
            format!("path is longer than 65535 bytes: `{:.80}…`", path.as_bstr())
        })?;
        self.arena.extend_from_slice(path);
        self.entries.push(Packed {
            key,
            start,
            length,
            bits,
        });
        Ok(())
    }

    /// Takes over everything another one holds.
    fn append(&mut self, other: &mut Self) -> Result<()> {
        let base = u32::try_from(self.arena.len())
            .ok()
            .filter(|base| {
                base.checked_add(u32::try_from(other.arena.len()).unwrap_or(u32::MAX))
                    .is_some()
            })
            .ok_or_else(|| Error::sync("paths of the source exceed 4 GiB in total"))?;
        self.arena.append(&mut other.arena);
        self.entries.extend(other.entries.drain(..).map(|packed| Packed {
            start: packed.start + base,
            ..packed
        }));
        self.deleted.append(&mut other.deleted);
        self.protected.append(&mut other.protected);
        self.warnings.append(&mut other.warnings);
        Ok(())
    }

    fn sort(&mut self) {
        use rayon::slice::ParallelSliceMut as _;
        let arena = &self.arena;
        let path = |packed: &Packed| &arena[packed.start as usize..packed.start as usize + usize::from(packed.length)];
        self.entries
            .par_sort_unstable_by(|left, right| path(left).cmp(path(right)));
        self.protected.sort_by(|left, right| left.path.cmp(&right.path));
        self.warnings.sort();
    }

    /// Sorts the deleted paths, drops those that travel, and sums up.
    fn finish(mut self, mut deleted: Vec<Vec<u8>>) -> Self {
        deleted.sort();
        deleted.dedup();
        deleted.retain(|path| self.find(path).is_none());
        self.deleted = deleted;
        self.entries.shrink_to_fit();
        for packed in &self.entries {
            self.bytes += packed.key.size;
            if packed.bits & CHANGED != 0 {
                self.changed_files += 1;
                self.changed_bytes += packed.key.size;
            }
        }
        self
    }
}
