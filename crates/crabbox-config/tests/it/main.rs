//! What configuration means from outside: files, variables and flags in, values and reports out.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod errors;
mod keys;
mod layers;
mod reports;
mod world;
mod writing;
