//! Child processes of this machine: proxy commands and the system's SSH client.

use std::ffi::{OsStr, OsString};

use tokio::process::Command;

use crate::destination::ChildEnvironment;

/// A child in its own process group, so that an interrupt typed at our terminal is ours to handle, and gone when it is
/// dropped.
pub(crate) fn command(program: impl AsRef<OsStr>, args: &[OsString], environment: &ChildEnvironment) -> Command {
    #[expect(
        clippy::disallowed_methods,
        reason = "the runtime's runner collects output; a transport needs live pipes, and ends its child itself"
    )]
    let mut command = Command::new(program);
    command.args(args).kill_on_drop(true);
    #[cfg(unix)]
    command.process_group(0);
    environment.apply(&mut command);
    command
}

/// The system's shell running one line.
pub(crate) fn shell(line: &str, environment: &ChildEnvironment) -> Command {
    if cfg!(windows) {
        command("cmd.exe", &["/C".into(), line.into()], environment)
    } else {
        // `exec` leaves one process to end instead of two.
        command("/bin/sh", &["-c".into(), format!("exec {line}").into()], environment)
    }
}

/// Ends a child and everything in its process group.
#[cfg(unix)]
pub(crate) fn kill_group(pid: Option<u32>) {
    let pid = pid
        .and_then(|pid| i32::try_from(pid).ok())
        .and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid {
        // It may be gone already.
        let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
    }
}

/// Nothing to do: dropping the child ends it.
#[cfg(not(unix))]
pub(crate) fn kill_group(_pid: Option<u32>) {}
