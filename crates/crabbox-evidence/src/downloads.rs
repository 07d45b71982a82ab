//! Files that a run fetches from the box: `--download remote=local`.

use std::path::PathBuf;

use crabbox_core::{Error, Result};

use crate::private_file::{Output, OutputKind};

/// Largest download through a provider that runs commands itself.
pub const DELEGATED_MAX_BYTES: u64 = 64 << 10;

/// One file to fetch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Download {
    /// Path on the box, relative to the workdir unless it is absolute.
    pub remote: String,
    /// Path on this machine.
    pub local: PathBuf,
}

impl Download {
    /// Reads `remote=local`; the first `=` splits.
    ///
    /// # Errors
    ///
    /// `Usage` when a side is missing, or the remote path cannot be a file.
    pub fn parse(text: &str) -> Result<Self> {
        let refuse = |what: &str| {
            Error::usage(format!("--download {what}: `{}`", text.escape_debug()))
                .with_hint("write it as `path/on/the/box=path/here`")
        };
        let (remote, local) = text.split_once('=').ok_or_else(|| refuse("has no `=`"))?;
        if remote.trim().is_empty() || local.trim().is_empty() {
            return Err(refuse("lacks a path"));
        }
        if remote.contains('\0') || local.contains('\0') {
            return Err(refuse("contains a NUL byte"));
        }
        let last = remote.rsplit('/').next().unwrap_or_default();
        if matches!(last, "" | "." | "..") {
            return Err(refuse("names a directory of the box"));
        }
        Ok(Self {
            remote: remote.to_owned(),
            local: PathBuf::from(local),
        })
    }

    /// The local file, for the check of all outputs.
    pub fn output(&self) -> Output {
        Output {
            label: "--download".to_owned(),
            path: self.local.clone(),
            kind: OutputKind::CreatesDirectories,
        }
    }

    /// Checks the remote path for a provider that runs commands itself: one file below the workdir, and none of ours or
    /// of git.
    ///
    /// # Errors
    ///
    /// `Usage` otherwise.
    pub fn check_delegated(&self) -> Result<()> {
        if is_safe_relative(&self.remote) {
            return Ok(());
        }
        Err(Error::usage(format!(
            "--download path is not allowed for this provider: `{}`",
            self.remote.escape_debug()
        ))
        .with_hint("name one file relative to the workdir, without `..`, outside of .git and .crabbox"))
    }

    /// The line after the file arrived.
    pub fn line(&self, size_bytes: u64) -> String {
        let local = self.local.display().to_string();
        format!("downloaded {} bytes={size_bytes}", crate::text::field(&local))
    }
}

/// Whether a path names one file below a directory, and neither `.git` nor `.crabbox` is a part of it.
pub fn is_safe_relative(path: &str) -> bool {
    let safe = |part: &str| {
        !matches!(part, "" | "." | "..") && ![".git", ".crabbox"].iter().any(|ours| part.eq_ignore_ascii_case(ours))
    };
    !path
        .chars()
        .any(|character| character.is_control() || character == '\\')
        && path.split('/').all(safe)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Download, is_safe_relative};

    #[test]
    fn the_first_equals_sign_splits() {
        let download = Download::parse("dist/a=b/c=d").unwrap();
        assert_eq!(
            (download.remote.as_str(), download.local.as_path()),
            ("dist/a", Path::new("b/c=d"))
        );
        assert_eq!(download.line(5), "downloaded b/c=d bytes=5");
        assert_eq!(
            Download::parse("/etc/os-release=x y").unwrap().line(0),
            "downloaded \"x y\" bytes=0"
        );
    }

    #[test]
    fn what_cannot_be_a_file_is_refused() {
        for text in ["", "a", "=b", "a=", " =b", "a/=b", "..=b", "a/..=b", ".=b", "a\0=b"] {
            let error = Download::parse(text).unwrap_err();
            assert_eq!(error.kind().exit_code(), 2);
            assert!(error.hint().is_some());
        }
    }

    #[test]
    fn delegated_paths_stay_below_the_workdir() {
        for path in ["a", "a/b.txt", "a b", "..a", ".github/x"] {
            assert!(is_safe_relative(path), "{path}");
        }
        for path in [
            "",
            "/a",
            "../a",
            "a/../b",
            "a//b",
            "./a",
            "a/",
            ".git/config",
            "x/.GIT/y",
            ".crabbox/env/x",
            "a\\b",
            "a\nb",
        ] {
            assert!(!is_safe_relative(path), "{path}");
            let download = Download {
                remote: path.to_owned(),
                local: "x".into(),
            };
            assert!(download.check_delegated().is_err());
        }
        Download::parse("a/b=c").unwrap().check_delegated().unwrap();
    }
}
