//! Creating directories for secrets without being led elsewhere by a planted link.

use std::io;
use std::path::{Component, Path, PathBuf};

use crabbox_core::{Error, Result};

use crate::disk::{Disk, Step, io_error};

/// Creates a directory component by component, mode 0700, refusing symbolic links below the nearest trusted directory.
///
/// Above it (a home directory, the temporary directory, else the top-level directory) links are the system's business.
///
/// # Errors
/// `Identity` when a component is a link; `Usage` when one is not a directory, the path is relative or not writable.
pub(crate) fn create_directory(disk: &Disk, path: &Path, trusted: &[PathBuf]) -> Result<()> {
    let (base, rest) = split(path, trusted)?;
    disk.create_directory(&base)?;
    walk(disk, &base, &rest).map_err(|(path, cause)| refusal(&path, cause))
}

/// Checks the same of an existing directory; `false` when it does not exist.
///
/// # Errors
/// As [`create_directory`].
pub(crate) fn check_directory(path: &Path, trusted: &[PathBuf]) -> Result<bool> {
    let (mut current, rest) = split(path, trusted)?;
    for name in rest {
        current.push(name);
        match std::fs::symlink_metadata(&current) {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(cause) => return Err(io_error("look at", &current, cause)),
            Ok(metadata) if metadata.is_symlink() => return Err(link(&current)),
            Ok(metadata) if !metadata.is_dir() => {
                return Err(io_error("look at", &current, io::ErrorKind::NotADirectory.into()));
            }
            Ok(_) => {}
        }
    }
    Ok(current.is_dir())
}

fn split(path: &Path, trusted: &[PathBuf]) -> Result<(PathBuf, Vec<std::ffi::OsString>)> {
    let plain = path
        .components()
        .all(|component| !matches!(component, Component::ParentDir | Component::CurDir));
    if !path.is_absolute() || !plain {
        return Err(Error::usage(format!("not an absolute path: `{}`", path.display())));
    }
    let top: PathBuf = path
        .components()
        .take_while(|part| !matches!(part, Component::Normal(_)))
        .collect();
    let first = path.components().find(|part| matches!(part, Component::Normal(_)));
    let top = first.map_or_else(|| top.clone(), |first| top.join(first));
    let base = trusted
        .iter()
        .filter(|candidate| path.starts_with(candidate) && candidate.starts_with(&top))
        .max_by_key(|candidate| candidate.components().count())
        .unwrap_or(&top);
    let rest = path.strip_prefix(base).unwrap_or(path).components();
    Ok((base.clone(), rest.map(|part| part.as_os_str().to_owned()).collect()))
}

fn refusal(path: &Path, cause: io::Error) -> Error {
    if std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink()) {
        link(path)
    } else {
        io_error("create directory", path, cause)
    }
}

fn link(path: &Path) -> Error {
    Error::identity(format!(
        "directory for secrets is a symbolic link: `{}`",
        path.display()
    ))
    .with_hint("replace the link with a real directory, or set XDG_CONFIG_HOME to one")
}

/// Walks by directory handles, so that a link planted between two looks is not followed either.
#[cfg(unix)]
fn walk(disk: &Disk, base: &Path, rest: &[std::ffi::OsString]) -> std::result::Result<(), (PathBuf, io::Error)> {
    use rustix::fs::{CWD, Mode, OFlags, fchmod, fstat, fsync, mkdirat, openat};
    use rustix::io::Errno;

    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut path = base.to_path_buf();
    let mut handle = openat(CWD, base, flags, Mode::empty()).map_err(|cause| (path.clone(), cause.into()))?;
    for (index, name) in rest.iter().enumerate() {
        path.push(name);
        let fail = |cause: io::Error| (path.clone(), cause);
        let next = match openat(&handle, name, flags | OFlags::NOFOLLOW, Mode::empty()) {
            Err(Errno::NOENT) => {
                disk.before(Step::CreateDirectory, &path).map_err(fail)?;
                match mkdirat(&handle, name, Mode::RWXU) {
                    Ok(()) if disk.is_synced() => {
                        disk.before(Step::SyncDirectory, &path).map_err(fail)?;
                        match fsync(&handle) {
                            Ok(()) | Err(Errno::INVAL | Errno::OPNOTSUPP) => {}
                            Err(cause) => return Err(fail(cause.into())),
                        }
                    }
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(cause) => return Err(fail(cause.into())),
                }
                openat(&handle, name, flags | OFlags::NOFOLLOW, Mode::empty())
            }
            result => result,
        };
        handle = next.map_err(|cause| fail(cause.into()))?;
        if index + 1 == rest.len() {
            // Only the innermost directory holds secrets and is ours alone to narrow.
            let mode = Mode::from_raw_mode(fstat(&handle).map_err(|cause| fail(cause.into()))?.st_mode);
            if mode.intersects(Mode::RWXG | Mode::RWXO) {
                fchmod(&handle, Mode::RWXU).map_err(|cause| fail(cause.into()))?;
            }
        }
    }
    Ok(())
}

#[cfg(not(unix))]
fn walk(disk: &Disk, base: &Path, rest: &[std::ffi::OsString]) -> std::result::Result<(), (PathBuf, io::Error)> {
    let mut path = base.to_path_buf();
    for name in rest {
        path.push(name);
        match std::fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_dir() => continue,
            Ok(_) => return Err((path, io::ErrorKind::NotADirectory.into())),
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => return Err((path, cause)),
            Err(_) => {}
        }
        let created = disk
            .before(Step::CreateDirectory, &path)
            .and_then(|()| crate::disk::private_directory().create(&path));
        created.map_err(|cause| (path.clone(), cause))?;
    }
    Ok(())
}

#[cfg(all(test, unix))]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use crabbox_core::ErrorKind;

    use super::*;

    #[test]
    fn the_nearest_trusted_directory_is_the_boundary() {
        let trusted = [PathBuf::from("/home/ada"), PathBuf::from("/tmp"), PathBuf::from("/")];
        let base = |path: &str| split(Path::new(path), &trusted).unwrap().0;
        assert_eq!(base("/home/ada/.config/x"), Path::new("/home/ada"));
        assert_eq!(base("/tmp/x/y"), Path::new("/tmp"));
        assert_eq!(base("/srv/a/b"), Path::new("/srv"));
        assert!(split(Path::new("/home/ada/../eve"), &trusted).is_err());
        assert!(split(Path::new("x"), &trusted).is_err());
    }

    #[test]
    fn planted_links_are_refused_wherever_they_are() {
        let root = tempfile::tempdir().unwrap();
        let trusted = [root.path().to_path_buf()];
        let outside = root.path().join("outside");
        fs::create_dir(&outside).unwrap();
        for depth in 1..=3 {
            let start = root.path().join(format!("d{depth}"));
            let path = start.join("a").join("b").join("c");
            let planted = path.ancestors().nth(3 - depth).unwrap().to_path_buf();
            fs::create_dir_all(planted.parent().unwrap()).unwrap();
            symlink(&outside, &planted).unwrap();
            let error = create_directory(&Disk::new(), &path, &trusted).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Identity, "{error}");
            assert_eq!(
                error.message(),
                format!("directory for secrets is a symbolic link: `{}`", planted.display())
            );
            assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
            assert!(check_directory(&path, &trusted).is_err());
        }
    }

    #[test]
    fn the_innermost_directory_is_private_even_if_it_was_not() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a/b");
        fs::create_dir_all(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        create_directory(&Disk::new(), &path, &[root.path().to_path_buf()]).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        assert!(check_directory(&path, &[root.path().to_path_buf()]).unwrap());
        assert!(!check_directory(&path.join("c"), &[root.path().to_path_buf()]).unwrap());
    }
}
