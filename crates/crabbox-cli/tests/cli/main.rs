//! The real binary, run the way users run it.

// The condition is always true here; it tells lints that helpers of tests are tests.
#![cfg(test)]

#[cfg(feature = "provider-local")]
mod errors;
mod grammar;
mod help;
mod init;
#[cfg(all(feature = "provider-local", target_os = "linux"))]
mod local;
#[cfg(not(feature = "provider-local"))]
mod no_provider;
#[cfg(all(feature = "provider-local", target_os = "linux"))]
mod run_ends;
mod settings;
#[cfg(all(feature = "provider-local", target_os = "linux"))]
mod signals;
mod support;
