//! Developer commands of the workspace.
//!
//! Everything here runs as `cargo xtask <command>` on a developer's machine or in CI; nothing of it is shipped. The
//! `xtask` binary holds what needs no crate of the project: checks, wiring generators, scaffolding. The `xtask-project`
//! binary (feature `project`) holds what links them: reference pages and benchmarks.

pub mod ci;
pub mod docs;
pub mod files;
pub mod generate;
pub mod process;
pub mod scaffold;
pub mod tidy;
pub mod workspace;
