//! Every check that must pass before a change lands, in the order in which they fail fastest.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use toml_edit::Item;

use crate::process::{self, say};
use crate::workspace::Workspace;
use crate::{docs, generate, scaffold, tidy};

/// Arguments of `cargo xtask ci`.
#[derive(Args, Debug)]
pub struct CiArguments {
    /// Only what finds most mistakes soonest: format, tidy, clippy, tests.
    #[arg(long)]
    fast: bool,
    /// Only the named steps, in the order given here.
    #[arg(long, value_enum, value_name = "STEP", num_args = 1.., conflicts_with = "fast")]
    only: Vec<Step>,
    /// Everything except the named steps.
    #[arg(long, value_enum, value_name = "STEP", num_args = 1.., conflicts_with = "only")]
    skip: Vec<Step>,
    /// Run the remaining steps after one failed.
    #[arg(long)]
    keep_going: bool,
}

/// One check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Step {
    /// Formatting differs from rustfmt's.
    Format,
    /// What lints cannot see.
    Tidy,
    /// Every target compiles; for machines that only check portability.
    Check,
    /// Lints, warnings denied.
    Clippy,
    /// Unit, property and integration tests.
    Tests,
    /// Examples in documentation comments.
    DocTests,
    /// Generated files are up to date.
    Generated,
    /// The binary builds with no provider, with each alone and with the default set.
    Features,
    /// What `new-provider` writes compiles.
    Scaffold,
    /// API documentation and links.
    Docs,
}

const ALL: [Step; 9] = [
    Step::Format,
    Step::Tidy,
    Step::Clippy,
    Step::Tests,
    Step::DocTests,
    Step::Generated,
    Step::Features,
    Step::Scaffold,
    Step::Docs,
];
const FAST: [Step; 4] = [Step::Format, Step::Tidy, Step::Clippy, Step::Tests];

/// Runs the chosen steps and prints what each took.
///
/// # Errors
/// When a step fails; the steps after it run only with `--keep-going`.
pub fn run(workspace: &Workspace, arguments: &CiArguments) -> Result<()> {
    let steps = chosen(arguments);
    let mut table: Vec<(Step, Duration, bool)> = Vec::new();
    for step in steps {
        say(&format!("==> {}", name(step)));
        let start = Instant::now();
        let outcome = perform(workspace, step);
        table.push((step, start.elapsed(), outcome.is_ok()));
        if let Err(error) = outcome {
            say(&format!("error: {error:#}"));
            if !arguments.keep_going {
                break;
            }
        }
    }
    say("");
    for (step, took, passed) in &table {
        let verdict = if *passed { "ok" } else { "FAILED" };
        say(&format!("{:<10} {:>7.1} s  {verdict}", name(*step), took.as_secs_f64()));
    }
    let failed: Vec<String> = table.iter().filter(|row| !row.2).map(|row| name(row.0)).collect();
    if failed.is_empty() {
        return Ok(());
    }
    bail!(
        "failed: {}; repeat with `cargo xtask ci --only {}`",
        failed.join(", "),
        failed.join(" ")
    )
}

fn chosen(arguments: &CiArguments) -> Vec<Step> {
    let base: &[Step] = match (arguments.only.is_empty(), arguments.fast) {
        (false, _) => &arguments.only,
        (true, true) => &FAST,
        (true, false) => &ALL,
    };
    base.iter()
        .copied()
        .filter(|step| !arguments.skip.contains(step))
        .collect()
}

fn name(step: Step) -> String {
    step.to_possible_value()
        .map(|value| value.get_name().to_owned())
        .unwrap_or_default()
}

fn perform(workspace: &Workspace, step: Step) -> Result<()> {
    let root = &workspace.root;
    match step {
        Step::Format => process::cargo(root, &["fmt", "--all", "--check"]),
        Step::Tidy => tidy::run(workspace),
        Step::Check => process::cargo(
            root,
            &["check", "--workspace", "--all-targets", "--all-features", "--locked"],
        ),
        Step::Clippy => {
            let scope = ["clippy", "--workspace", "--all-targets", "--all-features", "--locked"];
            process::cargo(root, &[&scope[..], &["--", "--deny", "warnings"]].concat())
        }
        Step::Tests => tests(workspace),
        Step::DocTests => process::cargo(
            root,
            &["test", "--doc", "--workspace", "--all-features", "--locked", "--quiet"],
        ),
        Step::Generated => {
            generate::wiring::run(workspace, true)?;
            generate::reference(workspace, true, false)
        }
        Step::Features => features(workspace),
        Step::Scaffold => scaffold::check(workspace),
        Step::Docs => docs::run(workspace, false),
    }
}

fn tests(workspace: &Workspace) -> Result<()> {
    let scope = ["--workspace", "--all-features", "--locked"];
    let mut cargo = process::command(process::cargo_program(), &workspace.root);
    // A snapshot that differs is a failure here, never a new file.
    cargo.env("INSTA_UPDATE", "no");
    if process::cargo_has("nextest") {
        cargo.args(["nextest", "run", "--profile", "ci"]).args(scope);
    } else {
        cargo
            .args(["test", "--lib", "--bins", "--tests", "--examples", "--no-fail-fast"])
            .args(scope);
    }
    process::run(cargo)
}

fn features(workspace: &Workspace) -> Result<()> {
    let base = ["check", "--quiet", "--package", "crabbox-cli", "--locked"];
    let none = [&base[..], &["--no-default-features"]].concat();
    process::cargo(&workspace.root, &base)?;
    process::cargo(&workspace.root, &none)?;
    let declared = workspace
        .member("crabbox-cli")
        .and_then(|member| member.manifest.get("features"));
    let declared = declared.and_then(Item::as_table_like);
    for (feature, _) in declared.into_iter().flat_map(|table| table.iter()) {
        if feature.starts_with("provider-") {
            process::cargo(&workspace.root, &[&none[..], &["--features", feature]].concat())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::{CiArguments, FAST, Step, chosen};

    #[derive(Parser)]
    struct Arguments {
        #[command(flatten)]
        ci: CiArguments,
    }

    fn steps(arguments: &[&str]) -> Vec<Step> {
        chosen(&Arguments::try_parse_from([&["ci"], arguments].concat()).unwrap().ci)
    }

    #[test]
    fn steps_are_chosen_by_name_and_left_out_by_name() {
        assert_eq!(steps(&["--fast"]), FAST);
        assert_eq!(steps(&["--only", "docs", "tidy"]), [Step::Docs, Step::Tidy]);
        assert!(steps(&["--skip", "tests"]).contains(&Step::Docs));
        assert!(!steps(&["--skip", "tests"]).contains(&Step::Tests));
        assert!(!steps(&[]).contains(&Step::Check));
        assert!(Arguments::try_parse_from(["ci", "--fast", "--only", "docs"]).is_err());
    }
}
