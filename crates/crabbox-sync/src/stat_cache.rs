//! Digests of files by path and stat, kept between looks so that unchanged files are not read again.
//!
//! A cache belongs to one root. Whatever is wrong with its file, it starts empty: it only ever saves work. A digest is
//! kept only if the file had rested before it was read, so a write in the same tick of the clock cannot hide behind it.
//!
//! # Format
//! `CBXSTAT1`, the BLAKE3 hash of the root's path, the number of records as `u32`, the records sorted by path, and the
//! BLAKE3 hash of all before. A record is: path length `u16`, flags `u8` (1 content digest, 2 git object id of 20 bytes,
//! 4 of 32 bytes), size `u64`, modification and change time in nanoseconds `i64`, inode `u64`, path, then the digests
//! that the flags name. Integers are little-endian.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use crabbox_core::{ErrorKind, IntoError as _, Result};

use crate::manifest::Manifest;

const MAGIC: &[u8; 8] = b"CBXSTAT1";
const HEADER: usize = MAGIC.len() + 32 + 4;
const FIXED: usize = 2 + 1 + 8 + 8 + 8 + 8;
const CONTENT: u8 = 1;
const SHA1: u8 = 2;
const SHA256: u8 = 4;

/// How long a file must have rested before its digest is kept. Covers the clock ticks of all common file systems.
const REST_NS: i64 = 100_000_000;
/// The same where times have whole seconds only.
const COARSE_REST_NS: i64 = 2_000_000_000;

/// The parts of a stat that change when a file does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StatKey {
    /// Length in bytes.
    pub size: u64,
    /// Modification time, nanoseconds since the epoch.
    pub mtime_ns: i64,
    /// Time of the last change of the inode, nanoseconds since the epoch; the modification time where there is none.
    pub ctime_ns: i64,
    /// Inode number; zero where there is none.
    pub inode: u64,
}

/// What is known of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Record {
    key: StatKey,
    content: Option<[u8; 32]>,
    /// 20 or 32 bytes.
    blob: Option<Vec<u8>>,
}

/// Digests by path and stat. Shared by reference between threads; what it learns is written by [`StatCache::save`].
#[derive(Debug, Default)]
pub struct StatCache {
    file: Option<PathBuf>,
    root: [u8; 32],
    bytes: Vec<u8>,
    /// Where each record of `bytes` starts.
    starts: Vec<usize>,
    learned: Mutex<BTreeMap<Vec<u8>, Record>>,
}

impl StatCache {
    /// A cache that is not kept.
    pub fn in_memory() -> Self {
        Self::default()
    }

    /// The file of a root's cache in a directory that holds the caches of all roots.
    pub fn file_for(directory: &Path, root: &Path) -> PathBuf {
        directory.join(format!("{}.stat", &hash_of(root).to_hex()[..32]))
    }

    /// Reads the cache of a root. A file that is missing, damaged, of another version or of another root is an empty one.
    pub fn load(file: &Path, root: &Path) -> Self {
        let root = *hash_of(root).as_bytes();
        let bytes = std::fs::read(file).unwrap_or_default();
        let starts = parse(&bytes, &root);
        let bytes = if starts.is_some() { bytes } else { Vec::new() };
        Self {
            file: Some(file.to_path_buf()),
            root,
            bytes,
            starts: starts.unwrap_or_default(),
            learned: Mutex::default(),
        }
    }

    /// Whether nothing new was learned since it was read.
    pub fn is_clean(&self) -> bool {
        self.lock().is_empty()
    }

    /// Writes what is known of the manifest's paths, and forgets the others. Does nothing when nothing was learned.
    ///
    /// The file is replaced in one step, so that a reader or a crash never sees half of it.
    ///
    /// # Errors
    /// `Other` when the file cannot be written.
    pub fn save(&self, manifest: &Manifest) -> Result<()> {
        let Some(file) = self.file.as_ref().filter(|_| !self.is_clean()) else {
            return Ok(());
        };
        let failed = || format!("write stat cache {}", file.display());
        let mut bytes = Vec::with_capacity(self.bytes.len() + 4096);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&self.root);
        bytes.extend_from_slice(&[0; 4]);
        let mut count = 0_u32;
        let learned = self.lock();
        for entry in manifest.iter() {
            let old = self.old(entry.path).filter(|record| record.key == entry.key);
            let record = match (learned.get(entry.path).filter(|record| record.key == entry.key), old) {
                (Some(new), Some(old)) => Record {
                    key: new.key,
                    content: new.content.or(old.content),
                    blob: new.blob.clone().or(old.blob),
                },
                (Some(new), None) => new.clone(),
                (None, Some(old)) => old,
                (None, None) => continue,
            };
            write_record(&mut bytes, entry.path, &record);
            count += 1;
        }
        drop(learned);
        bytes[HEADER - 4..HEADER].copy_from_slice(&count.to_le_bytes());
        let check = blake3::hash(&bytes);
        bytes.extend_from_slice(check.as_bytes());

        let directory = file.parent().unwrap_or_else(|| Path::new("."));
        std::fs::create_dir_all(directory).or_error(ErrorKind::Other, failed)?;
        let mut temporary = tempfile::NamedTempFile::new_in(directory).or_error(ErrorKind::Other, failed)?;
        temporary.write_all(&bytes).or_error(ErrorKind::Other, failed)?;
        temporary.persist(file).or_error(ErrorKind::Other, failed)?;
        Ok(())
    }

    /// BLAKE3 digest of a file's content, or of a link's text.
    pub fn content(&self, path: &[u8], key: &StatKey) -> Option<[u8; 32]> {
        if let Some(digest) = self
            .lock()
            .get(path)
            .filter(|record| record.key == *key)
            .and_then(|record| record.content)
        {
            return Some(digest);
        }
        self.old(path)
            .filter(|record| record.key == *key)
            .and_then(|record| record.content)
    }

    /// Id of the object that git would store the file under.
    pub(crate) fn blob(&self, path: &[u8], key: &StatKey) -> Option<Vec<u8>> {
        if let Some(blob) = self
            .lock()
            .get(path)
            .filter(|record| record.key == *key)
            .and_then(|record| record.blob.clone())
        {
            return Some(blob);
        }
        self.old(path)
            .filter(|record| record.key == *key)
            .and_then(|record| record.blob)
    }

    /// The time to pass to the `learn` functions, taken before the file is read.
    pub(crate) fn now() -> i64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(now.as_nanos()).unwrap_or(i64::MAX)
    }

    /// Keeps a content digest, if the file had rested when it was read.
    pub(crate) fn learn_content(&self, path: &[u8], key: StatKey, read_at: i64, digest: [u8; 32]) {
        self.learn(path, key, read_at, |record| record.content = Some(digest));
    }

    /// Keeps an object id, if the file had rested when it was read.
    pub(crate) fn learn_blob(&self, path: &[u8], key: StatKey, read_at: i64, blob: &[u8]) {
        self.learn(path, key, read_at, |record| record.blob = Some(blob.to_vec()));
    }

    fn learn(&self, path: &[u8], key: StatKey, read_at: i64, change: impl FnOnce(&mut Record)) {
        if !has_rested(&key, read_at) || path.len() > usize::from(u16::MAX) {
            return;
        }
        let mut learned = self.lock();
        let record = learned.entry(path.to_vec()).or_default();
        if record.key != key {
            *record = Record {
                key,
                ..Record::default()
            };
        }
        change(record);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Vec<u8>, Record>> {
        self.learned.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn old(&self, path: &[u8]) -> Option<Record> {
        let place = self
            .starts
            .binary_search_by(|start| read_path(&self.bytes, *start).unwrap_or_default().cmp(path))
            .ok()?;
        read_record(&self.bytes, self.starts[place]).map(|(record, _)| record)
    }
}

fn has_rested(key: &StatKey, read_at: i64) -> bool {
    let coarse = key.mtime_ns % 1_000_000_000 == 0 && key.ctime_ns % 1_000_000_000 == 0;
    let rest = if coarse { COARSE_REST_NS } else { REST_NS };
    // Programs set modification times as they like, even into the future; the change time is the kernel's.
    key.ctime_ns.saturating_add(rest) < read_at
}

fn hash_of(root: &Path) -> blake3::Hash {
    blake3::hash(root.as_os_str().as_encoded_bytes())
}

fn write_record(bytes: &mut Vec<u8>, path: &[u8], record: &Record) {
    let blob = record.blob.as_deref();
    let mut flags = if record.content.is_some() { CONTENT } else { 0 };
    flags |= match blob.map(<[u8]>::len) {
        Some(20) => SHA1,
        Some(32) => SHA256,
        _ => 0,
    };
    bytes.extend_from_slice(&u16::try_from(path.len()).unwrap_or(u16::MAX).to_le_bytes());
    bytes.push(flags);
    bytes.extend_from_slice(&record.key.size.to_le_bytes());
    bytes.extend_from_slice(&record.key.mtime_ns.to_le_bytes());
    bytes.extend_from_slice(&record.key.ctime_ns.to_le_bytes());
    bytes.extend_from_slice(&record.key.inode.to_le_bytes());
    bytes.extend_from_slice(path);
    if let Some(content) = &record.content {
        bytes.extend_from_slice(content);
    }
    if let Some(blob) = blob.filter(|_| flags & (SHA1 | SHA256) != 0) {
        bytes.extend_from_slice(blob);
    }
}

/// Where each record starts, or nothing if anything is wrong.
fn parse(bytes: &[u8], root: &[u8; 32]) -> Option<Vec<usize>> {
    let end = bytes.len().checked_sub(32)?;
    let header = bytes.get(..HEADER)?;
    if !header.starts_with(MAGIC) || &header[MAGIC.len()..MAGIC.len() + 32] != root {
        return None;
    }
    if blake3::hash(&bytes[..end]).as_bytes() != &bytes[end..] {
        return None;
    }
    let count = u32::from_le_bytes(header[HEADER - 4..].try_into().ok()?);
    let body = &bytes[..end];
    let mut starts = Vec::with_capacity((count as usize).min(body.len() / FIXED));
    let mut start = HEADER;
    for _ in 0..count {
        starts.push(start);
        start = read_record(body, start)?.1;
    }
    (start == end).then_some(starts)
}

fn read_path(bytes: &[u8], start: usize) -> Option<&[u8]> {
    let length = u16::from_le_bytes(bytes.get(start..start + 2)?.try_into().ok()?);
    bytes.get(start + FIXED..start + FIXED + usize::from(length))
}

/// A record and where the next one starts.
fn read_record(bytes: &[u8], start: usize) -> Option<(Record, usize)> {
    let path = read_path(bytes, start)?;
    let fixed = bytes.get(start..start + FIXED)?;
    let flags = fixed[2];
    let number = |at: usize| -> Option<[u8; 8]> { fixed.get(at..at + 8)?.try_into().ok() };
    let key = StatKey {
        size: u64::from_le_bytes(number(3)?),
        mtime_ns: i64::from_le_bytes(number(11)?),
        ctime_ns: i64::from_le_bytes(number(19)?),
        inode: u64::from_le_bytes(number(27)?),
    };
    let mut next = start + FIXED + path.len();
    let mut take = |length: usize| {
        let part = bytes.get(next..next + length)?;
        next += length;
        Some(part)
    };
    let content = if flags & CONTENT == 0 {
        None
    } else {
        Some(take(32)?.try_into().ok()?)
    };
    let blob = match flags & (SHA1 | SHA256) {
        0 => None,
        SHA1 => Some(take(20)?.to_vec()),
        SHA256 => Some(take(32)?.to_vec()),
        _ => return None,
    };
    Some((Record { key, content, blob }, next))
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "files of a test need no atomic writes")]
mod tests {
    use std::io::Read as _;

    use super::*;
    use crate::rules::Rules;
    use crate::source::{Source, SourceOptions};

    fn source(root: &Path) -> Source {
        let options = SourceOptions {
            directory: true,
            ..SourceOptions::default()
        };
        Source::discover(root, &options).unwrap()
    }

    fn look(source: &Source) -> Manifest {
        Manifest::build(source, &Rules::new([""; 0], [""; 0]), &StatCache::in_memory()).unwrap()
    }

    #[test]
    fn what_is_learned_is_found_again_and_damage_is_forgotten() {
        let tree = tempfile::tempdir().unwrap();
        let state = tempfile::tempdir().unwrap();
        std::fs::write(tree.path().join("a"), "1").unwrap();
        std::fs::write(tree.path().join("b"), "2").unwrap();
        let source = source(tree.path());
        let manifest = look(&source);
        let file = StatCache::file_for(state.path(), source.root());
        let cache = StatCache::load(&file, source.root());
        let key = manifest.entry(0).key;
        let later = key.ctime_ns + COARSE_REST_NS + 1;
        cache.learn_content(b"a", key, later, [7; 32]);
        cache.learn_blob(b"a", key, later, &[9; 20]);
        cache.learn_content(b"gone", key, later, [8; 32]);
        cache.save(&manifest).unwrap();

        let again = StatCache::load(&file, source.root());
        assert!(again.is_clean());
        assert_eq!(again.content(b"a", &key), Some([7; 32]));
        assert_eq!(again.blob(b"a", &key).as_deref(), Some(&[9; 20][..]));
        assert_eq!(again.content(b"gone", &key), None);
        assert_eq!(again.content(b"a", &StatKey { size: 5, ..key }), None);
        assert_eq!(
            StatCache::load(&file, Path::new("/elsewhere")).content(b"a", &key),
            None
        );

        let mut bytes = Vec::new();
        std::fs::File::open(&file).unwrap().read_to_end(&mut bytes).unwrap();
        for place in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[place] ^= 0x40;
            std::fs::write(&file, &damaged).unwrap();
            assert_eq!(
                StatCache::load(&file, source.root()).content(b"a", &key),
                None,
                "byte {place}"
            );
            std::fs::write(&file, &bytes[..place]).unwrap();
            assert_eq!(
                StatCache::load(&file, source.root()).content(b"a", &key),
                None,
                "length {place}"
            );
        }
    }

    #[test]
    fn a_file_that_has_not_rested_is_not_kept() {
        let cache = StatCache::in_memory();
        let key = StatKey {
            size: 1,
            mtime_ns: 5_000_000_001,
            ctime_ns: 5_000_000_001,
            inode: 1,
        };
        cache.learn_content(b"a", key, 5_000_000_001, [1; 32]);
        cache.learn_content(b"a", key, 4_000_000_000, [1; 32]);
        assert!(cache.is_clean());
        let coarse = StatKey {
            mtime_ns: 5_000_000_000,
            ctime_ns: 5_000_000_000,
            ..key
        };
        cache.learn_content(b"a", coarse, 6_500_000_000, [1; 32]);
        assert!(cache.is_clean());
        cache.learn_content(b"a", key, 6_500_000_000, [1; 32]);
        assert_eq!(cache.content(b"a", &key), Some([1; 32]));
    }
}
