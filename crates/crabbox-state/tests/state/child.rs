//! Running parts of a test in a process of its own, which may be killed.
#![expect(
    clippy::disallowed_methods,
    reason = "a test starts itself again and tells the child by variables what to do"
)]

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use crabbox_state::{Dirs, Disk};

const ROOT: &str = "STATE_TEST_ROOT";
const ROLE: &str = "STATE_TEST_ROLE";
const KILL_AT: &str = "STATE_TEST_KILL_AT";

/// What a child process was asked to do.
pub(crate) struct Role {
    pub(crate) name: String,
    pub(crate) root: PathBuf,
}

impl Role {
    /// The role of this process, if it is a child.
    pub(crate) fn of_this_process() -> Option<Self> {
        Some(Self {
            name: std::env::var(ROLE).ok()?,
            root: PathBuf::from(std::env::var_os(ROOT)?),
        })
    }

    pub(crate) fn dirs(&self) -> Dirs {
        Dirs::under(&self.root)
    }

    /// The disk of this process: it kills the process, as `kill -9` does, before the chosen effect.
    pub(crate) fn disk(&self) -> Disk {
        let Some(kill_at) = std::env::var(KILL_AT).ok().and_then(|text| text.parse::<usize>().ok()) else {
            return Disk::new();
        };
        let count = AtomicUsize::new(0);
        Disk::new().observed(move |_, _| {
            if count.fetch_add(1, Ordering::SeqCst) == kill_at {
                kill_this_process();
            }
            io::Result::Ok(())
        })
    }
}

fn kill_this_process() {
    let this = rustix::process::getpid();
    rustix::process::kill_process(this, rustix::process::Signal::KILL).unwrap();
    unreachable!("a process does not survive SIGKILL");
}

/// The command that runs one ignored test of this executable in a role.
pub(crate) fn command(test: &str, role: &str, root: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--ignored", "--nocapture"]);
    command.env(ROLE, role).env(ROOT, root).stdout(Stdio::null());
    command
}

pub(crate) fn start(test: &str, role: &str, root: &Path) -> Child {
    command(test, role, root).spawn().unwrap()
}

pub(crate) fn run(test: &str, role: &str, root: &Path) -> ExitStatus {
    start(test, role, root).wait().unwrap()
}

/// Runs a scenario again and again in a fresh directory, killed before its first effect on the disk, its second, and so
/// on, until it survives; after each the check looks at what is left. Returns the number of kills.
pub(crate) fn kill_at_every_step(
    test: &str,
    role: &str,
    prepare: impl Fn(&Dirs),
    check: impl Fn(&Dirs, usize),
) -> usize {
    for step in 0.. {
        let root = tempfile::tempdir().unwrap();
        let dirs = Dirs::under(root.path());
        prepare(&dirs);
        let status = command(test, role, root.path())
            .env(KILL_AT, step.to_string())
            .status()
            .unwrap();
        check(&dirs, step);
        if status.success() {
            return step;
        }
        let signal = std::os::unix::process::ExitStatusExt::signal(&status);
        assert_eq!(
            signal,
            Some(9),
            "step {step} of {role} failed instead of being killed: {status}"
        );
        assert!(step < 500, "{role} never ends");
    }
    unreachable!("the loop ends by returning");
}
