//! Paths as bytes with `/` between their parts, whatever the machine calls them.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// Full path of a path from the root.
pub(crate) fn full_path(root: &Path, path: &[u8]) -> PathBuf {
    root.join(to_path(path))
}

/// A path from bytes.
#[cfg(unix)]
pub(crate) fn to_path(path: &[u8]) -> Cow<'_, Path> {
    use std::os::unix::ffi::OsStrExt as _;
    Cow::Borrowed(Path::new(OsStr::from_bytes(path)))
}

/// A path from bytes. Names here are Unicode, so other bytes cannot name anything.
#[cfg(not(unix))]
pub(crate) fn to_path(path: &[u8]) -> Cow<'_, Path> {
    Cow::Owned(PathBuf::from(String::from_utf8_lossy(path).into_owned()))
}

/// The bytes of a name or of a link's text.
#[cfg(unix)]
pub(crate) fn to_bytes(name: &OsStr) -> Cow<'_, [u8]> {
    use std::os::unix::ffi::OsStrExt as _;
    Cow::Borrowed(name.as_bytes())
}

/// The bytes of a name or of a link's text.
#[cfg(not(unix))]
pub(crate) fn to_bytes(name: &OsStr) -> Cow<'_, [u8]> {
    Cow::Owned(name.to_string_lossy().replace('\\', "/").into_bytes())
}

/// Opens a regular file for reading. A link or a pipe in its place is an error, and never followed or waited for.
#[cfg(unix)]
pub(crate) fn open_file(path: &Path) -> std::io::Result<std::fs::File> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    regular(rustix::fs::open(path, flags, Mode::empty())?.into())
}

/// Opens a regular file for reading.
#[cfg(not(unix))]
pub(crate) fn open_file(path: &Path) -> std::io::Result<std::fs::File> {
    regular(std::fs::File::open(path)?)
}

fn regular(file: std::fs::File) -> std::io::Result<std::fs::File> {
    if file.metadata()?.is_file() {
        return Ok(file);
    }
    Err(std::io::Error::new(
        std::io::ErrorKind::InvalidInput,
        "not a regular file",
    ))
}
