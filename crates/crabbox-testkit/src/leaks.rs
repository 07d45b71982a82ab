//! What an operation must not leave behind.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crabbox_core::runtime::Directories;

use crate::processes::{self, contains};

/// Directories whose every entry belongs to something that lives.
const OF_THE_LIVING: &[&str] = &["boxes", "claims", "journal", "testboxes", "tmp"];

/// What may stay: history, records, and locks, which are never deleted since others may wait for them.
const KEPT: &[&str] = &["claim-locks", "runs", "checkpoints", "timings.jsonl"];

/// Compares processes, mounts and files before and after.
///
/// # Behaviour
/// - A process that has anything to do with the directories is left behind; see [`processes::touching`].
/// - So is a mount whose place or source is below them.
/// - So is a new file below config or state that is no lock and no record, and a new directory where only what lives has
///   one: boxes, claims, journal entries, keys.
/// - The cache may hold anything.
#[derive(Debug)]
#[must_use = "a guard guards nothing until it is asked"]
pub struct LeakGuard {
    watched: Vec<PathBuf>,
    roots: Vec<PathBuf>,
    kept: Vec<String>,
    before: BTreeSet<PathBuf>,
}

impl LeakGuard {
    /// Remembers what there is now.
    pub fn new(directories: &Directories) -> Self {
        let roots = vec![directories.config.clone(), directories.state.clone()];
        let mut watched = roots.clone();
        watched.push(directories.cache.clone());
        let before = roots.iter().flat_map(|root| entries(root)).collect();
        let kept = KEPT.iter().map(|name| (*name).to_owned()).collect();
        Self {
            watched,
            roots,
            kept,
            before,
        }
    }

    /// Lets an entry of config or state stay, with everything below it.
    pub fn keeping(mut self, relative: &str) -> Self {
        self.kept.push(relative.to_owned());
        self
    }

    /// What is left behind at this moment, one line each.
    pub fn leaks(&self) -> Vec<String> {
        let processes = processes::touching(&self.watched)
            .into_iter()
            .map(|process| process.to_string());
        processes.chain(self.mounts()).chain(self.files()).collect()
    }

    /// What is still left behind after a time in which it may go.
    pub fn leaks_after(&self, patience: Duration) -> Vec<String> {
        let deadline = Instant::now() + patience;
        loop {
            let leaks = self.leaks();
            if leaks.is_empty() || Instant::now() > deadline {
                return leaks;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Checks that nothing is left behind.
    ///
    /// # Panics
    /// With the list of what is, when it does not go within five seconds.
    pub fn assert_clean(&self) {
        let leaks = self.leaks_after(Duration::from_secs(5));
        assert!(leaks.is_empty(), "left behind:\n  {}", leaks.join("\n  "));
    }

    fn mounts(&self) -> Vec<String> {
        let Ok(table) = std::fs::read("/proc/self/mountinfo") else {
            return Vec::new();
        };
        table
            .split(|byte| *byte == b'\n')
            .filter(|line| {
                self.watched
                    .iter()
                    .any(|root| contains(line, root.as_os_str().as_bytes()))
            })
            .map(|line| format!("mount {}", String::from_utf8_lossy(line)))
            .collect()
    }

    fn files(&self) -> Vec<String> {
        self.roots
            .iter()
            .flat_map(|root| entries(root).into_iter().map(move |path| (root, path)))
            .filter(|(_, path)| !self.before.contains(path))
            .filter(|(root, path)| {
                path.strip_prefix(root)
                    .is_ok_and(|relative| self.is_leak(path, relative))
            })
            .map(|(_, path)| format!("file {}", path.display()))
            .collect()
    }

    fn is_leak(&self, path: &Path, relative: &Path) -> bool {
        if self.kept.iter().any(|kept| relative.starts_with(kept)) {
            return false;
        }
        let is_directory = path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir());
        let parent_lives = relative
            .parent()
            .into_iter()
            .flat_map(Path::components)
            .any(|part| OF_THE_LIVING.iter().any(|name| part.as_os_str() == *name));
        let is_lock = path.extension().is_some_and(|extension| extension == "lock");
        parent_lives || (!is_directory && !is_lock)
    }
}

/// Everything below a directory.
fn entries(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut pending = vec![root.to_owned()];
    while let Some(directory) = pending.pop() {
        let Ok(children) = std::fs::read_dir(directory) else {
            continue;
        };
        for child in children.flatten() {
            if child.file_type().is_ok_and(|kind| kind.is_dir()) {
                pending.push(child.path());
            }
            found.push(child.path());
        }
    }
    found
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a leak is made by hand")]
mod tests {
    use super::*;
    use crate::random_hex;

    fn guard(root: &Path) -> LeakGuard {
        let under = |name: &str| root.join(name);
        LeakGuard::new(&Directories {
            config: under("config"),
            state: under("state"),
            cache: under("cache"),
        })
    }

    #[test]
    fn files_are_found_where_nothing_may_stay() {
        let root = tempfile::tempdir().unwrap();
        let guard = guard(root.path());
        for directory in [
            "state/claims",
            "state/claim-locks",
            "state/runs/run_1",
            "state/local/boxes",
            "cache/stat",
        ] {
            std::fs::create_dir_all(root.path().join(directory)).unwrap();
        }
        for kept in [
            "state/claim-locks/cbx_1.json.lock",
            "state/runs/run_1/log",
            "cache/stat/x",
            "state/local/slug.lock",
        ] {
            std::fs::write(root.path().join(kept), "").unwrap();
        }
        assert_eq!(guard.leaks(), [] as [&str; 0]);
        for leak in [
            "state/claims/cbx_1.json",
            "state/odd",
            "config/testboxes/cbx_1/id_ed25519",
        ] {
            let path = root.path().join(leak);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        std::fs::create_dir(root.path().join("state/local/boxes/b1")).unwrap();
        let mut leaks: Vec<String> = guard.leaks();
        leaks.sort();
        let expected: Vec<String> = [
            "config/testboxes/cbx_1",
            "config/testboxes/cbx_1/id_ed25519",
            "state/claims/cbx_1.json",
            "state/local/boxes/b1",
            "state/odd",
        ]
        .iter()
        .map(|path| format!("file {}", root.path().join(path).display()))
        .collect();
        assert_eq!(leaks, expected);
    }

    #[test]
    fn processes_are_found_with_their_descendants() {
        let root = tempfile::tempdir().unwrap();
        let guard = guard(root.path());
        let seconds = format!("1{}", u32::from_str_radix(&random_hex(3), 16).unwrap());
        let mut child = std::process::Command::new("sh")
            .args([
                "-c",
                &format!("sh -c 'exec env -i sleep {seconds}' & exec sleep {seconds}"),
            ])
            .env("MARK", root.path().join("state"))
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while processes::with_argument(&seconds).len() < 2 {
            assert!(Instant::now() < deadline);
            std::thread::sleep(Duration::from_millis(5));
        }
        let leaks = guard.leaks();
        for process in processes::with_argument(&seconds) {
            let pid = i32::try_from(process.pid).unwrap();
            rustix::process::kill_process(
                rustix::process::Pid::from_raw(pid).unwrap(),
                rustix::process::Signal::KILL,
            )
            .unwrap();
        }
        child.wait().unwrap();
        assert_eq!(leaks.len(), 2, "{leaks:?}");
        guard.assert_clean();
    }
}
