//! The workspace keeps its own rules.

use xtask::tidy;
use xtask::workspace::Workspace;

#[test]
fn the_workspace_is_tidy() {
    let report = tidy::check(&Workspace::load().unwrap()).unwrap();
    let broken: Vec<String> = report.errors.iter().map(ToString::to_string).collect();
    assert!(broken.is_empty(), "broken rules:\n{}", broken.join("\n"));
}
