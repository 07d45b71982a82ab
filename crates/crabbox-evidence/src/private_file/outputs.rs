//! All files that a run will write, checked before anything is paid for.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Component, Path, PathBuf};

use crabbox_core::{Error, Result};
use tempfile::Builder;

use super::refuse_special;

const MAX_SYMLINKS: usize = 64;

/// What must be true of a file's directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputKind {
    /// The directory must exist: captures, lease output.
    InExistingDirectory,
    /// Missing directories are created: downloads, timing records.
    CreatesDirectories,
}

/// One file that a run will write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// How the user asked for it, such as `--capture-stdout`.
    pub label: String,
    /// Where it goes, as the user wrote it.
    pub path: PathBuf,
    /// What must be true of its directory.
    pub kind: OutputKind,
}

#[derive(Debug)]
struct Resolved {
    output: Output,
    canonical: PathBuf,
}

/// The files of one run.
#[derive(Debug, Default)]
pub struct OutputSet {
    outputs: Vec<Resolved>,
}

impl OutputSet {
    /// Checks a file against the machine and against all files before it. Relative paths start at `directory`.
    ///
    /// # Errors
    ///
    /// `Usage` when the path is empty, a directory or a device; when its directory is missing or cannot be written; when
    /// another user's file could not be replaced; or when another output of this set is the same file, be it through a
    /// symlink, a hard link, or a directory that ignores case.
    pub fn add(&mut self, directory: &Path, output: Output) -> Result<()> {
        if output.path.as_os_str().is_empty() {
            return Err(Error::usage(format!("path is empty: {}", output.label)).with_hint("name a file"));
        }
        let path = directory.join(&output.path);
        refuse_special(&path).map_err(|error| error.context(&output.label))?;
        check_directory(&path, &output)?;
        let canonical = resolve(&path).map_err(|reason| {
            Error::usage(format!("{}: {reason}: `{}`", output.label, output.path.display()))
                .with_hint("name a file whose directories can be followed")
        })?;
        for other in &self.outputs {
            if same_file(&other.canonical, &canonical) {
                return Err(Error::usage(format!(
                    "{} and {} write the same file: `{}`",
                    other.output.label,
                    output.label,
                    output.path.display()
                ))
                .with_hint("give each of them a file of its own"));
            }
        }
        self.outputs.push(Resolved { output, canonical });
        Ok(())
    }

    /// The files in the order in which they were added.
    pub fn outputs(&self) -> impl Iterator<Item = &Output> {
        self.outputs.iter().map(|resolved| &resolved.output)
    }
}

fn check_directory(path: &Path, output: &Output) -> Result<()> {
    let refuse = |what: &str, directory: &Path, hint: &'static str| {
        Err(Error::usage(format!("{}: {what}: `{}`", output.label, directory.display())).with_hint(hint))
    };
    let mut directory = super::parent(path);
    if output.kind == OutputKind::CreatesDirectories {
        while fs::symlink_metadata(directory).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) {
            match directory.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => directory = parent,
                _ => break,
            }
        }
    }
    match fs::metadata(directory) {
        Ok(metadata) if metadata.is_dir() => {}
        Ok(_) => return refuse("not a directory", directory, "name a file in a directory"),
        Err(_) => return refuse("directory does not exist", directory, "create it first"),
    }
    if !is_writable(directory) {
        return refuse(
            "directory is not writable",
            directory,
            "name a file in a directory that you can write",
        );
    }
    if !is_replaceable(path, directory) {
        return refuse("file belongs to somebody else", path, "name another file");
    }
    Ok(())
}

#[cfg(unix)]
fn is_writable(directory: &Path) -> bool {
    use rustix::fs::{Access, AtFlags, CWD, accessat};
    accessat(CWD, directory, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS).is_ok()
}

#[cfg(not(unix))]
fn is_writable(directory: &Path) -> bool {
    Builder::new().prefix(".crabbox-").tempfile_in(directory).is_ok()
}

/// In a sticky directory such as `/tmp`, only an owner can replace a file.
#[cfg(unix)]
fn is_replaceable(path: &Path, directory: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    const STICKY: u32 = 0o1000;
    let (Ok(file), Ok(directory)) = (fs::symlink_metadata(path), fs::metadata(directory)) else {
        return true;
    };
    let user = rustix::process::geteuid();
    directory.mode() & STICKY == 0 || user.is_root() || [file.uid(), directory.uid()].contains(&user.as_raw())
}

#[cfg(not(unix))]
fn is_replaceable(_path: &Path, _directory: &Path) -> bool {
    true
}

/// The path with every symlink followed, the last one included; parts that do not exist yet stay as they are.
fn resolve(path: &Path) -> Result<PathBuf, &'static str> {
    let mut pending: Vec<OsString> = parts(path);
    let mut resolved = PathBuf::new();
    let mut links = 0;
    while let Some(part) = pending.pop() {
        if part == ".." {
            resolved.pop();
            continue;
        }
        let next = resolved.join(&part);
        match fs::read_link(&next) {
            Err(_) => resolved = next,
            Ok(target) => {
                links += 1;
                if links > MAX_SYMLINKS {
                    return Err("too many symbolic links");
                }
                if target.is_absolute() {
                    resolved = PathBuf::new();
                }
                pending.extend(parts(&target));
            }
        }
    }
    Ok(resolved)
}

/// The parts of a path, last first, without `.`.
fn parts(path: &Path) -> Vec<OsString> {
    let mut parts: Vec<OsString> = path
        .components()
        .filter(|part| *part != Component::CurDir)
        .map(|part| part.as_os_str().to_owned())
        .collect();
    parts.reverse();
    parts
}

fn same_file(left: &Path, right: &Path) -> bool {
    left == right || same_inode(left, right) || same_but_for_case(left, right)
}

#[cfg(unix)]
fn same_inode(left: &Path, right: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    match (fs::metadata(left), fs::metadata(right)) {
        (Ok(left), Ok(right)) => (left.dev(), left.ino()) == (right.dev(), right.ino()),
        _ => false,
    }
}

#[cfg(not(unix))]
fn same_inode(_left: &Path, _right: &Path) -> bool {
    false
}

fn same_but_for_case(left: &Path, right: &Path) -> bool {
    let fold = |path: &Path| path.to_string_lossy().to_lowercase();
    if fold(left) != fold(right) {
        return false;
    }
    let common = left
        .components()
        .zip(right.components())
        .take_while(|(left, right)| left == right);
    let mut directory: PathBuf = common.map(|(part, _)| part.as_os_str()).collect();
    while !directory.is_dir() && directory.pop() {}
    ignores_case(&directory)
}

/// Creates a file and looks for it under its name in the other case.
fn ignores_case(directory: &Path) -> bool {
    let Ok(probe) = Builder::new().prefix(".crabbox-case-").tempfile_in(directory) else {
        // Whoever cannot tell assumes the worse.
        return true;
    };
    let name = probe
        .path()
        .file_name()
        .unwrap_or(OsStr::new(""))
        .to_string_lossy()
        .into_owned();
    let upper = name.to_uppercase();
    let flipped = if upper == name { name.to_lowercase() } else { upper };
    fs::symlink_metadata(directory.join(flipped)).is_ok()
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::{Output, OutputKind, OutputSet, ignores_case, resolve};

    fn output(label: &str, path: &str, kind: OutputKind) -> Output {
        Output {
            label: label.to_owned(),
            path: path.into(),
            kind,
        }
    }

    fn check(directory: &Path, paths: &[&str]) -> Result<(), String> {
        let mut set = OutputSet::default();
        for (index, path) in paths.iter().enumerate() {
            set.add(
                directory,
                output(&format!("--output-{index}"), path, OutputKind::CreatesDirectories),
            )
            .map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    #[test]
    fn one_file_under_two_names_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        fs::create_dir(root.join("real")).unwrap();
        symlink("real", root.join("alias")).unwrap();
        symlink("real/later", root.join("link")).unwrap();
        super::super::write_private(&root.join("a"), b"").unwrap();
        fs::hard_link(root.join("a"), root.join("b")).unwrap();
        for pair in [
            ["x", "x"],
            ["x", "./x"],
            ["x", "real/../x"],
            ["real/new/x", "alias/new/x"],
            ["link", "alias/later"],
            ["a", "b"],
        ] {
            let error = check(root, &pair).unwrap_err();
            assert_eq!(
                error,
                format!("--output-0 and --output-1 write the same file: `{}`", pair[1])
            );
        }
        check(root, &["x", "y", "real/x", "real/new/x"]).unwrap();
    }

    #[test]
    fn names_that_differ_in_case_follow_the_directory() {
        let directory = tempfile::tempdir().unwrap();
        let ignored = ignores_case(directory.path());
        assert_eq!(check(directory.path(), &["Out", "out"]).is_err(), ignored);
        assert_eq!(check(directory.path(), &["new/Out", "NEW/out"]).is_err(), ignored);
    }

    #[test]
    fn directories_are_checked() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        super::super::write_private(&root.join("file"), b"").unwrap();
        symlink("loop", root.join("loop")).unwrap();
        let mut set = OutputSet::default();
        let mut add = |path: &str, kind| {
            set.add(root, output("--x", path, kind))
                .map_err(|error| error.to_string())
        };
        let missing = add("absent/x", OutputKind::InExistingDirectory).unwrap_err();
        assert_eq!(
            missing,
            format!("--x: directory does not exist: `{}`", root.join("absent").display())
        );
        assert!(
            add("file/x", OutputKind::CreatesDirectories)
                .unwrap_err()
                .contains("not a directory")
        );
        assert!(
            add(".", OutputKind::CreatesDirectories)
                .unwrap_err()
                .contains("is a directory")
        );
        assert!(
            add("", OutputKind::CreatesDirectories)
                .unwrap_err()
                .contains("path is empty")
        );
        assert!(
            add("loop", OutputKind::CreatesDirectories)
                .unwrap_err()
                .contains("too many symbolic links")
        );
        add("absent/x", OutputKind::CreatesDirectories).unwrap();
        assert_eq!(set.outputs().count(), 1);
    }

    #[test]
    fn parents_above_missing_parts_are_lexical() {
        assert_eq!(
            resolve(Path::new("/nonexistent/a/../b/./c")).unwrap(),
            Path::new("/nonexistent/b/c")
        );
    }
}
