//! What a failing disk means to the user.

use std::error::Error as _;
use std::io;
use std::path::Path;

use crabbox_core::{Error, ErrorKind};

/// Turns a failure of the disk into an error that names the path and the cure.
pub(crate) fn io_error(action: &str, path: &Path, cause: io::Error) -> Error {
    let (kind, hint) = match cause.kind() {
        full if is_full(full) => (
            ErrorKind::Other,
            Some("free some disk space and try again; what was stored before is unchanged"),
        ),
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => (
            ErrorKind::Usage,
            Some("make it writable for your user; XDG_STATE_HOME and XDG_CONFIG_HOME choose other places"),
        ),
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists | io::ErrorKind::IsADirectory => {
            (ErrorKind::Usage, Some("move what is there out of the way"))
        }
        _ => (ErrorKind::Other, None),
    };
    let error = Error::new(kind, format!("{action}: `{}`", path.display())).with_source(cause);
    match hint {
        Some(hint) => error.with_hint(hint),
        None => error,
    }
}

/// Whether a write failed because there is no room for it, so that making room is the cure.
pub fn lacks_space(error: &Error) -> bool {
    let mut cause = error.source();
    while let Some(error) = cause {
        if error
            .downcast_ref::<io::Error>()
            .is_some_and(|error| is_full(error.kind()))
        {
            return true;
        }
        cause = error.source();
    }
    false
}

fn is_full(kind: io::ErrorKind) -> bool {
    matches!(
        kind,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_is_told_what_to_change() {
        for (cause, code, cure) in [
            (io::ErrorKind::StorageFull, 1, "free some disk space"),
            (io::ErrorKind::QuotaExceeded, 1, "free some disk space"),
            (io::ErrorKind::PermissionDenied, 2, "make it writable"),
            (io::ErrorKind::ReadOnlyFilesystem, 2, "make it writable"),
            (io::ErrorKind::NotADirectory, 2, "move what is there"),
        ] {
            let error = io_error("write", Path::new("/state/claims/x.json"), cause.into());
            assert!(
                error.to_string().starts_with("write: `/state/claims/x.json`: "),
                "{error}"
            );
            assert_eq!(error.kind().exit_code(), code, "{error}");
            assert!(error.hint().is_some_and(|hint| hint.starts_with(cure)), "{error}");
        }
        assert_eq!(
            io_error("write", Path::new("x"), io::ErrorKind::BrokenPipe.into()).hint(),
            None
        );
    }
}
