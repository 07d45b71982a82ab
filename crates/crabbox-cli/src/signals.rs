//! The first signal asks for an orderly end, the second ends the process at once.

use tokio_util::sync::CancellationToken;

/// Cancels `token` at the first signal that ends programs. A second one has its usual effect, even when nothing here gets
/// to run any more.
///
/// # Errors
/// When the system does not let handlers be installed.
#[cfg(unix)]
pub(crate) fn install(token: &CancellationToken) -> std::io::Result<()> {
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    use signal_hook::flag;
    use tokio::signal::unix::{SignalKind, signal};

    let second = Arc::new(AtomicBool::new(false));
    for number in [SIGINT, SIGTERM, SIGHUP] {
        // `nohup` asks for the end of the terminal to be ignored.
        if number == SIGHUP && is_ignored(number) {
            continue;
        }
        // Handlers run in this order: the default action is taken only when an earlier signal has set the flag.
        flag::register_conditional_default(number, Arc::clone(&second))?;
        flag::register(number, Arc::clone(&second))?;
        let mut arrivals = signal(SignalKind::from_raw(number))?;
        let token = token.clone();
        tokio::spawn(async move {
            if arrivals.recv().await.is_some() {
                token.cancel();
            }
        });
    }
    Ok(())
}

/// Whether whoever started this process made it ignore a signal, as far as the system tells.
#[cfg(unix)]
fn is_ignored(number: i32) -> bool {
    let Ok(status) = std::fs::read_to_string("/proc/self/status") else {
        return false;
    };
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & (1 << (number - 1)) != 0)
}

/// Cancels `token` at the first Ctrl-C; the second one ends the process.
///
/// # Errors
/// Never here; the signature is that of the other systems.
#[cfg(not(unix))]
pub(crate) fn install(token: &CancellationToken) -> std::io::Result<()> {
    let token = token.clone();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            token.cancel();
        }
        if tokio::signal::ctrl_c().await.is_ok() {
            std::process::abort();
        }
    });
    Ok(())
}
