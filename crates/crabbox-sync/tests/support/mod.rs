//! Repositories made with the real `git`, the oracle that the manifest is held against.
#![allow(dead_code, clippy::allow_attributes, reason = "each test file uses its own part")]
#![expect(unreachable_pub, reason = "shared by several test programs")]

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::Output;

use crabbox_core::Result;
use crabbox_sync::rules::Verdict;
use crabbox_sync::{Manifest, Rules, Source, SourceOptions, StatCache};
use tempfile::TempDir;

/// A repository in a temporary directory.
pub struct Repository {
    _directory: TempDir,
    pub root: PathBuf,
}

/// What a manifest says, in comparable form.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Answer {
    pub files: BTreeSet<Name>,
    pub deleted: BTreeSet<Name>,
    pub changed: BTreeSet<Name>,
}

/// A path that prints readably.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name(pub Vec<u8>);

impl std::fmt::Debug for Name {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}", self.0.escape_ascii())
    }
}

pub fn git_in(directory: &Path, arguments: &[&OsStr]) -> Output {
    std::process::Command::new("git")
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("HOME", "/nonexistent")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_AUTHOR_NAME", "a")
        .env("GIT_AUTHOR_EMAIL", "a@example.org")
        .env("GIT_COMMITTER_NAME", "a")
        .env("GIT_COMMITTER_EMAIL", "a@example.org")
        .args([
            "-c",
            "init.defaultBranch=main",
            "-c",
            "protocol.file.allow=always",
            "-c",
            "gc.auto=0",
        ])
        .args(arguments)
        .current_dir(directory)
        .output()
        .unwrap()
}

impl Repository {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap().join("checkout");
        std::fs::create_dir(&root).unwrap();
        let repository = Self {
            _directory: directory,
            root,
        };
        repository.git(&["init", "-q"]);
        repository
    }

    pub fn outside(&self, name: &str) -> PathBuf {
        self.root.parent().unwrap().join(name)
    }

    /// Runs git and expects success.
    pub fn git(&self, arguments: &[&str]) -> Vec<u8> {
        let output = self.try_git(arguments);
        assert!(
            output.status.success(),
            "git {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        output.stdout
    }

    pub fn try_git(&self, arguments: &[&str]) -> Output {
        let arguments: Vec<&OsStr> = arguments.iter().map(OsStr::new).collect();
        git_in(&self.root, &arguments)
    }

    pub fn git_bytes(&self, arguments: &[&[u8]]) -> Output {
        let arguments: Vec<&OsStr> = arguments.iter().map(|argument| OsStr::from_bytes(argument)).collect();
        git_in(&self.root, &arguments)
    }

    pub fn path(&self, path: impl AsRef<[u8]>) -> PathBuf {
        self.root.join(OsStr::from_bytes(path.as_ref()))
    }

    /// Writes a file and the directories above it.
    pub fn write(&self, path: impl AsRef<[u8]>, content: impl AsRef<[u8]>) {
        let path = self.path(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    pub fn commit_all(&self) {
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "--allow-empty", "-m", "m"]);
    }

    pub fn source(&self) -> Source {
        Source::discover(&self.root, &SourceOptions::default()).unwrap()
    }

    pub fn manifest(&self, rules: &Rules) -> Result<Manifest> {
        Manifest::build(&self.source(), rules, &StatCache::in_memory())
    }

    pub fn answer(&self, rules: &Rules) -> Answer {
        answer(&self.manifest(rules).unwrap())
    }

    fn list(&self, arguments: &[&str]) -> BTreeSet<Vec<u8>> {
        let output = self.git(arguments);
        output
            .split(|byte| *byte == 0)
            .filter(|path| !path.is_empty())
            .map(<[u8]>::to_vec)
            .collect()
    }

    /// What git says should travel.
    pub fn oracle(&self, rules: &Rules) -> Answer {
        let mut regular = BTreeSet::new();
        let mut submodules = BTreeSet::new();
        for line in self.list(&["ls-files", "--stage", "-z"]) {
            let tab = line.iter().position(|byte| *byte == b'\t').unwrap();
            let path = line[tab + 1..].to_vec();
            if line.starts_with(b"160000") {
                submodules.insert(path);
            } else if line.starts_with(b"100") {
                regular.insert(path);
            }
        }
        let mut preimages = BTreeSet::new();
        let raw = self.git(&[
            "diff",
            "--cached",
            "--raw",
            "--format=",
            "-z",
            "--diff-filter=D",
            "--no-renames",
        ]);
        let mut fields = raw.split(|byte| *byte == 0).filter(|field| !field.is_empty());
        let mut staged = BTreeSet::new();
        while let (Some(head), Some(path)) = (fields.next(), fields.next()) {
            if head.starts_with(b":100") {
                preimages.insert(path.to_vec());
            }
            if !head.starts_with(b":160000") {
                staged.insert(path.to_vec());
            }
        }
        let in_scope = |path: &[u8], regular: &BTreeSet<Vec<u8>>| {
            path.split(|byte| *byte == b'/').all(|part| !part.is_empty())
                && rules.judge_path(path, regular.contains(path)) != Verdict::Stays
        };
        let mut files: BTreeSet<Vec<u8>> = self.list(&["ls-files", "--cached", "--others", "--exclude-standard", "-z"]);
        files.retain(|path| {
            !submodules.contains(path)
                && in_scope(path, &regular)
                && !self.has_linked_ancestor(path)
                && self
                    .path(path)
                    .symlink_metadata()
                    .is_ok_and(|metadata| !metadata.is_dir())
        });
        let mut deleted = self.list(&["ls-files", "--deleted", "-z"]);
        deleted.extend(self.list(&["diff", "--name-only", "--diff-filter=D", "--no-renames", "-z"]));
        deleted.retain(|path| !submodules.contains(path) && in_scope(path, &regular));
        deleted.extend(staged.into_iter().filter(|path| in_scope(path, &preimages)));
        deleted.retain(|path| !files.contains(path));
        let mut changed = self.list(&["diff", "--name-only", "--no-renames", "-z"]);
        changed.extend(self.list(&["diff", "--cached", "--name-only", "--no-renames", "-z"]));
        changed.extend(self.list(&["ls-files", "--others", "--exclude-standard", "-z"]));
        changed.retain(|path| files.contains(path) || deleted.contains(path));
        let names = |paths: BTreeSet<Vec<u8>>| paths.into_iter().map(Name).collect();
        Answer {
            files: names(files),
            deleted: names(deleted),
            changed: names(changed),
        }
    }

    fn has_linked_ancestor(&self, path: &[u8]) -> bool {
        path.iter()
            .enumerate()
            .filter(|(_, byte)| **byte == b'/')
            .any(|(slash, _)| {
                !self
                    .path(&path[..slash])
                    .symlink_metadata()
                    .is_ok_and(|metadata| metadata.is_dir())
            })
    }
}

pub fn answer(manifest: &Manifest) -> Answer {
    let paths: Vec<&[u8]> = manifest.iter().map(|entry| entry.path).collect();
    assert!(
        paths.is_sorted_by(|left, right| left < right),
        "paths are sorted and unique"
    );
    Answer {
        files: paths.into_iter().map(|path| Name(path.to_vec())).collect(),
        deleted: manifest.deleted().map(|path| Name(path.to_vec())).collect(),
        changed: manifest.changed().map(|(path, _)| Name(path.to_vec())).collect(),
    }
}

pub fn no_rules() -> Rules {
    Rules::new([""; 0], [""; 0])
}
