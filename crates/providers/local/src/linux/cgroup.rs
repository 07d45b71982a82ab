//! Control groups, where this user may make some: a bound on processes and memory, and a freezer.
//!
//! Everything here is best effort. Without a control group the process limit still holds, and pausing uses signals.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::Pid;

/// The groups of one box, one per hierarchy.
#[derive(Debug, Default)]
pub(super) struct Groups {
    paths: Vec<PathBuf>,
    unified: Option<PathBuf>,
}

/// What a box may use at most.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) processes: u64,
    pub(super) memory_bytes: Option<u64>,
}

impl Groups {
    /// Makes the groups that can be made below the groups of this process, and sets the limits.
    pub(super) fn make(name: &str, limits: Limits) -> Self {
        let mut groups = Self::default();
        for (controllers, parent) in own_groups() {
            let path = parent.join(name);
            if controllers.is_empty() {
                // Moving a process into a group takes a grace period of the kernel, some 10 ms: not for a group that can
                // limit nothing. Pausing uses signals then.
                if !limits_something(&parent) {
                    continue;
                }
                // Fails while the parent holds processes; then freezing works all the same.
                let _ = write(&parent.join("cgroup.subtree_control"), "+pids +memory");
                if fs::create_dir(&path).is_ok() {
                    let _ = write(&path.join("pids.max"), &limits.processes.to_string());
                    if let Some(bytes) = limits.memory_bytes {
                        let _ = write(&path.join("memory.max"), &bytes.to_string());
                        let _ = write(&path.join("memory.swap.max"), "0");
                    }
                    groups.unified = Some(path.clone());
                    groups.paths.push(path);
                }
                continue;
            }
            let wanted = |controller: &str| controllers.split(',').any(|one| one == controller);
            // A resource limit does the same without a group where the kernel counts it per user namespace.
            if wanted("pids") && !counts_processes_per_box() && fs::create_dir(&path).is_ok() {
                let _ = write(&path.join("pids.max"), &limits.processes.to_string());
                groups.paths.push(path);
            } else if wanted("memory")
                && let Some(bytes) = limits.memory_bytes
                && fs::create_dir(&path).is_ok()
            {
                let _ = write(&path.join("memory.limit_in_bytes"), &bytes.to_string());
                groups.paths.push(path);
            }
        }
        groups
    }

    /// Puts a process into all of them.
    pub(super) fn adopt(&self, pid: Pid) {
        for path in &self.paths {
            let _ = write(&path.join("cgroup.procs"), &pid.as_raw_nonzero().to_string());
        }
    }

    /// Stops or continues everything in them; whether that worked.
    pub(super) fn freeze(&self, frozen: bool) -> bool {
        let Some(unified) = &self.unified else { return false };
        write(&unified.join("cgroup.freeze"), if frozen { "1" } else { "0" }).is_ok()
    }

    /// Where they are.
    pub(super) fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// Removes them. They must be empty.
    pub(super) fn remove(&self) {
        remove(&self.paths);
    }
}

/// Whether groups below one in the unified hierarchy can bound processes or memory.
fn limits_something(parent: &Path) -> bool {
    let controllers = fs::read_to_string(parent.join("cgroup.controllers")).unwrap_or_default();
    controllers
        .split_whitespace()
        .any(|one| matches!(one, "pids" | "memory"))
}

/// Whether `RLIMIT_NPROC` is counted per user namespace: since Linux 5.14.
fn counts_processes_per_box() -> bool {
    let release = rustix::system::uname();
    let mut numbers = release.release().to_str().unwrap_or_default().split(['.', '-']);
    let mut number = || numbers.next().and_then(|text| text.parse::<u32>().ok()).unwrap_or(0);
    (number(), number()) >= (5, 14)
}

/// Removes groups whose processes have ended.
pub(super) fn remove(paths: &[PathBuf]) {
    for path in paths {
        // The kernel takes a moment to let go of the last process.
        for _ in 0..50 {
            match fs::remove_dir(path) {
                Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => {
                    std::thread::sleep(std::time::Duration::from_millis(2));
                }
                _ => break,
            }
        }
    }
}

/// Whether a group could be made, in words for a person.
pub(crate) fn describe() -> Option<String> {
    let mut usable = Vec::new();
    for (controllers, parent) in own_groups() {
        let writable = rustix::fs::access(&parent, rustix::fs::Access::WRITE_OK).is_ok();
        if writable && (!controllers.is_empty() || limits_something(&parent)) {
            usable.push(if controllers.is_empty() {
                "v2".to_owned()
            } else {
                controllers
            });
        }
    }
    (!usable.is_empty()).then(|| usable.join(" "))
}

/// Controllers (empty for the unified hierarchy) and directory of each useful group of this process.
fn own_groups() -> Vec<(String, PathBuf)> {
    let memberships = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut groups = Vec::new();
    for line in memberships.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let useful = controllers.is_empty() || controllers.split(',').any(|one| matches!(one, "pids" | "memory"));
        if let Some(mount) = useful.then(|| mount_of(&mounts, controllers)).flatten() {
            groups.push((controllers.to_owned(), mount.join(path.trim_start_matches('/'))));
        }
    }
    groups
}

/// Where the hierarchy of some controllers is mounted.
fn mount_of(mounts: &str, controllers: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let mut left = left.split(' ').skip(3);
        let (root, target) = (left.next()?, left.next()?);
        let mut right = right.split(' ');
        let (kind, _, options) = (right.next()?, right.next()?, right.next()?);
        let matches = if controllers.is_empty() {
            kind == "cgroup2"
        } else {
            kind == "cgroup"
                && controllers
                    .split(',')
                    .all(|one| options.split(',').any(|option| option == one))
        };
        // A hierarchy of which only a part is mounted cannot be found by the path in `/proc/self/cgroup`.
        (matches && root == "/").then(|| PathBuf::from(target))
    })
}

#[expect(
    clippy::disallowed_methods,
    reason = "a kernel interface, where atomic replacement is impossible"
)]
fn write(path: &Path, text: &str) -> std::io::Result<()> {
    fs::write(path, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
39 31 0:36 / /sys/fs/cgroup/pids rw,relatime shared:3 - cgroup cgroup rw,pids
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

    #[test]
    fn hierarchies_are_found_by_their_controllers() {
        assert_eq!(mount_of(MOUNTS, "pids"), Some("/sys/fs/cgroup/pids".into()));
        assert_eq!(mount_of(MOUNTS, ""), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(mount_of(MOUNTS, "cpu"), None);
        assert_eq!(mount_of("1 2 3:4 /part /sys rw - cgroup2 none rw", ""), None);
    }
}
