//! Processes of this machine, recognised by id and start time.

use std::fs;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Signal};

use crate::store::ProcessRecord;

/// What recognises a living process.
pub(super) fn record_of(pid: i32) -> Option<ProcessRecord> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(ProcessRecord {
        pid,
        start: start_in(&stat)?,
    })
}

/// The 22nd field of `/proc/<pid>/stat`; the second may hold anything.
fn start_in(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.split(' ').nth(19)?.parse().ok()
}

/// Whether a process lives. One that has ended and is only waited for does not.
pub(crate) fn is_alive(record: ProcessRecord) -> bool {
    fs::read_to_string(format!("/proc/{}/stat", record.pid))
        .is_ok_and(|stat| start_in(&stat) == Some(record.start) && !stat.contains(") Z "))
}

/// Ends a process, unless its id belongs to another by now, and waits; whether it has ended.
pub(super) fn end(record: ProcessRecord, patience: Duration) -> bool {
    let Some(pid) = Pid::from_raw(record.pid) else {
        return true;
    };
    // The handle is taken before the comparison, so that both are about the same process.
    let handle = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
        Ok(handle) => handle,
        Err(error) => return error == rustix::io::Errno::SRCH,
    };
    if record_of(record.pid) != Some(record) {
        return true;
    }
    let _ = rustix::process::pidfd_send_signal(&handle, Signal::KILL);
    let timeout = Timespec::try_from(patience).unwrap_or(Timespec { tv_sec: 5, tv_nsec: 0 });
    let mut fds = [PollFd::new(&handle, PollFlags::IN)];
    matches!(rustix::event::poll(&mut fds, Some(&timeout)), Ok(ready) if ready > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_recognised_by_its_start() {
        let own = i32::try_from(std::process::id()).unwrap();
        let record = record_of(own).unwrap();
        assert_eq!(record_of(own), Some(record));
        // Another process had this id before: it has ended, and the present one is left alone.
        assert!(end(
            ProcessRecord {
                start: record.start + 1,
                ..record
            },
            Duration::ZERO
        ));
        assert!(record_of(-5).is_none());
    }
}
