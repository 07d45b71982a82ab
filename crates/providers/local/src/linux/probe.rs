//! What this host allows, found out by trying it once in a process of its own.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use rustix::mount::MountFlags;
use rustix::thread::CapabilitySet;
use serde::{Deserialize, Serialize};

use super::sys::{self, Fork};
use super::{process, stage};
use crate::plan::{INNER_ID, OUTER_ID, Plan};

/// What to do when namespaces cannot be had.
pub(crate) const NAMESPACE_CURE: &str = "allow user namespaces (`sysctl -w user.max_user_namespaces=15000`, on Ubuntu \
also `sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`; in a container run it with seccomp and masked paths \
unconfined), or set local.isolation to none to run without isolation";

/// What this host allows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct HostFacts {
    /// Why boxes cannot have namespaces; `None` when they can.
    pub(crate) namespaces: Option<String>,
    /// Why a workspace cannot be layered over another; `None` when it can.
    pub(crate) overlay: Option<String>,
    /// Version of Landlock, 0 when the kernel has none.
    pub(crate) landlock: i32,
    /// Whether system calls can be filtered.
    pub(crate) seccomp: bool,
    /// Whether the supervisor has the rights of real root.
    pub(crate) privileged: bool,
}

/// Whether this process can administer mounts and map any user.
pub(crate) fn is_privileged() -> bool {
    let administers = rustix::thread::capabilities(None).is_ok_and(|sets| {
        sets.effective
            .contains(CapabilitySet::SYS_ADMIN | CapabilitySet::SETUID)
    });
    let maps = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    rustix::process::geteuid().is_root() && administers && maps_outer(&maps)
}

/// Whether the id that boxes run as exists in this user namespace.
fn maps_outer(maps: &str) -> bool {
    maps.lines().any(|line| {
        let mut fields = line.split_whitespace().filter_map(|field| field.parse::<u64>().ok());
        let (Some(inside), Some(_), Some(count)) = (fields.next(), fields.next(), fields.next()) else {
            return false;
        };
        (inside..inside + count).contains(&u64::from(OUTER_ID))
    })
}

/// Runs as a helper with an empty scratch directory and prints the facts as JSON.
pub(super) fn main(scratch: &Path) -> ExitCode {
    let facts = look(scratch);
    let Ok(text) = serde_json::to_vec(&facts) else {
        return ExitCode::FAILURE;
    };
    match std::io::stdout().write_all(&text) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn look(scratch: &Path) -> HostFacts {
    let privileged = is_privileged();
    let own = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let plan = Plan {
        hostname: String::new(),
        privileged,
        outer: if privileged { (OUTER_ID, OUTER_ID) } else { own },
        isolate_network: true,
        hide: Vec::new(),
        show: Vec::new(),
        processes: 0,
        memory_bytes: None,
        environment: std::collections::BTreeMap::new(),
    };
    let mut facts = HostFacts {
        landlock: sys::landlock_version(),
        seccomp: rustix::thread::secure_computing_mode().is_ok(),
        privileged,
        ..HostFacts::default()
    };
    if let Err(error) = stage::separate(&plan) {
        facts.namespaces = Some(error.to_string());
        facts.overlay = Some("needs namespaces".to_owned());
        return facts;
    }
    facts.overlay = try_overlay(scratch).err().map(|error| error.to_string());
    facts.namespaces = try_namespaces(&plan, scratch).err().map(|error| error.to_string());
    facts
}

fn try_overlay(scratch: &Path) -> std::io::Result<()> {
    rustix::process::chdir(scratch)?;
    for name in ["lower", "upper", "work", "merged"] {
        fs::create_dir(name)?;
    }
    rustix::mount::mount(
        "overlay",
        "merged",
        "overlay",
        MountFlags::NOSUID | MountFlags::NODEV,
        c"lowerdir=lower,upperdir=upper,workdir=work,userxattr",
    )?;
    fs::create_dir("merged/probe")?;
    rustix::mount::unmount("merged", rustix::mount::UnmountFlags::DETACH)?;
    Ok(())
}

fn try_namespaces(plan: &Plan, scratch: &Path) -> std::io::Result<()> {
    let namespaces = libc::CLONE_NEWUSER
        | libc::CLONE_NEWNS
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWNET;
    let (begin, go) = rustix::pipe::pipe()?;
    match sys::fork_into(namespaces)? {
        Fork::Child => {
            drop(go);
            let mut byte = [0];
            let begun = matches!(rustix::io::read(&begin, &mut byte), Ok(1));
            let place = scratch.join("merged");
            let _ = fs::create_dir_all(&place);
            let mounted = rustix::mount::mount("proc", &place, "proc", MountFlags::NOSUID, None);
            let errno = mounted.err().map_or(0, rustix::io::Errno::raw_os_error);
            sys::exit_now(if begun { errno } else { libc::EPIPE })
        }
        Fork::Parent(child) => {
            let (user, group) = plan.outer;
            let raw = child.as_raw_nonzero().get();
            let mapped = [("gid_map", group), ("uid_map", user)]
                .into_iter()
                .try_for_each(|(file, outer)| {
                    stage::kernel_write(
                        Path::new(&format!("/proc/{raw}/{file}")),
                        &format!("{INNER_ID} {outer} 1"),
                    )
                });
            if let Err(error) = mapped {
                if let Some(record) = process::record_of(raw) {
                    process::end(record, std::time::Duration::from_secs(5));
                }
                return Err(error);
            }
            rustix::io::write(&go, &[1])?;
            let status = rustix::process::waitpid(Some(child), rustix::process::WaitOptions::empty())?;
            match status.and_then(|(_, status)| status.exit_status()) {
                Some(0) => Ok(()),
                Some(errno) => Err(std::io::Error::from_raw_os_error(errno)),
                None => Err(std::io::Error::other("the first process of a namespace was killed")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_full_map_has_the_id_of_boxes() {
        assert!(maps_outer("         0          0 4294967295\n"));
        assert!(!maps_outer("0 1000 1\n1 100000 65536\n"));
        assert!(!maps_outer("garbage"));
    }
}
