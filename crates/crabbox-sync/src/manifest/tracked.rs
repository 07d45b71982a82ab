//! What the index knows of a file, and whether a look at the file's stat suffices to call it unchanged.

use gix::glob::pattern::Case;
use gix::index::Entry as IndexEntry;
use gix::index::entry::{Flags, Mode, Stage};

use super::ignore::Sparse;
use crate::stat_cache::StatKey;

/// The index beside everything that decides how its entries compare with the disk.
pub(super) struct Tracked<'a> {
    pub(super) entries: &'a [IndexEntry],
    pub(super) backing: &'a [u8],
    pub(super) case: Case,
    pub(super) sparse: Sparse,
    /// Entries that differ from the commit that is checked out.
    pub(super) staged: Places,
    pub(super) policy: Policy,
}

/// Config that says which parts of a stat count.
pub(super) struct Policy {
    trust_ctime: bool,
    check_stat: bool,
    file_mode: bool,
    symlinks: bool,
    /// When the index was written: seconds, nanoseconds.
    written: (i64, u32),
}

/// What a look at the stat says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    Same,
    Changed,
    /// Only the content can tell.
    Unsure,
}

/// A set of places in the index.
#[derive(Default)]
pub(super) struct Places(Vec<u64>);

impl Places {
    pub(super) fn insert(&mut self, place: usize) {
        if self.0.len() <= place / 64 {
            self.0.resize(place / 64 + 1, 0);
        }
        self.0[place / 64] |= 1 << (place % 64);
    }

    pub(super) fn contains(&self, place: usize) -> bool {
        self.0
            .get(place / 64)
            .is_some_and(|word| word & (1 << (place % 64)) != 0)
    }
}

impl Policy {
    pub(super) fn of(repository: &gix::Repository, index: &gix::index::State) -> Self {
        let config = repository.config_snapshot();
        let written = index.timestamp();
        Self {
            trust_ctime: config.boolean("core.trustCTime").unwrap_or(true),
            check_stat: config
                .string("core.checkStat")
                .is_none_or(|value| !value.eq_ignore_ascii_case(b"minimal")),
            file_mode: config.boolean("core.fileMode").unwrap_or(cfg!(unix)),
            symlinks: config.boolean("core.symlinks").unwrap_or(true),
            written: (written.unix_seconds(), written.nanoseconds()),
        }
    }

    fn stat_is_same(&self, entry: &IndexEntry, key: &StatKey) -> bool {
        let stat = &entry.stat;
        let same_time = |time: &gix::index::entry::stat::Time, ns: i64| {
            let (seconds, nanoseconds) = split(ns);
            // The index keeps 32 bits, and writers that know no nanoseconds leave zero.
            time.secs == truncate(seconds) && (time.nsecs == 0 || time.nsecs == nanoseconds)
        };
        same_time(&stat.mtime, key.mtime_ns)
            && stat.size == truncate_unsigned(key.size)
            && (!(self.trust_ctime && self.check_stat) || same_time(&stat.ctime, key.ctime_ns))
            && (!self.check_stat || !cfg!(unix) || stat.ino == truncate_unsigned(key.inode))
    }

    /// Whether the file may have changed after the index was written without its time showing it.
    fn is_racy(&self, key: &StatKey) -> bool {
        let (seconds, nanoseconds) = split(key.mtime_ns);
        let (written_seconds, written_nanoseconds) = self.written;
        if written_nanoseconds == 0 || nanoseconds == 0 {
            return written_seconds <= seconds;
        }
        (written_seconds, written_nanoseconds) <= (seconds, nanoseconds)
    }
}

fn split(ns: i64) -> (i64, u32) {
    (
        ns.div_euclid(1_000_000_000),
        u32::try_from(ns.rem_euclid(1_000_000_000)).unwrap_or(0),
    )
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the index stores the low 32 bits"
)]
fn truncate(value: i64) -> u32 {
    value as u32
}

#[expect(clippy::cast_possible_truncation, reason = "the index stores the low 32 bits")]
fn truncate_unsigned(value: u64) -> u32 {
    value as u32
}

impl<'a> Tracked<'a> {
    pub(super) fn path(&self, place: usize) -> &'a [u8] {
        self.entries[place].path_in(self.backing)
    }

    /// The entries under a directory; `prefix` ends with a slash and `within` holds all entries of its parent.
    pub(super) fn below(&self, within: &std::ops::Range<usize>, prefix: &[u8]) -> std::ops::Range<usize> {
        let slice = &self.entries[within.clone()];
        let start = slice.partition_point(|entry| entry.path_in(self.backing).as_ref() as &[u8] < prefix);
        let length = slice[start..].partition_point(|entry| entry.path_in(self.backing).starts_with(prefix));
        within.start + start..within.start + start + length
    }

    /// The entries, one for each stage, of one path.
    pub(super) fn exactly(&self, within: &std::ops::Range<usize>, path: &[u8]) -> std::ops::Range<usize> {
        let slice = &self.entries[within.clone()];
        let start = slice.partition_point(|entry| entry.path_in(self.backing).as_ref() as &[u8] < path);
        let length = slice[start..]
            .iter()
            .take_while(|entry| entry.path_in(self.backing) == path)
            .count();
        within.start + start..within.start + start + length
    }

    /// Whether any stage is a regular file.
    pub(super) fn is_regular(&self, places: &std::ops::Range<usize>) -> bool {
        self.entries[places.clone()]
            .iter()
            .any(|entry| matches!(entry.mode, Mode::FILE | Mode::FILE_EXECUTABLE))
    }

    pub(super) fn is_submodule(&self, places: &std::ops::Range<usize>) -> bool {
        self.entries[places.clone()]
            .iter()
            .any(|entry| entry.mode == Mode::COMMIT)
    }

    /// Compares a file on disk with all stages of its path.
    pub(super) fn look(&self, places: &std::ops::Range<usize>, key: &StatKey, bits: u16) -> Look {
        let place = places.start;
        let entry = &self.entries[place];
        if entry.stage() != Stage::Unconflicted
            || entry.flags.contains(Flags::INTENT_TO_ADD)
            || self.staged.contains(place)
        {
            return Look::Changed;
        }
        let hidden = entry.flags.contains(Flags::SKIP_WORKTREE) && !self.sparse.is_on();
        if hidden || entry.flags.contains(Flags::ASSUME_VALID) {
            return Look::Same;
        }
        let symlink = bits & super::SYMLINK != 0;
        let same_type = match entry.mode {
            Mode::SYMLINK => symlink || !self.policy.symlinks,
            Mode::FILE | Mode::FILE_EXECUTABLE => {
                let executable = bits & 0o100 != 0;
                !symlink && (!self.policy.file_mode || executable == (entry.mode == Mode::FILE_EXECUTABLE))
            }
            _ => false,
        };
        if !same_type {
            return Look::Changed;
        }
        if self.policy.stat_is_same(entry, key) && !self.policy.is_racy(key) {
            Look::Same
        } else {
            Look::Unsure
        }
    }
}
