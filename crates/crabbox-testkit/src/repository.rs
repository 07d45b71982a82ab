//! Checkouts to sync.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

/// A git repository in a directory of its own, made with the `git` executable in an empty environment.
///
/// Names, dates and settings are fixed, so that commits have the same ids on every machine.
#[derive(Debug)]
pub struct Repository {
    root: PathBuf,
}

impl Repository {
    /// Makes an empty repository with the branch `main`.
    ///
    /// # Panics
    /// When `git` is not installed or the directory cannot be written.
    pub fn create(root: impl Into<PathBuf>) -> Self {
        let repository = Self { root: root.into() };
        std::fs::create_dir_all(&repository.root).expect("the repository's directory can be made");
        repository.git(["init", "--quiet", "--initial-branch=main"]);
        repository
    }

    /// Makes a repository like one that somebody works in: committed files, and of each kind of change one.
    ///
    /// | Path | State |
    /// |---|---|
    /// | `README.md` | committed, unchanged |
    /// | `src/main.txt` | committed, changed since |
    /// | `src/staged.txt` | added, not committed |
    /// | `src/new.txt` | untracked |
    /// | `old.txt` | committed, deleted since |
    /// | `run.sh` | committed, executable |
    /// | `link` | committed symbolic link to `README.md` |
    /// | `ignored.log` | ignored |
    ///
    /// # Panics
    /// As [`Repository::create`].
    pub fn dirty(root: impl Into<PathBuf>) -> Self {
        let repository = Self::create(root);
        repository.write("README.md", "# Sample\n");
        repository.write("src/main.txt", "first\n");
        repository.write("old.txt", "old\n");
        repository.write("run.sh", "#!/bin/sh\necho ran\n");
        repository.set_mode("run.sh", 0o755);
        repository.write(".gitignore", "*.log\n");
        repository.link("link", "README.md");
        repository.commit("first");
        repository.write("src/main.txt", "second\n");
        repository.write("src/staged.txt", "staged\n");
        repository.git(["add", "src/staged.txt"]);
        repository.write("src/new.txt", "new\n");
        repository.write("ignored.log", "ignored\n");
        repository.remove("old.txt");
        repository
    }

    /// Where it is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Writes a file, making its directories.
    ///
    /// # Panics
    /// When that fails.
    #[expect(
        clippy::disallowed_methods,
        reason = "a checkout's files are written as an editor writes them"
    )]
    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.root.join(path);
        std::fs::create_dir_all(path.parent().expect("a file has a directory")).expect("directories can be made");
        std::fs::write(path, content).expect("the file can be written");
    }

    /// Deletes a file.
    ///
    /// # Panics
    /// When that fails.
    pub fn remove(&self, path: &str) {
        std::fs::remove_file(self.root.join(path)).expect("the file can be deleted");
    }

    /// Renames a file.
    ///
    /// # Panics
    /// When that fails.
    pub fn rename(&self, from: &str, to: &str) {
        let to = self.root.join(to);
        std::fs::create_dir_all(to.parent().expect("a file has a directory")).expect("directories can be made");
        std::fs::rename(self.root.join(from), to).expect("the file can be renamed");
    }

    /// Makes a symbolic link, replacing what is there.
    ///
    /// # Panics
    /// When that fails.
    pub fn link(&self, path: &str, target: &str) {
        let path = self.root.join(path);
        // Most often there is nothing to replace.
        let _replaced = std::fs::remove_file(&path);
        symlink(target, path).expect("the link can be made");
    }

    /// Sets a file's permission bits.
    ///
    /// # Panics
    /// When that fails.
    pub fn set_mode(&self, path: &str, mode: u32) {
        let permissions = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(self.root.join(path), permissions).expect("the mode can be set");
    }

    /// Commits everything there is.
    ///
    /// # Panics
    /// When `git` fails.
    pub fn commit(&self, message: &str) {
        self.git(["add", "--all"]);
        self.git(["commit", "--quiet", "--allow-empty", "--message", message]);
    }

    /// Runs `git` and returns its standard output without its last newline.
    ///
    /// # Panics
    /// With its standard error, when it fails.
    #[expect(clippy::disallowed_methods, reason = "the oracle is the real git, not Crabbox")]
    pub fn git<const N: usize>(&self, args: [&str; N]) -> String {
        let output = std::process::Command::new("git")
            .current_dir(&self.root)
            .args(args)
            .env_clear()
            .env("PATH", crate::environment::PATH)
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .envs(["GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME"].map(|name| (name, "Ada")))
            .envs(["GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL"].map(|name| (name, "ada@acme.test")))
            .envs(["GIT_AUTHOR_DATE", "GIT_COMMITTER_DATE"].map(|name| (name, "2026-01-02T03:04:05Z")))
            .output()
            .expect("git is installed");
        assert!(
            output.status.success(),
            "git {args:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout)
            .trim_end_matches('\n')
            .to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dirty_checkout_is_what_it_says() {
        let root = tempfile::tempdir().unwrap();
        let repository = Repository::dirty(root.path().join("repo"));
        assert_eq!(
            repository.git(["status", "--porcelain", "--ignored"]),
            " D old.txt\n M src/main.txt\nA  src/staged.txt\n?? src/new.txt\n!! ignored.log"
        );
        assert_eq!(
            repository
                .git(["ls-files", "--stage", "run.sh", "link"])
                .matches("100755")
                .count(),
            1
        );
        assert_eq!(repository.git(["rev-parse", "HEAD"]).len(), 40);
    }
}
