//! Reading stored records without trusting what somebody may have put in their place.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read as _};
use std::path::Path;

use crabbox_core::Error;

use crate::disk::io_error;

/// Most bytes of one record; what is longer is not one of ours.
pub(crate) const RECORD_LIMIT: u64 = 1 << 20;

/// Attempts to read a file that changes under our eyes.
const ATTEMPTS: usize = 3;

/// Why a record could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadFailure {
    #[error("not a regular file")]
    NonRegular,
    #[error("larger than {0} bytes")]
    TooLarge(u64),
    #[error("changed while it was read")]
    Changed,
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl ReadFailure {
    pub(crate) fn into_error(self, action: &str, path: &Path) -> Error {
        match self {
            Self::Io(cause) => io_error(action, path, cause),
            other => Error::identity(format!("{action}: `{}`", path.display()))
                .with_source(other)
                .with_hint("this is not a file of ours; look at it and move it away"),
        }
    }
}

/// Reads a regular file of at most `limit` bytes; `None` when there is none. Symbolic links are not followed and a
/// pipe does not block.
pub(crate) fn bounded(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, ReadFailure> {
    for _ in 0..ATTEMPTS {
        let file = match open(path) {
            Ok(file) => file,
            Err(ReadFailure::Io(cause)) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(failure) => return Err(failure),
        };
        let before = file.metadata()?;
        if !before.is_file() {
            return Err(ReadFailure::NonRegular);
        }
        if before.len() > limit {
            return Err(ReadFailure::TooLarge(limit));
        }
        let mut content = Vec::with_capacity(usize::try_from(before.len()).unwrap_or_default());
        (&file).take(limit + 1).read_to_end(&mut content)?;
        if content.len() as u64 > limit {
            return Err(ReadFailure::TooLarge(limit));
        }
        if same(&before, &file.metadata()?) && content.len() as u64 == before.len() {
            return Ok(Some(content));
        }
    }
    Err(ReadFailure::Changed)
}

fn same(before: &Metadata, after: &Metadata) -> bool {
    before.len() == after.len() && before.modified().ok() == after.modified().ok()
}

#[cfg(unix)]
fn open(path: &Path) -> Result<File, ReadFailure> {
    use std::os::unix::fs::OpenOptionsExt as _;

    use rustix::fs::OFlags;
    use rustix::io::Errno;

    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC).bits();
    OpenOptions::new()
        .read(true)
        .custom_flags(flags.cast_signed())
        .open(path)
        .map_err(|cause| {
            // A symbolic link, or a socket.
            match cause.raw_os_error().map(Errno::from_raw_os_error) {
                Some(Errno::LOOP | Errno::NXIO) => ReadFailure::NonRegular,
                _ => ReadFailure::Io(cause),
            }
        })
}

#[cfg(not(unix))]
fn open(path: &Path) -> Result<File, ReadFailure> {
    if !std::fs::symlink_metadata(path)?.is_file() {
        return Err(ReadFailure::NonRegular);
    }
    Ok(OpenOptions::new().read(true).open(path)?)
}
