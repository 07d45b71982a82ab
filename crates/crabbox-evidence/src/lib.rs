//! What a run leaves behind.
//!
//! Everything here is a library for the engine: nothing prints, nothing starts a process, nothing reads a global. The
//! modules follow a run from its command to what remains of it:
//!
//! - [`mod@command`] and [`mod@env`] build what is executed and which variables travel with it.
//! - [`stream`] fans the output out within bounded memory; [`private_file`] holds what is written on this machine.
//! - [`junit`], [`classify`] and [`digest`] say what went wrong; [`timing`] says how long it took.
//! - [`bundle`], [`downloads`] and [`lease_output`] are what stays.
//! - [`redact`], [`text`] and [`json`] keep all of it safe to show and stable to parse.

pub mod bundle;
pub mod classify;
pub mod command;
pub mod digest;
pub mod downloads;
pub mod env;
pub mod json;
pub mod junit;
pub mod lease_output;
pub mod private_file;
pub mod redact;
pub mod stream;
pub mod text;
pub mod timing;
