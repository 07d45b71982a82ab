//! The names in our directories, and what killed processes leave among them.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

use crabbox_core::{ErrorKind, Result};

use super::io_error;

/// Whether a name is one of ours for something unfinished, which readers skip.
pub(crate) fn is_hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".")
}

/// Lists the names in a directory, sorted; none when it does not exist.
pub(crate) fn names(path: &Path) -> Result<Vec<OsString>> {
    let collect = || -> io::Result<Vec<_>> { fs::read_dir(path)?.map(|entry| Ok(entry?.file_name())).collect() };
    match collect() {
        Ok(mut names) => {
            names.sort();
            Ok(names)
        }
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(cause) => Err(io_error("read directory", path, cause).with_kind(ErrorKind::Other)),
    }
}

/// Removes unfinished files and directories that a killed process left in a directory, once they are old.
///
/// Returns what was removed. Something that cannot be removed is left for the next time.
pub(crate) fn sweep(directory: &Path, older_than: Duration) -> Vec<PathBuf> {
    let mut removed = Vec::new();
    for name in names(directory).unwrap_or_default() {
        let text = name.to_string_lossy();
        let ours = text.starts_with('.') && (text.contains(".tmp-") || text.contains(".removed-"));
        let path = directory.join(&name);
        let age = fs::symlink_metadata(&path)
            .and_then(|metadata| metadata.modified())
            .map(|time| time.elapsed());
        if !ours || !matches!(age, Ok(Ok(age)) if age > older_than) {
            continue;
        }
        let result = if path.is_dir() {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_file(&path)
        };
        if result.is_ok() {
            removed.push(path);
        }
    }
    removed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Disk;

    #[test]
    fn leftovers_of_killed_processes_are_swept_once_old() {
        let root = tempfile::tempdir().unwrap();
        for name in [".x.json.tmp-abc", ".dir.removed-abc", "x.json", ".other"] {
            Disk::new().replace(&root.path().join(name), b"").unwrap();
        }
        assert!(sweep(root.path(), Duration::from_secs(60)).is_empty());
        assert_eq!(sweep(root.path(), Duration::ZERO).len(), 2);
        assert_eq!(names(root.path()).unwrap(), [".other", "x.json"]);
    }
}
