//! Rules that tie crates to the rest: provider pages and features, workflows that only call ours.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::{Finding, Report};
use crate::files;
use crate::workspace::{PROVIDER_PREFIX, Workspace};

/// What a workflow step may start; anything longer belongs into xtask, where a developer can run it too.
const WORKFLOW_COMMANDS: [&str; 2] = ["./scripts/", "cargo xtask "];

pub(super) fn check(workspace: &Workspace, tracked: &[PathBuf], report: &mut Report) -> Result<()> {
    providers(workspace, report);
    let page = "docs/compatibility.md";
    if let Ok(text) = files::read(&workspace.root.join(page)) {
        promises(page, &text, &workspace.root, report);
    }
    for path in tracked {
        let name = path.to_string_lossy().replace('\\', "/");
        if name.starts_with(".github/workflows/") {
            workflow(&name, &files::read(&workspace.root.join(path))?, report);
        }
    }
    Ok(())
}

fn providers(workspace: &Workspace, report: &mut Report) {
    let features = workspace
        .member("crabbox-cli")
        .and_then(|member| member.manifest.get("features"));
    for (name, member) in workspace.providers() {
        let place = format!("{}/Cargo.toml", member.directory);
        if member.name != format!("{PROVIDER_PREFIX}{name}") {
            report.errors.push(Finding::new(
                &place,
                format!("name the package `{PROVIDER_PREFIX}{name}`"),
            ));
        }
        let is_kebab = name.split('-').all(|part| {
            !part.is_empty()
                && part
                    .chars()
                    .all(|character| character.is_ascii_lowercase() || character.is_ascii_digit())
        });
        if !is_kebab {
            report
                .errors
                .push(Finding::new(&place, format!("a provider name is kebab-case: `{name}`")));
        }
        let page = format!("docs/providers/{name}.md");
        if !workspace.root.join(&page).is_file() {
            report
                .errors
                .push(Finding::new(page, format!("write the page of provider `{name}`")));
        }
        let feature = format!("provider-{name}");
        if features.and_then(|features| features.get(&feature)).is_none() {
            let message = format!("the feature `{feature}` is missing; run `cargo xtask gen --wiring`");
            report
                .errors
                .push(Finding::new("crates/crabbox-cli/Cargo.toml", message));
        }
    }
}

/// Every row of the table with a `Proven by` column names tests as `` `path/to/file.rs::test_name` ``, and they exist.
fn promises(name: &str, text: &str, root: &Path, report: &mut Report) {
    let mut in_table = false;
    for (index, line) in text.lines().enumerate() {
        let cells: Vec<&str> = line.trim_matches('|').split('|').collect();
        let last = cells.last().copied().unwrap_or_default().trim();
        if last == "Proven by" {
            in_table = true;
        } else if !line.starts_with('|') {
            in_table = false;
        } else if in_table && !last.starts_with("---") {
            let place = format!("{name}:{}", index + 1);
            let mut proofs = last.split('`').filter(|part| part.contains("::")).peekable();
            if proofs.peek().is_none() {
                report.errors.push(Finding::new(
                    &place,
                    "a promise nothing proves: name a test, or remove the row",
                ));
            }
            for proof in proofs {
                let Some((file, test)) = proof.split_once("::") else {
                    continue;
                };
                if !files::read(&root.join(file)).is_ok_and(|source| source.contains(&format!("fn {test}("))) {
                    report
                        .errors
                        .push(Finding::new(&place, format!("no such test: `{proof}`")));
                }
            }
        }
    }
}

fn workflow(name: &str, text: &str, report: &mut Report) {
    for (index, line) in text.lines().enumerate() {
        let Some(command) = line.trim_start().trim_start_matches("- ").strip_prefix("run:") else {
            continue;
        };
        if !WORKFLOW_COMMANDS
            .iter()
            .any(|allowed| command.trim().starts_with(allowed))
        {
            let message = "a workflow only calls `cargo xtask` or a file of scripts/, so that everybody can run it";
            report
                .errors
                .push(Finding::new(format!("{name}:{}", index + 1), message));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Report, promises, workflow};
    use crate::files;

    #[test]
    fn a_promise_needs_a_test_that_exists() {
        let root = tempfile::tempdir().unwrap();
        files::write(&root.path().join("a.rs"), "#[test]\nfn holds() {}\n").unwrap();
        let table = "| What | Proven by |\n|---|---|\n| a | `a.rs::holds` |\n| b | |\n| c | `a.rs::gone` |\n\n| x | y |\n|---|---|\n| z | |\n";
        let mut report = Report::default();
        promises("p.md", table, root.path(), &mut report);
        let found: Vec<String> = report.errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            [
                "p.md:4: a promise nothing proves: name a test, or remove the row",
                "p.md:5: no such test: `a.rs::gone`"
            ]
        );
    }

    #[test]
    fn a_workflow_may_only_call_our_own_commands() {
        let mut report = Report::default();
        workflow(
            "w.yml",
            "- run: cargo xtask ci\n- name: x\n  run: ./scripts/test\n- run: |\n    curl x\n",
            &mut report,
        );
        let places: Vec<_> = report.errors.iter().map(|finding| finding.place.as_str()).collect();
        assert_eq!(places, ["w.yml:4"]);
    }
}
