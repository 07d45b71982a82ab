//! The real binary, run the way users run it.

#[cfg(feature = "provider-local")]
mod errors;
mod grammar;
mod help;
mod init;
#[cfg(all(feature = "provider-local", target_os = "linux"))]
mod local;
mod support;
