//! Which process wrote a record, and whether it still lives.

use std::fs;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A process, told apart from every other one that ever had its number.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
pub struct Client {
    /// Process id.
    pub pid: u32,
    /// Start time in clock ticks since boot; empty where the system does not tell.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub process_start: String,
    /// Identity of the boot; empty where the system does not tell.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub boot_id: String,
    /// Process id namespace: a number means nothing in another container.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub pid_namespace: String,
    /// Host name: a home directory may be shared between machines.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub host: String,
    /// Fields of other versions.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

/// What can be said about a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Liveness {
    /// It runs.
    Alive,
    /// It is gone for certain.
    Dead,
    /// It belongs to another machine or container, or the system does not tell. Treat it as alive.
    Unknown,
}

impl Client {
    /// This process.
    pub fn current() -> Self {
        let pid = std::process::id();
        Self {
            pid,
            process_start: stat(pid).map(|stat| stat.start).unwrap_or_default(),
            boot_id: boot_id(),
            pid_namespace: pid_namespace(),
            host: host(),
            unknown: Map::new(),
        }
    }

    /// Looks whether the process lives. [`Liveness::Dead`] is only said where it is certain.
    pub fn liveness(&self) -> Liveness {
        self.liveness_seen_by(&Self::current())
    }

    fn liveness_seen_by(&self, here: &Self) -> Liveness {
        if self.pid == 0 || self.host != here.host {
            return Liveness::Unknown;
        }
        if self.boot_id != here.boot_id {
            // The same machine was started again, provided that both boots are known.
            let known = !self.boot_id.is_empty() && !here.boot_id.is_empty();
            return if known { Liveness::Dead } else { Liveness::Unknown };
        }
        if self.pid_namespace != here.pid_namespace {
            return Liveness::Unknown;
        }
        match exists(self.pid) {
            Some(false) => Liveness::Dead,
            None => Liveness::Unknown,
            Some(true) => match stat(self.pid) {
                // A zombie does nothing any more; it only waits for its parent.
                Some(stat) if matches!(stat.state, 'Z' | 'X') => Liveness::Dead,
                Some(stat) if !self.process_start.is_empty() && stat.start != self.process_start => Liveness::Dead,
                // Without a start time the number may have been given to another process; that is the safe mistake.
                _ => Liveness::Alive,
            },
        }
    }
}

struct Stat {
    state: char,
    start: String,
}

/// State and start time: fields 3 and 22 of `/proc/<pid>/stat`, counted after the command, which may hold anything.
#[cfg(target_os = "linux")]
fn stat(pid: u32) -> Option<Stat> {
    let bytes = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let mut fields = text.get(text.rfind(')')? + 1..)?.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    Some(Stat {
        state,
        start: fields.nth(18)?.to_owned(),
    })
}

#[cfg(not(target_os = "linux"))]
fn stat(_: u32) -> Option<Stat> {
    None
}

fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|text| text.trim().to_owned())
        .unwrap_or_default()
}

fn pid_namespace() -> String {
    fs::read_link("/proc/self/ns/pid")
        .map(|target| target.to_string_lossy().into_owned())
        .unwrap_or_default()
}

#[cfg(unix)]
fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(not(unix))]
fn host() -> String {
    String::new()
}

#[cfg(unix)]
fn exists(pid: u32) -> Option<bool> {
    use rustix::io::Errno;
    use rustix::process::{Pid, test_kill_process};
    let pid = Pid::from_raw(i32::try_from(pid).ok()?)?;
    match test_kill_process(pid) {
        Ok(()) | Err(Errno::PERM) => Some(true),
        Err(Errno::SRCH) => Some(false),
        Err(_) => None,
    }
}

#[cfg(not(unix))]
fn exists(_: u32) -> Option<bool> {
    None
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn this_process_lives_and_its_number_reused_does_not() {
        let here = Client::current();
        assert_eq!(here.liveness(), Liveness::Alive);
        assert!(!here.process_start.is_empty() && !here.boot_id.is_empty());
        let reused = Client {
            process_start: "1".to_owned(),
            ..here.clone()
        };
        assert_eq!(reused.liveness(), Liveness::Dead);
        let rebooted = Client {
            boot_id: "other".to_owned(),
            ..here
        };
        assert_eq!(rebooted.liveness(), Liveness::Dead);
    }

    #[test]
    fn what_cannot_be_seen_from_here_is_unknown() {
        let here = Client::current();
        for other in [
            Client {
                host: "other".to_owned(),
                ..here.clone()
            },
            Client {
                pid_namespace: "pid:[1]".to_owned(),
                ..here.clone()
            },
            Client {
                boot_id: String::new(),
                ..here
            },
            Client::default(),
        ] {
            assert_eq!(other.liveness(), Liveness::Unknown, "{other:?}");
        }
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a real process has to end")]
    fn a_process_that_ended_is_dead_even_before_it_is_reaped() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let client = Client {
            pid: child.id(),
            process_start: stat(child.id()).unwrap().start,
            ..Client::current()
        };
        assert_eq!(client.liveness(), Liveness::Alive);
        child.kill().unwrap();
        while stat(child.id()).is_some_and(|stat| stat.state != 'Z') {
            std::thread::yield_now();
        }
        assert_eq!(client.liveness(), Liveness::Dead);
        child.wait().unwrap();
        assert_eq!(client.liveness(), Liveness::Dead);
    }
}
