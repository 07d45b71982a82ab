//! Generators. What they write is under version control and checked by CI.

pub mod wiring;

use anyhow::Result;

use crate::process;
use crate::workspace::Workspace;

/// Command that brings every generated file up to date.
pub const CURE: &str = "cargo xtask gen";

/// Writes or checks the reference pages, by way of the binary that links the project's crates.
///
/// # Errors
/// When that binary does not build, or a page cannot be written or differs.
pub fn reference(workspace: &Workspace, check: bool, artifacts: bool) -> Result<()> {
    let mut arguments = vec![
        "run",
        "--quiet",
        "--package",
        "xtask",
        "--features",
        "project",
        "--bin",
        "xtask-project",
    ];
    arguments.extend(["--", "reference"]);
    if check {
        arguments.push("--check");
    }
    if artifacts {
        arguments.push("--artifacts");
    }
    process::cargo(&workspace.root, &arguments)
}
