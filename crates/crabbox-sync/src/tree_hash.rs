//! One hash of everything a manifest sends: the identity of the tree that a command ran on.
//!
//! # Format
//! BLAKE3 over `crabbox-tree-v1` and a newline, then for each entry in bytewise order of paths: one byte (`f` file, `x`
//! executable file, `l` symbolic link), the path, NUL, and the 32 bytes of the BLAKE3 hash of the file's content or of
//! the link's text. Times, owners and the other permission bits are not part of it, so that the same tree has the same
//! hash on every machine.

use std::fmt;
use std::io::Read as _;
use std::path::Path;

use crabbox_core::{Error, ErrorKind, IntoError as _, Result};
use gix::bstr::ByteSlice as _;
use rayon::iter::{IntoParallelIterator as _, ParallelIterator as _};

use crate::manifest::{Entry, EntryKind, Manifest, stat_key};
use crate::paths::{full_path, open_file, to_bytes};
use crate::stat_cache::StatCache;

const HEADER: &[u8] = b"crabbox-tree-v1\n";
const BUFFER: usize = 128 * 1024;

/// The hash of a tree; displayed as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TreeHash([u8; 32]);

impl TreeHash {
    /// Hashes the files of a manifest where they are. Files that the cache knows are not read; it learns the others.
    ///
    /// # Errors
    /// `Sync` when a file cannot be read, or is not what it was when the manifest was built.
    pub fn of(root: &Path, manifest: &Manifest, cache: &StatCache) -> Result<Self> {
        let digests: Vec<[u8; 32]> = (0..manifest.len())
            .into_par_iter()
            .map_init(
                || vec![0; BUFFER],
                |buffer, place| {
                    let entry = manifest.entry(place);
                    match cache.content(entry.path, &entry.key) {
                        Some(digest) => Ok(digest),
                        None => {
                            let read_at = StatCache::now();
                            let digest = digest(root, &entry, buffer)?;
                            cache.learn_content(entry.path, entry.key, read_at, digest);
                            Ok(digest)
                        }
                    }
                },
            )
            .collect::<Result<_>>()?;
        let mut hasher = blake3::Hasher::new();
        hasher.update(HEADER);
        for (entry, digest) in manifest.iter().zip(&digests) {
            let kind: &[u8] = match entry.kind {
                EntryKind::Symlink => b"l",
                EntryKind::File if entry.is_executable() => b"x",
                EntryKind::File => b"f",
            };
            hasher.update(kind).update(entry.path).update(&[0]).update(digest);
        }
        Ok(Self(*hasher.finalize().as_bytes()))
    }

    /// The bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for TreeHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl fmt::Debug for TreeHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "TreeHash({self})")
    }
}

fn digest(root: &Path, entry: &Entry<'_>, buffer: &mut [u8]) -> Result<[u8; 32]> {
    let path = full_path(root, entry.path);
    let failed = || format!("hash `{}`", entry.path.as_bstr());
    if entry.kind == EntryKind::Symlink {
        let target = path.read_link().or_error(ErrorKind::Sync, failed)?;
        return Ok(*blake3::hash(&to_bytes(target.as_os_str())).as_bytes());
    }
    let mut file = open_file(&path).or_error(ErrorKind::Sync, failed)?;
    let mut hasher = blake3::Hasher::new();
    loop {
        match file.read(buffer).or_error(ErrorKind::Sync, failed)? {
            0 => break,
            length => {
                hasher.update(&buffer[..length]);
            }
        }
    }
    let metadata = file.metadata().or_error(ErrorKind::Sync, failed)?;
    if stat_key(&metadata) != entry.key {
        return Err(changed_meanwhile(entry.path));
    }
    Ok(*hasher.finalize().as_bytes())
}

/// The error about a file that somebody writes to while it is read.
pub(crate) fn changed_meanwhile(path: &[u8]) -> Error {
    Error::sync(format!("file changed while it was being synced: `{}`", path.as_bstr()))
        .with_hint("run again when nothing writes to the checkout, or exclude the file")
        .with_facts(|facts| facts.retryable = true)
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "files of a test need no atomic writes")]
mod tests {
    use super::*;
    use crate::rules::Rules;
    use crate::source::{Source, SourceOptions};

    fn hash(root: &Path, cache: &StatCache) -> Result<TreeHash> {
        let options = SourceOptions {
            directory: true,
            ..SourceOptions::default()
        };
        let source = Source::discover(root, &options)?;
        let manifest = Manifest::build(&source, &Rules::new([""; 0], [""; 0]), cache)?;
        TreeHash::of(root, &manifest, cache)
    }

    #[test]
    fn the_format_is_fixed() {
        let tree = tempfile::tempdir().unwrap();
        std::fs::create_dir(tree.path().join("d")).unwrap();
        std::fs::write(tree.path().join("d/a"), "alpha").unwrap();
        std::fs::write(tree.path().join("b"), "").unwrap();
        let mut expected = blake3::Hasher::new();
        expected
            .update(b"crabbox-tree-v1\nfb\0")
            .update(blake3::hash(b"").as_bytes());
        expected.update(b"fd/a\0").update(blake3::hash(b"alpha").as_bytes());
        let found = hash(tree.path(), &StatCache::in_memory()).unwrap();
        assert_eq!(found.to_string(), expected.finalize().to_hex().as_str());
    }

    #[cfg(unix)]
    #[test]
    fn content_names_links_and_the_executable_bit_count_and_times_do_not() {
        use std::os::unix::fs::{PermissionsExt as _, symlink};
        let tree = tempfile::tempdir().unwrap();
        let file = tree.path().join("a");
        let cache = StatCache::in_memory();
        std::fs::write(&file, "one").unwrap();
        let first = hash(tree.path(), &cache).unwrap();
        std::fs::File::open(&file)
            .unwrap()
            .set_modified(std::time::UNIX_EPOCH)
            .unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(hash(tree.path(), &cache).unwrap(), first);
        let mut seen = vec![first];
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        seen.push(hash(tree.path(), &cache).unwrap());
        std::fs::write(&file, "two").unwrap();
        seen.push(hash(tree.path(), &cache).unwrap());
        std::fs::rename(&file, tree.path().join("b")).unwrap();
        seen.push(hash(tree.path(), &cache).unwrap());
        symlink("nowhere", &file).unwrap();
        seen.push(hash(tree.path(), &cache).unwrap());
        std::fs::remove_file(&file).unwrap();
        symlink("elsewhere", &file).unwrap();
        seen.push(hash(tree.path(), &cache).unwrap());
        for (place, hash) in seen.iter().enumerate() {
            assert!(!seen[..place].contains(hash), "{place}");
        }
    }

    #[test]
    fn a_file_that_changed_since_the_manifest_is_an_error() {
        let tree = tempfile::tempdir().unwrap();
        std::fs::write(tree.path().join("a"), "one").unwrap();
        let options = SourceOptions {
            directory: true,
            ..SourceOptions::default()
        };
        let source = Source::discover(tree.path(), &options).unwrap();
        let manifest = Manifest::build(&source, &Rules::new([""; 0], [""; 0]), &StatCache::in_memory()).unwrap();
        std::fs::write(tree.path().join("a"), "three").unwrap();
        let error = TreeHash::of(tree.path(), &manifest, &StatCache::in_memory()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Sync);
        assert!(error.is_retryable());
    }
}
