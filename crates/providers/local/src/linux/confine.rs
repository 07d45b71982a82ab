//! What a process of a box may no longer do: capabilities, system calls, files, resources.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use landlock::{
    ABI, Access as _, AccessFs, CompatLevel, Compatible as _, PathBeneath, PathFd, Ruleset, RulesetAttr as _,
    RulesetCreatedAttr as _, Scope,
};
use rustix::process::{Resource, Rlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    sock_filter,
};

/// Places of the box that may be written to.
pub(super) const WRITABLE: &[&str] = &[
    crate::WORK_ROOT,
    crate::HOME,
    "/tmp",
    "/var/tmp",
    "/run",
    "/dev",
    "/proc",
];

/// Gives up every capability for good, also for programs that would grant some.
pub(super) fn drop_capabilities() -> io::Result<()> {
    for bit in 0..64 {
        let Some(capability) = CapabilitySet::from_bits(1 << bit) else {
            continue;
        };
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(error) => return Err(error.into()),
        }
    }
    rustix::thread::clear_ambient_capability_set()?;
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, none)?;
    rustix::thread::set_no_new_privs(true)?;
    Ok(())
}

/// Limits that every command inherits. `processes` counts all of the box together.
pub(super) fn limit_resources(processes: u64) -> io::Result<()> {
    let lower = |resource: Resource, limit: u64| {
        let hard = rustix::process::getrlimit(resource).maximum;
        let limit = hard.map_or(limit, |hard| hard.min(limit));
        rustix::process::setrlimit(
            resource,
            Rlimit {
                current: Some(limit),
                maximum: Some(limit),
            },
        )
    };
    lower(Resource::Nproc, processes)?;
    lower(Resource::Core, 0)?;
    lower(Resource::Nofile, 1 << 20)?;
    Ok(())
}

/// Limits what the kernel counts per user and not per process, so that a box cannot use up the share of the user who
/// started it. Takes a `/proc` of the box and the rights over its user namespace; older kernels have less to limit.
pub(super) fn limit_counts(proc: &Path) {
    for name in ["max_inotify_instances", "max_inotify_watches"] {
        let whole = fs::read_to_string(
            proc.join("sys/fs/inotify")
                .join(name.replace("max_inotify", "max_user")),
        );
        if let Some(whole) = whole.ok().and_then(|text| text.trim().parse::<u64>().ok()) {
            let _ = super::stage::kernel_write(&proc.join("sys/user").join(name), &(whole / 4).max(1).to_string());
        }
    }
    let _ = super::stage::kernel_write(&proc.join("sys/user/max_user_namespaces"), "0");
}

/// Restricts files with Landlock as far as the kernel can: everything is readable, only [`WRITABLE`] can be changed, and
/// signals and abstract sockets end at the box.
pub(super) fn restrict_files() -> Result<(), landlock::RulesetError> {
    let newest = ABI::V6;
    let all = AccessFs::from_all(newest);
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(all)?
        .scope(Scope::from_all(newest))?
        .create()?;
    if let Ok(root) = PathFd::new("/") {
        ruleset = ruleset.add_rule(PathBeneath::new(root, AccessFs::from_read(newest)))?;
    }
    for path in WRITABLE {
        if let Ok(place) = PathFd::new(path) {
            ruleset = ruleset.add_rule(PathBeneath::new(place, all))?;
        }
    }
    ruleset.restrict_self()?;
    Ok(())
}

/// Calls that fail with "not permitted": they administer the machine, or are surface that nothing in a box needs.
const DENIED: &[libc::c_long] = &[
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_bpf,
    libc::SYS_clock_adjtime,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_fanotify_init,
    libc::SYS_finit_module,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_init_module,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_kexec_file_load,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_name_to_handle_at,
    libc::SYS_nfsservctl,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_perf_event_open,
    libc::SYS_pivot_root,
    libc::SYS_quotactl,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_setns,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_syslog,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
    libc::SYS_vhangup,
];

#[cfg(target_arch = "x86_64")]
const DENIED_HERE: &[libc::c_long] = &[
    libc::SYS_ioperm,
    libc::SYS_iopl,
    libc::SYS_lookup_dcookie,
    libc::SYS_modify_ldt,
    libc::SYS_uselib,
    libc::SYS_ustat,
];
#[cfg(not(target_arch = "x86_64"))]
const DENIED_HERE: &[libc::c_long] = &[];

/// The only socket families of a box. All others reach past a network namespace, as those of virtual machines do, or are
/// kernel surface that nothing in a box needs.
const FAMILIES: &[libc::c_int] = &[libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];

/// The system call filters, in the order in which they are installed.
pub(super) fn filters() -> Result<Vec<BpfProgram>, seccompiler::BackendError> {
    let equal = |argument: u8, value: u64| {
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)
            .and_then(|condition| SeccompRule::new(vec![condition]))
    };
    let mut denied: BTreeMap<i64, Vec<SeccompRule>> = DENIED
        .iter()
        .chain(DENIED_HERE)
        .map(|call| (*call, Vec::new()))
        .collect();
    let foreign = FAMILIES
        .iter()
        .map(|family| {
            let family = u64::from(family.cast_unsigned());
            SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, family)
        })
        .collect::<Result<Vec<_>, _>>()
        .and_then(SeccompRule::new)?;
    denied.insert(libc::SYS_socket, vec![foreign.clone()]);
    denied.insert(libc::SYS_socketpair, vec![foreign]);
    // Writing into the terminal of whoever watches, and the console's own mischief.
    denied.insert(
        libc::SYS_ioctl,
        vec![equal(1, libc::TIOCSTI)?, equal(1, libc::TIOCLINUX)?],
    );
    let namespaces = [
        libc::CLONE_NEWUSER,
        libc::CLONE_NEWNS,
        libc::CLONE_NEWPID,
        libc::CLONE_NEWNET,
        libc::CLONE_NEWIPC,
        libc::CLONE_NEWUTS,
        libc::CLONE_NEWCGROUP,
    ];
    let namespaces = namespaces
        .iter()
        .map(|flag| {
            let flag = u64::from(flag.cast_unsigned());
            SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(flag), flag)
                .and_then(|condition| SeccompRule::new(vec![condition]))
        })
        .collect::<Result<Vec<_>, _>>()?;
    denied.insert(libc::SYS_clone, namespaces);
    // The flags of clone3 lie in memory, where a filter cannot look; libraries fall back to clone when it is missing.
    let missing = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let listed = [(denied, libc::EPERM), (missing, libc::ENOSYS)]
        .into_iter()
        .map(|(rules, errno)| {
            SeccompFilter::new(
                rules,
                SeccompAction::Allow,
                SeccompAction::Errno(errno.cast_unsigned()),
                std::env::consts::ARCH.try_into()?,
            )?
            .try_into()
        });
    listed.chain(other_numbering().map(Ok)).collect()
}

/// Denies the second numbering of calls that some kernels have for the same architecture (x32), in which no number
/// equals one that is listed.
fn other_numbering() -> Option<BpfProgram> {
    const FIRST: u32 = 0x4000_0000;
    let instruction = |code: u32, jt: u8, jf: u8, k: u32| sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    cfg!(target_arch = "x86_64").then(|| {
        vec![
            // The number of the call is the first word of what a filter sees.
            instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
            instruction(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, 0, 1, FIRST),
            instruction(
                libc::BPF_RET | libc::BPF_K,
                0,
                0,
                libc::SECCOMP_RET_ERRNO | libc::EPERM.cast_unsigned(),
            ),
            instruction(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
        ]
    })
}

/// Installs the filters for this process and everything it starts.
pub(super) fn filter_calls(filters: &[BpfProgram]) -> Result<(), seccompiler::Error> {
    filters.iter().try_for_each(|filter| seccompiler::apply_filter(filter))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_compile() {
        let filters = filters().unwrap();
        assert_eq!(filters.len(), if cfg!(target_arch = "x86_64") { 3 } else { 2 });
        assert!(filters.iter().all(|filter| filter.len() >= 4 && filter.len() < 4096));
    }
}
