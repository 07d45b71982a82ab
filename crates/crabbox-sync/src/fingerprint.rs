//! The digest that lets a sync be skipped: equal on both sides, nothing needs to travel.
//!
//! It covers the commit that the box was seeded with, the rules and options, both path lists, and the content of every
//! changed path. A symbolic link counts with its text, never with what it points to.

use std::io::{Read as _, Write as _};
use std::path::Path;

use crabbox_core::{ErrorKind, IntoError as _, Result};
use gix::bstr::ByteSlice as _;
use sha2::{Digest as _, Sha256};

use crate::manifest::{EntryKind, Manifest};
use crate::paths::{full_path, open_file, to_bytes};
use crate::rules::Rules;

/// What the box was seeded with, and the options of the sync.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FingerprintHeader {
    /// Address that the box fetched from.
    pub remote: String,
    /// Branch that holds the commit.
    pub branch: String,
    /// The commit, in hexadecimal.
    pub head: String,
    /// The commit's tree, in hexadecimal.
    pub tree: String,
    /// `sync.delete`.
    pub delete: bool,
    /// `sync.checksum`.
    pub checksum: bool,
}

/// Computes the fingerprint, 64 hexadecimal digits.
///
/// # Errors
/// `Sync` when a changed file cannot be read; the caller warns and syncs in full.
pub fn fingerprint(root: &Path, manifest: &Manifest, rules: &Rules, header: &FingerprintHeader) -> Result<String> {
    let mut hasher = Sha256::new();
    hasher.update(format!(
        "v5\nremote={}\nbranch={}\nhead={}\ntree={}\ndelete={}\nchecksum={}\n",
        header.remote, header.branch, header.head, header.tree, header.delete, header.checksum
    ));
    let mut list = Sha256::new();
    for entry in manifest.iter() {
        list.update(entry.path);
        list.update([0]);
    }
    let mut gone = Sha256::new();
    for path in manifest.deleted() {
        gone.update(path);
        gone.update([0]);
    }
    hasher.update(format!(
        "manifest={}\ndeleted={}\n",
        hex(&list.finalize()),
        hex(&gone.finalize())
    ));
    for (origin, pattern) in rules.list() {
        hasher.update(format!("exclude={}:{pattern}\n", origin.digit()));
    }
    let mut buffer = vec![0; 128 * 1024];
    for (path, entry) in manifest.changed() {
        hasher.update(b"path=");
        hasher.update(path);
        hasher.update(b"\n");
        let Some(entry) = entry else {
            hasher.update(b"missing\n");
            continue;
        };
        hasher.update(format!(
            "mode={} size={}\n",
            mode_text(entry.kind, entry.mode),
            entry.size
        ));
        let full = full_path(root, path);
        let failed = || format!("fingerprint `{}`", path.as_bstr());
        match entry.kind {
            EntryKind::Symlink => {
                let target = full.read_link().or_error(ErrorKind::Sync, failed)?;
                hasher.update(&*to_bytes(target.as_os_str()));
            }
            EntryKind::File => {
                let mut file = open_file(&full).or_error(ErrorKind::Sync, failed)?;
                loop {
                    match file.read(&mut buffer).or_error(ErrorKind::Sync, failed)? {
                        0 => break,
                        length => hasher.update(&buffer[..length]),
                    }
                }
            }
        }
        hasher.update([0]);
    }
    Ok(hex(&hasher.finalize()))
}

/// Mode as Go prints it: `-rw-r--r--`, `Lrwxrwxrwx`.
fn mode_text(kind: EntryKind, mode: u32) -> String {
    let mut text = String::from(if kind == EntryKind::Symlink { "L" } else { "-" });
    for (place, letter) in "rwxrwxrwx".chars().enumerate() {
        text.push(if mode & (0o400 >> place) == 0 { '-' } else { letter });
    }
    text
}

fn hex(bytes: &[u8]) -> String {
    let mut text = Vec::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a vector cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    String::from_utf8(text).unwrap_or_default()
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "files of a test need no atomic writes")]
mod tests {
    use super::*;
    use crate::source::{Source, SourceOptions};
    use crate::stat_cache::StatCache;

    fn header() -> FingerprintHeader {
        FingerprintHeader {
            remote: "https://github.com/o/r.git".to_owned(),
            branch: "main".to_owned(),
            head: "1".repeat(40),
            tree: "2".repeat(40),
            delete: true,
            checksum: false,
        }
    }

    fn print(root: &Path, excludes: &[&str], header: &FingerprintHeader) -> String {
        let options = SourceOptions {
            directory: true,
            ..SourceOptions::default()
        };
        let source = Source::discover(root, &options).unwrap();
        let rules = Rules::new(excludes, [""; 0]);
        let manifest = Manifest::build(&source, &rules, &StatCache::in_memory()).unwrap();
        fingerprint(root, &manifest, &rules, header).unwrap()
    }

    #[test]
    fn the_layout_is_the_documented_one() {
        let tree = tempfile::tempdir().unwrap();
        std::fs::write(tree.path().join("a"), "hi").unwrap();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            std::fs::set_permissions(tree.path().join("a"), std::fs::Permissions::from_mode(0o644)).unwrap();
        }
        let rules = Rules::new(["x"], [""; 0]);
        let mut text = format!(
            "v5\nremote=https://github.com/o/r.git\nbranch=main\nhead={}\ntree={}\ndelete=true\nchecksum=false\n",
            "1".repeat(40),
            "2".repeat(40)
        );
        text += &format!(
            "manifest={}\ndeleted={}\n",
            hex(&Sha256::digest(b"a\0")),
            hex(&Sha256::digest(b""))
        );
        for (origin, pattern) in rules.list() {
            text += &format!("exclude={}:{pattern}\n", origin.digit());
        }
        assert!(text.contains("exclude=0:.git\n") && text.contains("exclude=1:x\nexclude=2:.crabbox/env\n"));
        text += "path=a\nmode=-rw-r--r-- size=2\nhi\0";
        assert_eq!(
            print(tree.path(), &["x"], &header()),
            hex(&Sha256::digest(text.as_bytes()))
        );
    }

    #[test]
    fn every_input_counts() {
        let tree = tempfile::tempdir().unwrap();
        std::fs::write(tree.path().join("a"), "one").unwrap();
        let mut seen = vec![print(tree.path(), &[], &header())];
        seen.push(print(tree.path(), &["x"], &header()));
        seen.push(print(
            tree.path(),
            &[],
            &FingerprintHeader {
                delete: false,
                ..header()
            },
        ));
        seen.push(print(
            tree.path(),
            &[],
            &FingerprintHeader {
                head: "3".repeat(40),
                ..header()
            },
        ));
        std::fs::write(tree.path().join("a"), "two").unwrap();
        seen.push(print(tree.path(), &[], &header()));
        std::fs::write(tree.path().join("b"), "").unwrap();
        seen.push(print(tree.path(), &[], &header()));
        for (place, print) in seen.iter().enumerate() {
            assert!(!seen[..place].contains(print), "{place}");
        }
    }
}
