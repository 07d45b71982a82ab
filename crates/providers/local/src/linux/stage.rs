//! The root file system of a box: built by the supervisor, in a mount namespace of its own, from pieces of the host.
//!
//! It starts from an empty tmpfs, and only what is named here is put into it, read-only unless said otherwise. Mounts
//! that the supervisor makes cannot be undone inside the box, whose user namespace is a lesser one.

use std::fs;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use crabbox_core::error::{Error, ErrorKind, IntoError as _, Result};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags};
use rustix::thread::UnshareFlags;

use super::sys;
use crate::plan::{INNER_ID, Plan, REPLACED, is_software};
use crate::store::Layers;

/// Where the root is assembled, below the box directory, which is the current directory.
pub(super) const ROOT: &str = "root";

/// What a box sees of `/var`: databases of installed software.
const VAR: &[&str] = &[
    "/var/cache/fontconfig",
    "/var/lib/ca-certificates",
    "/var/lib/dpkg",
    "/var/lib/gems",
    "/var/lib/ghc",
    "/var/lib/pacman",
    "/var/lib/python",
    "/var/lib/rpm",
    "/var/lib/texmf",
    "/var/lib/xkb",
];

const DEVICES: &[&str] = &["full", "null", "random", "tty", "urandom", "zero"];

const DEVICE_LINKS: &[(&str, &str)] = &[
    ("fd", "/proc/self/fd"),
    ("ptmx", "pts/ptmx"),
    ("stderr", "/proc/self/fd/2"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
];

/// How a piece of the host appears.
#[derive(Clone, Copy)]
enum Piece {
    ReadOnly,
    Writable,
    Device,
}

/// Gives this process mounts of its own and, unless it has the rights of real root, a user namespace that allows them.
pub(super) fn separate(plan: &Plan) -> Result<()> {
    let failed = |words: &'static str| move || words.to_owned();
    let mut flags = UnshareFlags::NEWNS;
    if !plan.privileged {
        flags |= UnshareFlags::NEWUSER;
    }
    unshare(flags)
        .or_error(ErrorKind::Prerequisite, failed("create namespaces for the box"))
        .map_err(|error| error.with_hint(super::probe::NAMESPACE_CURE))?;
    if !plan.privileged {
        let (user, group) = plan.outer;
        for (file, text) in [
            ("setgroups", "deny".to_owned()),
            ("uid_map", format!("{user} {user} 1")),
            ("gid_map", format!("{group} {group} 1")),
        ] {
            kernel_write(Path::new(&format!("/proc/self/{file}")), &text)
                .or_error(ErrorKind::Prerequisite, || format!("write /proc/self/{file}"))
                .map_err(|error| error.with_hint(super::probe::NAMESPACE_CURE))?;
        }
    }
    // Slaves learn when the host unmounts something, so that the box does not keep a disk busy.
    rustix::mount::mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::DOWNSTREAM)
        .or_error(ErrorKind::Prerequisite, failed("separate mounts from the host"))
        .map_err(|error| error.with_hint(super::probe::NAMESPACE_CURE))
}

#[expect(
    unsafe_code,
    reason = "unsharing is unsafe only with CLONE_FILES, which no caller passes"
)]
pub(super) fn unshare(flags: UnshareFlags) -> rustix::io::Result<()> {
    // SAFETY: the descriptor table stays shared with nobody, as it was: `flags` never holds `FILES`.
    unsafe { rustix::thread::unshare_unsafe(flags) }
}

/// Builds the root below the current directory, without the workspace and `/proc`.
pub(super) fn build(plan: &Plan) -> Result<()> {
    tmpfs("", "mode=0755,size=1m,nr_inodes=4096", plan)?;
    for name in [
        "dev", "home", "media", "mnt", "proc", "root", "run", "sys", "tmp", "var", "work",
    ] {
        make_directory(&inside(Path::new(name)))?;
    }
    system_directories()?;
    devices(plan)?;
    variable(plan)?;
    // All of them together stay below the memory of the machine.
    tmpfs("tmp", "mode=1777,size=40%", plan)?;
    tmpfs("run", "mode=1777,size=64m", plan)?;
    resolver()?;
    bind(Path::new("/sys"), Path::new("/sys"), Piece::ReadOnly)?;
    make_directory(&inside(Path::new(crate::HOME)))?;
    bind(Path::new("home"), Path::new(crate::HOME), Piece::Writable)?;
    make_directory(&inside(Path::new(crate::WORK_ROOT)))?;
    own_files()?;
    let sealed = hide_and_show(plan)?;
    for (file, target) in OWN_FILES.iter().zip(["/etc/passwd", "/etc/group"]) {
        if inside(Path::new(target)).exists() {
            bind(&inside(Path::new(file)), Path::new(target), Piece::ReadOnly)?;
        }
    }
    for file in OWN_FILES {
        fs::remove_file(inside(Path::new(file))).or_error(ErrorKind::Other, || format!("remove {file}"))?;
    }
    for path in sealed {
        seal(&inside(path))?;
    }
    seal(Path::new(ROOT))
}

/// Hides and shows in the order of paths, outer before inner, so that the innermost word on a place counts. Returns the
/// hidden directories, which are still writable for what is shown in them.
fn hide_and_show(plan: &Plan) -> Result<Vec<&Path>> {
    let hidden = plan.hide.iter().map(|path| (path.as_path(), false));
    let shown = plan.show.iter().map(|path| (path.as_path(), true));
    let mut places: Vec<_> = hidden.chain(shown).collect();
    places.sort_unstable();
    let mut sealed = Vec::new();
    for (path, visible) in places {
        if visible {
            show(path)?;
        } else if hide(path, &plan.show)? {
            sealed.push(path);
        }
    }
    Ok(sealed)
}

/// Puts the workspace into its place.
pub(super) fn mount_workspace(layers: &Layers) -> Result<()> {
    let target = Path::new(crate::WORK_ROOT);
    if layers.lower.is_empty() {
        return bind(Path::new(&layers.upper), target, Piece::Writable);
    }
    let failed = || "mount the workspace over its layers".to_owned();
    // Relative names keep the options below the one page that mount(2) takes, whatever the length of the state path.
    let here = rustix::fs::open(".", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .or_error(ErrorKind::Other, failed)?;
    let name = std::env::current_dir()
        .ok()
        .and_then(|path| Some(path.file_name()?.to_str()?.to_owned()))
        .ok_or_else(|| Error::other("the box directory has no name"))?;
    let lower: Vec<String> = layers.lower.iter().map(|layer| format!("{layer}/tree")).collect();
    let upper = format!("../boxes/{name}/{}", layers.upper);
    let options = format!(
        "lowerdir={},upperdir={upper},workdir={upper}.work,userxattr",
        lower.join(":")
    );
    let options = std::ffi::CString::new(options).or_error(ErrorKind::Other, failed)?;
    let target = std::env::current_dir()
        .or_error(ErrorKind::Other, failed)?
        .join(inside(target));
    rustix::process::chdir("../../layers").or_error(ErrorKind::Other, failed)?;
    let mounted = rustix::mount::mount(
        "overlay",
        &target,
        "overlay",
        MountFlags::NOSUID | MountFlags::NODEV,
        options.as_c_str(),
    );
    rustix::process::fchdir(&here).or_error(ErrorKind::Other, failed)?;
    mounted.or_error(ErrorKind::Other, failed)
}

/// Takes the workspace out of its place.
pub(super) fn unmount_workspace() -> Result<()> {
    rustix::mount::unmount(inside(Path::new(crate::WORK_ROOT)), UnmountFlags::DETACH)
        .or_error(ErrorKind::Other, || "unmount the workspace".to_owned())
}

/// The top-level directories and links of the host that hold its software.
fn system_directories() -> Result<()> {
    let failed = || "read the root directory".to_owned();
    for entry in fs::read_dir("/").or_error(ErrorKind::Other, failed)? {
        let entry = entry.or_error(ErrorKind::Other, failed)?;
        let name = entry.file_name();
        if !name.to_str().is_some_and(is_software) {
            continue;
        }
        let path = entry.path();
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_symlink() {
            if let Ok(target) = fs::read_link(&path) {
                symlink(target, inside(&path)).or_error(ErrorKind::Other, || format!("link {}", path.display()))?;
            }
        } else if kind.is_dir() {
            make_directory(&inside(&path))?;
            bind(&path, &path, Piece::ReadOnly)?;
        }
    }
    Ok(())
}

fn devices(plan: &Plan) -> Result<()> {
    tmpfs("dev", "mode=0755,size=64k,nr_inodes=64", plan)?;
    for name in DEVICES {
        let path = Path::new("/dev").join(name);
        make_file(&inside(&path))?;
        bind(&path, &path, Piece::Device)?;
    }
    for (name, target) in DEVICE_LINKS {
        symlink(target, inside(Path::new("dev")).join(name))
            .or_error(ErrorKind::Other, || format!("link /dev/{name}"))?;
    }
    for name in ["pts", "shm"] {
        make_directory(&inside(Path::new("dev")).join(name))?;
    }
    tmpfs("dev/shm", "mode=1777,size=25%", plan)?;
    rustix::mount::mount(
        "devpts",
        inside(Path::new("dev/pts")),
        "devpts",
        MountFlags::NOSUID | MountFlags::NOEXEC,
        c"newinstance,ptmxmode=0666,mode=0620",
    )
    .or_error(ErrorKind::Prerequisite, || "mount /dev/pts".to_owned())
}

fn variable(plan: &Plan) -> Result<()> {
    for name in ["cache", "lib", "log", "tmp"] {
        make_directory(&inside(Path::new("var")).join(name))?;
    }
    for (name, target) in [("lock", "/run/lock"), ("run", "/run")] {
        symlink(target, inside(Path::new("var")).join(name))
            .or_error(ErrorKind::Other, || format!("link /var/{name}"))?;
    }
    tmpfs("var/tmp", "mode=1777,size=10%", plan)?;
    for path in VAR {
        show(Path::new(path))?;
    }
    Ok(())
}

/// Name resolution goes through a file that is often a link into `/run`, and so does the software of some distributions.
fn resolver() -> Result<()> {
    make_directory(&inside(Path::new("run/lock")))?;
    if let Ok(path) = Path::new("/etc/resolv.conf").canonicalize()
        && path.starts_with("/run")
        && let Some(parent) = path.parent()
    {
        make_directory(&inside(parent))?;
        make_file(&inside(&path))?;
        bind(&path, &path, Piece::ReadOnly)?;
    }
    if let Ok(target) = fs::read_link("/run/current-system") {
        symlink(target, inside(Path::new("run/current-system")))
            .or_error(ErrorKind::Other, || "link /run/current-system".to_owned())?;
    }
    Ok(())
}

/// Makes a path that is visible look empty; whether it is a directory that now is a mount of its own.
fn hide(path: &Path, shown: &[PathBuf]) -> Result<bool> {
    let target = inside(path);
    let Ok(metadata) = fs::symlink_metadata(&target) else {
        return Ok(false);
    };
    let within_shown = shown.iter().any(|outer| path.starts_with(outer));
    if is_replaced(path) && !within_shown {
        return Ok(false);
    }
    if metadata.is_dir() {
        rustix::mount::mount(
            "tmpfs",
            &target,
            "tmpfs",
            MountFlags::NOSUID | MountFlags::NODEV,
            c"mode=0755,size=64k,nr_inodes=512",
        )
        .or_error(ErrorKind::Other, || format!("hide {}", path.display()))?;
        Ok(true)
    } else {
        bind(&inside(Path::new(".empty")), path, Piece::ReadOnly).map(|()| false)
    }
}

/// Whether a path of the host lies in a directory that is private here and only bears the same name.
fn is_replaced(path: &Path) -> bool {
    REPLACED.iter().any(|name| path.starts_with(Path::new("/").join(name)))
}

/// Makes a mount of our own read-only, once everything is in it.
fn seal(mount: &Path) -> Result<()> {
    rustix::mount::mount_remount(
        mount,
        MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV,
        c"",
    )
    .or_error(ErrorKind::Other, || format!("make {} read-only", mount.display()))
}

/// Makes a path of the host visible at the same place, if it exists.
fn show(path: &Path) -> Result<()> {
    let Ok(metadata) = fs::metadata(path) else {
        return Ok(());
    };
    let target = inside(path);
    if metadata.is_dir() {
        make_directory(&target)?;
    } else {
        if let Some(parent) = target.parent() {
            make_directory(parent)?;
        }
        make_file(&target)?;
    }
    bind(path, path, Piece::ReadOnly)
}

/// Attaches a piece of the host below the new root.
fn bind(source: &Path, target: &Path, piece: Piece) -> Result<()> {
    let failed = || format!("put {} into the box", source.display());
    let tree = open_tree(source).or_error(ErrorKind::Prerequisite, failed)?;
    let attributes = match piece {
        Piece::ReadOnly => libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV,
        Piece::Writable => libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV,
        Piece::Device => libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NOEXEC,
    };
    sys::set_mount_attributes(tree.as_fd(), attributes, libc::MS_PRIVATE).or_error(ErrorKind::Prerequisite, failed)?;
    rustix::mount::move_mount(
        tree.as_fd(),
        "",
        CWD,
        inside(target),
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )
    .or_error(ErrorKind::Prerequisite, failed)
}

fn open_tree(source: &Path) -> rustix::io::Result<OwnedFd> {
    rustix::mount::open_tree(
        CWD,
        source,
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE,
    )
}

fn tmpfs(target: &str, options: &str, plan: &Plan) -> Result<()> {
    let (user, group) = plan.outer;
    let options = std::ffi::CString::new(format!("{options},uid={user},gid={group}"))
        .or_error(ErrorKind::Other, || "tmpfs options".to_owned())?;
    rustix::mount::mount(
        "tmpfs",
        inside(Path::new(target)),
        "tmpfs",
        MountFlags::NOSUID | MountFlags::NODEV,
        options.as_c_str(),
    )
    .or_error(ErrorKind::Prerequisite, || format!("mount a private /{target}"))
}

/// Where a path of the box is while its root is assembled.
fn inside(path: &Path) -> PathBuf {
    Path::new(ROOT).join(path.strip_prefix("/").unwrap_or(path))
}

fn make_directory(path: &Path) -> Result<()> {
    match fs::create_dir_all(path) {
        Err(_) if path.is_dir() => Ok(()),
        other => other.or_error(ErrorKind::Other, || format!("make {}", path.display())),
    }
}

fn make_file(path: &Path) -> Result<()> {
    if path.exists() {
        return Ok(());
    }
    fs::File::create(path)
        .map(drop)
        .or_error(ErrorKind::Other, || format!("make {}", path.display()))
}

/// Writes to a file of the kernel.
#[expect(
    clippy::disallowed_methods,
    reason = "a kernel interface, where atomic replacement is impossible"
)]
pub(super) fn kernel_write(path: &Path, text: &str) -> std::io::Result<()> {
    fs::write(path, text)
}

/// Files that replace those of the host: written into the root of the box, where they vanish once they are bound.
const OWN_FILES: &[&str] = &[".passwd", ".group", ".empty"];

/// Writes the accounts of the box: those of the system, and its one user.
fn own_files() -> Result<()> {
    let system = |path: &str| {
        let text = fs::read_to_string(path).unwrap_or_default();
        let kept: Vec<String> = text
            .lines()
            .filter(|line| {
                let id = line.split(':').nth(2).and_then(|id| id.parse::<u32>().ok());
                id.is_some_and(|id| id < INNER_ID || id == 65534)
            })
            .map(str::to_owned)
            .collect();
        kept.join("\n")
    };
    let user = crate::USER;
    let passwd = format!(
        "{}\n{user}:x:{INNER_ID}:{INNER_ID}::{}:/bin/sh\n",
        system("/etc/passwd"),
        crate::HOME
    );
    let group = format!("{}\n{user}:x:{INNER_ID}:\n", system("/etc/group"));
    for (name, text) in OWN_FILES.iter().zip([passwd.as_str(), group.as_str(), ""]) {
        let path = inside(Path::new(name));
        crate::store::write_new(&path, text.as_bytes())?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644))
            .or_error(ErrorKind::Other, || format!("make {} readable", path.display()))?;
    }
    Ok(())
}
