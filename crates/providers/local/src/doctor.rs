//! What `doctor` says about this machine.

use crabbox_core::request::{Check, CheckStatus, DoctorReport};

use crate::backend::Local;
use crate::store::Store;
use crate::tree;

/// Looks at the host again, past every cache.
pub(crate) async fn report(local: &Local) -> DoctorReport {
    let mut checks = Vec::new();
    #[cfg(target_os = "linux")]
    {
        match local.look_at_host().await {
            Ok(facts) => checks.extend(host_checks(&facts)),
            Err(error) => checks.push(Check::new("user-namespaces", CheckStatus::Failed, error.to_string())),
        }
        checks.push(groups_check());
    }
    #[cfg(not(target_os = "linux"))]
    checks.push(Check::new(
        "user-namespaces",
        CheckStatus::Warning,
        "this operating system has none; commands run without isolation",
    ));
    checks.push(state_check(&local.store));
    DoctorReport { checks }
}

#[cfg(target_os = "linux")]
fn host_checks(facts: &crate::linux::HostFacts) -> Vec<Check> {
    let mut namespaces = match &facts.namespaces {
        None => Check::new("user-namespaces", CheckStatus::Ok, "boxes are isolated by namespaces"),
        Some(cause) => Check::new(
            "user-namespaces",
            CheckStatus::Missing,
            format!("{cause}; {}", crate::linux::NAMESPACE_CURE),
        ),
    };
    namespaces
        .details
        .insert("privileged".into(), facts.privileged.to_string());
    let overlay = match &facts.overlay {
        None => Check::new("overlay", CheckStatus::Ok, "checkpoints and forks take no copy"),
        Some(cause) => Check::new(
            "overlay",
            CheckStatus::Warning,
            format!(
                "{cause}; checkpoints and forks are copied; use Linux 5.11 or newer and keep the state directory on ext4, xfs or btrfs"
            ),
        ),
    };
    let seccomp = if facts.seccomp {
        Check::new("seccomp", CheckStatus::Ok, "dangerous system calls are filtered")
    } else {
        Check::new(
            "seccomp",
            CheckStatus::Missing,
            "the kernel cannot filter system calls; use one built with CONFIG_SECCOMP_FILTER",
        )
    };
    let mut landlock = match facts.landlock {
        0 => Check::new(
            "landlock",
            CheckStatus::Warning,
            "the kernel has no Landlock; boxes have one wall less; use Linux 5.13 or newer with landlock in the `lsm=` boot parameter",
        ),
        version if version < 6 => Check::new(
            "landlock",
            CheckStatus::Warning,
            "without version 6 (Linux 6.12) a box with the host's network can reach abstract sockets of the host",
        ),
        _ => Check::new(
            "landlock",
            CheckStatus::Ok,
            "files, signals and abstract sockets are fenced",
        ),
    };
    landlock.details.insert("abi".into(), facts.landlock.to_string());
    vec![namespaces, overlay, seccomp, landlock]
}

#[cfg(target_os = "linux")]
fn groups_check() -> Check {
    match crate::linux::describe_groups() {
        Some(hierarchies) => {
            let mut check = Check::new("cgroups", CheckStatus::Ok, "boxes get control groups of their own");
            check.details.insert("hierarchies".into(), hierarchies);
            check
        }
        None => Check::new(
            "cgroups",
            CheckStatus::Warning,
            "no control group is delegated to this user, so memory is not limited; start crabbox with `systemd-run --user --scope -p Delegate=yes`",
        ),
    }
}

/// Whether boxes can be kept, and whether their files can share blocks.
fn state_check(store: &Store) -> Check {
    if let Err(error) = store.prepare() {
        let hint = error
            .hint()
            .unwrap_or("choose another with CRABBOX_STATE_DIR")
            .to_owned();
        return Check::new("state-directory", CheckStatus::Failed, format!("{error}; {hint}"));
    }
    let mut check = Check::new("state-directory", CheckStatus::Ok, "boxes can be kept");
    check
        .details
        .insert("reflink".into(), tree::shares_blocks(&store.layers()).to_string());
    check
}
