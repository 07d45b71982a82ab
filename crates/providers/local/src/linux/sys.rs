//! System calls that no safe wrapper offers. Everything here runs in processes with a single thread.
#![expect(unsafe_code, reason = "fork, clone3, execve and a few others have no safe wrapper")]

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use rustix::process::Pid;

/// What `fork` returned.
pub(super) enum Fork {
    /// This is the parent.
    Parent(Pid),
    /// This is the child.
    Child,
}

fn forked(result: libc::c_long) -> io::Result<Fork> {
    match result {
        0 => Ok(Fork::Child),
        pid if pid > 0 => {
            let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
            pid.map(Fork::Parent)
                .ok_or_else(|| io::Error::other("the kernel returned an impossible process id"))
        }
        _ => Err(io::Error::last_os_error()),
    }
}

/// Forks a process that has one thread.
pub(super) fn fork() -> io::Result<Fork> {
    // SAFETY: callers run in a helper process with one thread, so the child may allocate and lock as it likes.
    forked(libc::c_long::from(unsafe { libc::fork() }))
}

/// Forks into new namespaces; the parent gets `SIGCHLD` when the child ends.
pub(super) fn fork_into(namespaces: libc::c_int) -> io::Result<Fork> {
    // SAFETY: a zeroed `clone_args` is valid; without a stack, clone3 behaves as fork does.
    unsafe {
        let mut arguments: libc::clone_args = std::mem::zeroed();
        arguments.flags = u64::from(namespaces.cast_unsigned());
        arguments.exit_signal = u64::from(libc::SIGCHLD.cast_unsigned());
        forked(libc::syscall(
            libc::SYS_clone3,
            &raw const arguments,
            size_of::<libc::clone_args>(),
        ))
    }
}

/// Ends the process without running anything else.
pub(super) fn exit_now(status: i32) -> ! {
    // SAFETY: always allowed.
    unsafe { libc::_exit(status) }
}

/// Changes the attributes of a detached mount and everything below it.
pub(super) fn set_mount_attributes(mount: BorrowedFd<'_>, set: u64, propagation: u64) -> io::Result<()> {
    // SAFETY: the struct is fully initialised and its size is passed along.
    let result = unsafe {
        let mut attributes: libc::mount_attr = std::mem::zeroed();
        attributes.attr_set = set;
        attributes.propagation = propagation;
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | libc::AT_RECURSIVE,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Closes every descriptor but the standard ones and those given.
///
/// Values that own a closed descriptor must not be dropped or used afterwards: callers either run before anything was
/// opened, or never return.
pub(super) fn close_all_but(kept: &[BorrowedFd<'_>]) {
    let mut kept: Vec<u32> = kept.iter().map(|one| one.as_raw_fd().cast_unsigned()).collect();
    kept.sort_unstable();
    let mut first = 3;
    for number in kept.into_iter().chain([u32::MAX]) {
        if number > first {
            // SAFETY: callers promise not to use what is closed here.
            unsafe {
                libc::syscall(libc::SYS_close_range, first, number.saturating_sub(1), 0);
            }
        }
        first = first.max(number.saturating_add(1));
    }
}

/// Puts a descriptor in the place of a standard one, without close-on-exec.
pub(super) fn duplicate_to(descriptor: BorrowedFd<'_>, place: i32) -> io::Result<()> {
    // SAFETY: dup2 onto a place that this process gives up.
    let result = unsafe {
        if descriptor.as_raw_fd() == place {
            libc::fcntl(place, libc::F_SETFD, 0)
        } else {
            libc::dup2(descriptor.as_raw_fd(), place)
        }
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Blocks `SIGCHLD` and returns a descriptor that becomes readable when a child ends.
pub(super) fn child_signals() -> io::Result<OwnedFd> {
    // SAFETY: the set is initialised before use; the returned descriptor is ours.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        if libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
        match libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) {
            descriptor if descriptor >= 0 => Ok(OwnedFd::from_raw_fd(descriptor)),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// Unblocks every signal and gives those back their default that the supervisor or the runtime of Rust ignores.
pub(super) fn reset_signals() {
    // SAFETY: the set is initialised before use.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut());
        for signal in IGNORED {
            libc::signal(*signal, libc::SIG_DFL);
        }
    }
}

/// Signals of terminals and services.
const IGNORED: &[libc::c_int] = &[libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM, libc::SIGPIPE];

/// Makes signals of terminals and services harmless, for processes that end by other means.
pub(super) fn ignore_polite_signals() {
    for signal in IGNORED {
        // SAFETY: ignoring a signal runs no code.
        unsafe {
            libc::signal(*signal, libc::SIG_IGN);
        }
    }
}

/// Replaces this process. Returns only when that fails.
pub(super) fn execute(program: &CStr, arguments: &[CString], environment: &[CString]) -> io::Error {
    let terminated = |texts: &[CString]| -> Vec<*const libc::c_char> {
        texts
            .iter()
            .map(|text| text.as_ptr())
            .chain(std::iter::once(std::ptr::null()))
            .collect()
    };
    let arguments = terminated(arguments);
    let environment = terminated(environment);
    // SAFETY: both arrays are terminated and outlive the call.
    unsafe {
        libc::execve(program.as_ptr(), arguments.as_ptr(), environment.as_ptr());
    }
    io::Error::last_os_error()
}

/// Switches the loopback interface of this network namespace on.
pub(super) fn loopback_up() -> io::Result<()> {
    // SAFETY: the request is fully initialised; the socket is closed by its owner.
    unsafe {
        let socket = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        if socket < 0 {
            return Err(io::Error::last_os_error());
        }
        let socket = OwnedFd::from_raw_fd(socket);
        let mut request: libc::ifreq = std::mem::zeroed();
        for (place, byte) in request.ifr_name.iter_mut().zip(b"lo") {
            *place = byte.cast_signed();
        }
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        if libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Sets the bits that new files lack.
pub(super) fn set_umask(mask: u32) {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(mask));
}

/// Sends a signal to every process of this process-id namespace but its first.
pub(super) fn signal_everyone(signal: libc::c_int) {
    // SAFETY: called by the first process of a namespace of its own, so nothing outside is reached.
    unsafe {
        libc::kill(-1, signal);
    }
}

/// Version of the Landlock interface, 0 when the kernel has none.
pub(super) fn landlock_version() -> i32 {
    const VERSION: libc::c_int = 1;
    // SAFETY: this form of the call only asks for the version.
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<libc::c_void>(),
            0_usize,
            VERSION,
        )
    };
    i32::try_from(version).unwrap_or(0).max(0)
}
