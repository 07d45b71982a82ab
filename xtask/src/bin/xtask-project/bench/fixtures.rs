//! Trees of files, the same on every machine, kept under the target directory.

use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use xtask::process;

use super::Bench;

/// A tree of generated files, committed to git.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tree {
    /// Directory name.
    pub(super) name: &'static str,
    /// Number of files.
    pub(super) files: u32,
    /// Bytes of each file.
    pub(super) bytes: u64,
}

/// 1,700 files, 44 MB: a mid-sized repository.
pub(super) const REPOSITORY: Tree = Tree {
    name: "repository",
    files: 1_700,
    bytes: 25_882,
};
/// 20,000 small files.
pub(super) const LARGE: Tree = Tree {
    name: "files-20k",
    files: 20_000,
    bytes: 200,
};
/// 100,000 small files.
pub(super) const HUGE: Tree = Tree {
    name: "files-100k",
    files: 100_000,
    bytes: 60,
};
/// 1,000,000 tiny files.
pub(super) const MILLION: Tree = Tree {
    name: "files-1m",
    files: 1_000_000,
    bytes: 8,
};

const FILES_PER_DIRECTORY: u32 = 100;
const DIRECTORIES_PER_DIRECTORY: u32 = 40;

impl Bench {
    /// The tree's directory, created on first use.
    ///
    /// # Errors
    /// When files cannot be written or git fails.
    pub(super) fn tree(&self, tree: Tree) -> Result<PathBuf> {
        let directory = self.fixtures.join(tree.name);
        let done = self.fixtures.join(format!("{}.complete", tree.name));
        if done.exists() {
            return Ok(directory);
        }
        process::say(&format!("writing {} files to {}", tree.files, directory.display()));
        if directory.exists() {
            fs::remove_dir_all(&directory).context("cannot remove a fixture left half-written")?;
        }
        fs::create_dir_all(&directory).context("cannot create the fixture directory")?;
        for index in 0..tree.files {
            write_file(&directory, index, tree.bytes).with_context(|| format!("fixture file {index}"))?;
        }
        for arguments in [
            &["init", "--quiet"][..],
            &["add", "--all"],
            &["commit", "--quiet", "--message", "fixture"],
        ] {
            process::run(git(&directory, arguments))?;
        }
        File::create(&done).context("cannot mark the fixture complete")?;
        Ok(directory)
    }

    /// Empties the measured program's home, so that no scenario sees another's state.
    ///
    /// # Errors
    /// When it cannot be removed or created.
    pub(super) fn reset_home(&self) -> Result<()> {
        if self.home.exists() {
            fs::remove_dir_all(&self.home).with_context(|| format!("cannot empty {}", self.home.display()))?;
        }
        fs::create_dir_all(&self.home).with_context(|| format!("cannot create {}", self.home.display()))
    }
}

/// Git with no settings but its own defaults.
pub(super) fn git(directory: &Path, arguments: &[&str]) -> std::process::Command {
    let mut git = process::command("git", directory);
    git.args([
        "-c",
        "user.name=bench",
        "-c",
        "user.email=bench@localhost",
        "-c",
        "gc.auto=0",
    ])
    .args(arguments);
    git.env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_SYSTEM", "/dev/null");
    git
}

fn write_file(root: &Path, index: u32, bytes: u64) -> Result<()> {
    let number = index / FILES_PER_DIRECTORY;
    let (outer, inner) = (number / DIRECTORIES_PER_DIRECTORY, number % DIRECTORIES_PER_DIRECTORY);
    let directory = root.join(format!("part-{outer:03}/module-{inner:02}"));
    if index.is_multiple_of(FILES_PER_DIRECTORY) {
        fs::create_dir_all(&directory)?;
    }
    let mut file = BufWriter::new(File::create(directory.join(format!("file-{index:07}.txt")))?);
    let mut state = u64::from(index) + 1;
    let mut left = bytes;
    // Half words from a small vocabulary, half numbers: compresses about as well as source code.
    while left > 0 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let word = WORDS[(state % 16) as usize];
        let text = if state & 0x10_0000 == 0 {
            format!("{word}_{:05x}\n", state >> 44)
        } else {
            format!("{word} ")
        };
        let taken = left.min(text.len() as u64);
        file.write_all(&text.as_bytes()[..taken as usize])?;
        left -= taken;
    }
    file.flush()?;
    Ok(())
}

const WORDS: [&str; 16] = [
    "let", "return", "function", "value", "result", "error", "buffer", "length", "index", "import", "module", "struct",
    "public", "static", "while", "match",
];
