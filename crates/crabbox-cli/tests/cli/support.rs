//! A place of its own for the real binary: empty environment, temporary home, nothing of the machine's user.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// A home directory and a working directory that nobody else knows.
pub(crate) struct TestEnv {
    root: TempDir,
    variables: BTreeMap<String, String>,
}

/// What the binary left behind.
pub(crate) struct Finished {
    /// Exit status.
    pub(crate) code: i32,
    /// Standard output.
    pub(crate) stdout: String,
    /// Standard error.
    pub(crate) stderr: String,
}

impl TestEnv {
    /// An empty home and an empty working directory.
    #[expect(
        clippy::disallowed_methods,
        reason = "boxes and git need the programs of this machine"
    )]
    pub(crate) fn new() -> Self {
        // Boxes listen on sockets below the state directory, whose paths must be short.
        let root = tempfile::Builder::new().prefix("cb").tempdir_in("/tmp").unwrap();
        for name in ["home", "work", "tmp"] {
            fs::create_dir(root.path().join(name)).unwrap();
        }
        let path = std::env::var("PATH").unwrap_or_default();
        let variables = [
            ("HOME", root.path().join("home").display().to_string()),
            ("TMPDIR", root.path().join("tmp").display().to_string()),
            ("PATH", path),
        ];
        let variables = variables
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect();
        Self { root, variables }
    }

    /// Sets a variable.
    pub(crate) fn set(mut self, name: &str, value: impl Into<String>) -> Self {
        self.variables.insert(name.to_owned(), value.into());
        self
    }

    /// The home directory.
    pub(crate) fn home(&self) -> PathBuf {
        self.root.path().join("home")
    }

    /// Where commands are run.
    pub(crate) fn work(&self) -> PathBuf {
        self.root.path().join("work")
    }

    /// Where the binary keeps things.
    pub(crate) fn state(&self) -> PathBuf {
        self.home().join(".config/crabbox/state")
    }

    /// Writes a file below the working directory.
    #[expect(clippy::disallowed_methods, reason = "a test needs no durable write")]
    pub(crate) fn write(&self, path: impl AsRef<Path>, text: &str) {
        let path = self.work().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Runs the binary in the working directory.
    #[must_use]
    pub(crate) fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Finished {
        self.run_with(args, "")
    }

    /// Runs the binary with text on its standard input.
    #[must_use]
    pub(crate) fn run_with<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>, input: &str) -> Finished {
        use std::io::Write as _;
        let mut child = self.command(args).stdin(Stdio::piped()).spawn().unwrap();
        // A command that does not read its input may be gone already.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        self.finished(child.wait_with_output().unwrap())
    }

    /// The binary, ready to be started in the working directory.
    #[expect(
        clippy::disallowed_methods,
        reason = "the test is the client that starts the real binary"
    )]
    pub(crate) fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_crabbox"));
        command
            .args(args)
            .current_dir(self.work())
            .env_clear()
            .envs(&self.variables)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs git in the working directory.
    #[expect(clippy::disallowed_methods, reason = "the test plays the user, who has git")]
    pub(crate) fn git<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) {
        let output = Command::new("git")
            .args([
                "-c",
                "user.name=Test",
                "-c",
                "user.email=test@example.test",
                "-c",
                "init.defaultBranch=main",
            ])
            .args(args)
            .current_dir(self.work())
            .env_clear()
            .envs(&self.variables)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// What an output says, with this environment's own paths made the same for every test run.
    pub(crate) fn finished(&self, output: Output) -> Finished {
        let text = |bytes: Vec<u8>| {
            String::from_utf8(bytes)
                .unwrap()
                .replace(&self.root.path().display().to_string(), "[ROOT]")
        };
        Finished {
            code: output.status.code().unwrap_or(-1),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }

    /// Every file below the home and temporary directories, to prove that nothing was created.
    pub(crate) fn files(&self) -> Vec<String> {
        let mut files = Vec::new();
        for name in ["home", "tmp"] {
            walk(self.root.path(), &self.root.path().join(name), &mut files);
        }
        files.sort();
        files
    }
}

fn walk(root: &Path, directory: &Path, files: &mut Vec<String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let path = entry.path();
        files.push(path.strip_prefix(root).unwrap().display().to_string());
        if entry.file_type().unwrap().is_dir() {
            walk(root, &path, files);
        }
    }
}

impl Finished {
    /// Status, standard output and standard error as one text for a snapshot.
    pub(crate) fn shown(&self) -> String {
        let mut text = format!("exit: {}\n", self.code);
        for (name, stream) in [("stdout", &self.stdout), ("stderr", &self.stderr)] {
            if !stream.is_empty() {
                text.push_str(&format!("--- {name}\n{stream}"));
            }
        }
        text
    }
}
