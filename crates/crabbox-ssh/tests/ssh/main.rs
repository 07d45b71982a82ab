//! Against a real OpenSSH server.

#![cfg(target_os = "linux")]
#![expect(
    clippy::disallowed_methods,
    reason = "tests start servers and tools, and write their files"
)]
#![expect(clippy::unwrap_used, reason = "a failure here is a failed test")]

#[path = "../support/mod.rs"]
mod support;

mod cancel;
mod channels;
mod connect;
mod exec;
mod forward;
mod lock;
mod openssh;
mod readiness;
mod terminal;
