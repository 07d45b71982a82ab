//! The `crabbox` command: arguments in, engine calls, rendering out.
//!
//! [`main_with`] is the whole program; [`command`] is its grammar as data, for documentation, completion and manual pages.

mod commands;
mod ending;
mod grammar;
mod init;
mod output;
mod program;
pub mod providers;
mod render;
mod session;
mod settings;
mod signals;

pub use program::{command, main_with};

/// Version of this build, without a leading `v`.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
