//! Starts one command inside the box.
//!
//! Between the first process and the command stands a small process of ours, the keeper. Whatever the command leaves
//! behind becomes the keeper's child, so that every descendant can be found as long as the keeper lives.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions};

use super::sys::{self, Fork};

/// What the keeper reports: a word and a number, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Report {
    /// The command runs with this process id, which is also its group's.
    Started(i32),
    /// The directory could not be entered, for this error number.
    NoDirectory(i32),
    /// The command ended with this raw wait status.
    Ended(i32),
}

const REPORT_LENGTH: usize = 5;

impl Report {
    fn encode(self) -> [u8; REPORT_LENGTH] {
        let (word, number) = match self {
            Self::Started(pid) => (b'P', pid),
            Self::NoDirectory(errno) => (b'D', errno),
            Self::Ended(status) => (b'X', status),
        };
        let mut bytes = [word, 0, 0, 0, 0];
        bytes[1..].copy_from_slice(&number.to_le_bytes());
        bytes
    }

    fn decode(bytes: [u8; REPORT_LENGTH]) -> Option<Self> {
        let number = i32::from_le_bytes([bytes[1], bytes[2], bytes[3], bytes[4]]);
        match bytes[0] {
            b'P' => Some(Self::Started(number)),
            b'D' => Some(Self::NoDirectory(number)),
            b'X' => Some(Self::Ended(number)),
            _ => None,
        }
    }

    /// Reads the next report; `None` when the keeper is gone. Reports are shorter than a pipe's atomic write.
    pub(super) fn read(pipe: &OwnedFd) -> Option<Self> {
        let mut bytes = [0; REPORT_LENGTH];
        loop {
            match rustix::io::read(pipe, &mut bytes) {
                Ok(REPORT_LENGTH) => return Self::decode(bytes),
                Err(rustix::io::Errno::INTR) => {}
                _ => return None,
            }
        }
    }
}

/// A command, its texts already in the form that the kernel takes.
#[derive(Debug)]
pub(super) struct Prepared {
    candidates: Vec<CString>,
    arguments: Vec<CString>,
    environment: Vec<CString>,
    workdir: CString,
}

impl Prepared {
    /// Checks and converts. Programs without a slash are looked for along `PATH`.
    pub(super) fn new(
        argv: Vec<String>,
        workdir: String,
        environment: &BTreeMap<String, String>,
    ) -> Result<Self, String> {
        let text = |text: String| CString::new(text).map_err(|_| "a NUL byte in an argument or variable".to_owned());
        let Some(program) = argv.first().cloned().filter(|program| !program.is_empty()) else {
            return Err("the command is empty".to_owned());
        };
        let candidates = if program.contains('/') {
            vec![text(program)?]
        } else {
            let path = environment.get("PATH").map_or("/usr/bin:/bin", String::as_str);
            path.split(':')
                .filter(|part| !part.is_empty())
                .map(|part| text(format!("{part}/{program}")))
                .collect::<Result<_, _>>()?
        };
        if let Some(name) = environment.keys().find(|name| name.is_empty() || name.contains('=')) {
            return Err(format!("not the name of a variable: `{}`", name.escape_debug()));
        }
        Ok(Self {
            candidates,
            arguments: argv.into_iter().map(text).collect::<Result<_, _>>()?,
            environment: environment
                .iter()
                .map(|(name, value)| text(format!("{name}={value}")))
                .collect::<Result<_, _>>()?,
            workdir: text(workdir)?,
        })
    }

    /// Starts it and returns its keeper and the pipe of reports.
    pub(super) fn start(&self, streams: &[OwnedFd; 3]) -> io::Result<(Pid, OwnedFd)> {
        let (reports, reporter) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        match sys::fork()? {
            Fork::Parent(keeper) => Ok((keeper, reports)),
            Fork::Child => self.keep(&reporter, streams),
        }
    }

    fn keep(&self, reporter: &OwnedFd, streams: &[OwnedFd; 3]) -> ! {
        sys::reset_signals();
        let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
        let report = |what: Report| {
            let _ = rustix::io::write(reporter, &what.encode());
        };
        let command = match sys::fork() {
            Ok(Fork::Child) => self.become_command(reporter, streams),
            Ok(Fork::Parent(command)) => command,
            Err(_) => {
                complain(&streams[2], "no process left for the command");
                report(Report::Ended(126 << 8));
                sys::exit_now(1);
            }
        };
        sys::close_all_but(&[reporter.as_fd()]);
        report(Report::Started(command.as_raw_nonzero().get()));
        loop {
            match rustix::process::wait(WaitOptions::empty()) {
                Ok(Some((pid, status))) if pid == command => report(Report::Ended(status.as_raw())),
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                // Nothing left to keep; the first process ends the keeper when it has read the report.
                Err(_) => std::thread::sleep(Duration::from_secs(3600)),
            }
        }
    }

    fn become_command(&self, reporter: &OwnedFd, streams: &[OwnedFd; 3]) -> ! {
        let _ = rustix::process::setsid();
        if let Err(error) = rustix::process::chdir(self.workdir.as_c_str()) {
            let _ = rustix::io::write(reporter, &Report::NoDirectory(error.raw_os_error()).encode());
            sys::exit_now(126);
        }
        for (stream, place) in streams.iter().zip(0..) {
            if sys::duplicate_to(stream.as_fd(), place).is_err() {
                sys::exit_now(126);
            }
        }
        sys::close_all_but(&[]);
        let mut denied = None;
        for candidate in &self.candidates {
            let error = sys::execute(candidate, &self.arguments, &self.environment);
            match error.raw_os_error() {
                Some(libc::ENOENT | libc::ENOTDIR) => {}
                Some(libc::ENOEXEC) => {
                    // A script without `#!`, which POSIX gives to the shell.
                    let mut arguments = vec![c"sh".to_owned(), candidate.clone()];
                    arguments.extend(self.arguments.iter().skip(1).cloned());
                    denied = Some(sys::execute(c"/bin/sh", &arguments, &self.environment));
                    break;
                }
                Some(libc::EACCES) => denied = Some(error),
                _ => {
                    denied = Some(error);
                    break;
                }
            }
        }
        let program = self
            .arguments
            .first()
            .map(|text| text.to_string_lossy().into_owned())
            .unwrap_or_default();
        let stderr = rustix::stdio::stderr();
        match denied {
            Some(error) => {
                complain(stderr, &format!("cannot run in the box: {program}: {error}"));
                sys::exit_now(126)
            }
            None => {
                complain(stderr, &format!("command not found in the box: {program}"));
                sys::exit_now(127)
            }
        }
    }
}

fn complain(stream: impl std::os::fd::AsFd, text: &str) {
    let _ = rustix::io::write(stream, format!("crabbox: {text}\n").as_bytes());
}

/// Ends every process below a keeper, the keeper excepted. New ones that are born meanwhile are found by looking again.
pub(super) fn kill_below(keeper: Pid) {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let below = descendants(keeper);
        if below.is_empty() || Instant::now() > deadline {
            return;
        }
        // Stopped first, so that a process that only forks cannot outrun the second pass.
        for signal in [Signal::STOP, Signal::KILL] {
            for pid in &below {
                let _ = rustix::process::kill_process(*pid, signal);
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Living processes whose line of parents leads to the given one.
fn descendants(ancestor: Pid) -> Vec<Pid> {
    let parents: BTreeMap<i32, i32> = processes().into_iter().collect();
    let ancestor = ancestor.as_raw_nonzero().get();
    let leads_there = |mut pid: i32| {
        for _ in 0..parents.len() {
            match parents.get(&pid) {
                Some(&parent) if parent == ancestor => return true,
                Some(&parent) => pid = parent,
                None => return false,
            }
        }
        false
    };
    parents
        .keys()
        .copied()
        .filter(|pid| leads_there(*pid))
        .filter_map(Pid::from_raw)
        .collect()
}

/// Every process of the box that has not ended, with its parent.
pub(super) fn processes() -> Vec<(i32, i32)> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter_map(|pid| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            let (state, parent) = state_and_parent(&stat)?;
            (!matches!(state, "Z" | "X")).then_some((pid, parent))
        })
        .collect()
}

/// State and parent in a line of `/proc/<pid>/stat`, whose second field may hold anything.
fn state_and_parent(stat: &str) -> Option<(&str, i32)> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    Some((fields.next()?, fields.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_survive_the_pipe() {
        for report in [Report::Started(7), Report::NoDirectory(2), Report::Ended(-1)] {
            assert_eq!(Report::decode(report.encode()), Some(report));
        }
    }

    #[test]
    fn a_process_name_cannot_fake_its_parent() {
        assert_eq!(state_and_parent("12 (a) S 1 (b) R 99) S 3 4"), Some(("S", 3)));
    }

    #[test]
    fn programs_are_looked_for_along_the_path() {
        let environment = BTreeMap::from([("PATH".to_owned(), "/a::/b".to_owned())]);
        let prepared = Prepared::new(vec!["x".into()], "/".into(), &environment).unwrap();
        assert_eq!(prepared.candidates, [c"/a/x".to_owned(), c"/b/x".to_owned()]);
        assert!(Prepared::new(Vec::new(), "/".into(), &environment).is_err());
        assert!(Prepared::new(vec!["a\0".into()], "/".into(), &environment).is_err());
        let bad = BTreeMap::from([("A=B".to_owned(), String::new())]);
        assert!(Prepared::new(vec!["x".into()], "/".into(), &bad).is_err());
    }
}
