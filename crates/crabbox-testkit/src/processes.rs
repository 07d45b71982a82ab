//! Processes of this machine, as `/proc` shows them. Empty where there is no `/proc`.

use std::collections::BTreeMap;
use std::fmt;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

/// One process.
#[derive(Clone, Debug)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// The process that reaps it.
    pub parent: u32,
    /// Its arguments; none for a kernel thread.
    pub argv: Vec<String>,
    directory: PathBuf,
}

impl fmt::Display for Process {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "process {} of {}: {}",
            self.pid,
            self.parent,
            self.argv.join(" ")
        )
    }
}

/// Every process that has not ended, this one included. Zombies have ended.
pub fn all() -> Vec<Process> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| Process::read(entry.path()))
        .collect()
}

/// Processes with exactly this argument.
pub fn with_argument(argument: &str) -> Vec<Process> {
    all()
        .into_iter()
        .filter(|process| process.argv.iter().any(|word| word == argument))
        .collect()
}

/// Processes that have anything to do with one of the given directories, and all their descendants; never this process.
///
/// A process has to do with a directory when arguments, environment, executable, working directory, root, an open file or a
/// mount of it names the directory or something below it.
pub fn touching(directories: &[PathBuf]) -> Vec<Process> {
    let own = std::process::id();
    let everybody: Vec<Process> = all().into_iter().filter(|process| process.pid != own).collect();
    let mut found: BTreeMap<u32, Process> = everybody
        .iter()
        .filter(|process| directories.iter().any(|directory| process.touches(directory)))
        .map(|process| (process.pid, process.clone()))
        .collect();
    loop {
        let children: Vec<&Process> = everybody
            .iter()
            .filter(|process| found.contains_key(&process.parent) && !found.contains_key(&process.pid))
            .collect();
        if children.is_empty() {
            return found.into_values().collect();
        }
        found.extend(children.into_iter().map(|process| (process.pid, process.clone())));
    }
}

impl Process {
    fn read(directory: PathBuf) -> Option<Self> {
        let pid = directory.file_name()?.to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(directory.join("stat")).ok()?;
        // The name in parentheses may hold anything, parentheses too.
        let (_, rest) = stat.rsplit_once(')')?;
        let mut fields = rest.split_whitespace();
        let state = fields.next()?;
        let parent = fields.next()?.parse().ok()?;
        if matches!(state, "Z" | "X") {
            return None;
        }
        let line = std::fs::read(directory.join("cmdline")).unwrap_or_default();
        let words = line.strip_suffix(&[0]).unwrap_or(&line).split(|byte| *byte == 0);
        let argv = words.map(|word| String::from_utf8_lossy(word).into_owned()).collect();
        Some(Self {
            pid,
            parent,
            argv,
            directory,
        })
    }

    fn touches(&self, directory: &Path) -> bool {
        let needle = directory.as_os_str().as_bytes();
        let holds =
            |file: &str| std::fs::read(self.directory.join(file)).is_ok_and(|content| contains(&content, needle));
        let leads = |link: PathBuf| std::fs::read_link(link).is_ok_and(|target| target.starts_with(directory));
        holds("cmdline")
            || holds("environ")
            || ["cwd", "root", "exe"]
                .iter()
                .any(|link| leads(self.directory.join(link)))
            || holds("mountinfo")
            || std::fs::read_dir(self.directory.join("fd"))
                .is_ok_and(|files| files.flatten().any(|file| leads(file.path())))
    }
}

/// Whether bytes occur in others.
pub(crate) fn contains(content: &[u8], needle: &[u8]) -> bool {
    !needle.is_empty() && content.windows(needle.len()).any(|window| window == needle)
}
