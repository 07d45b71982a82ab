//! `cargo xtask`: developer commands that need no crate of the project.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use xtask::scaffold::ProviderKind;
use xtask::workspace::Workspace;
use xtask::{ci, docs, generate, process, scaffold, tidy};

/// Developer commands of the Crabbox workspace.
#[derive(Debug, Parser)]
#[command(bin_name = "cargo xtask", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run every check that must pass before a change lands.
    Ci(ci::CiArguments),
    /// Check what lints cannot see: module sizes, dependency arrows, provider wiring, leftovers.
    Tidy,
    /// Write what is derived from the crates: provider wiring and reference pages.
    Gen {
        /// Change nothing; fail when a file differs from what would be written.
        #[arg(long)]
        check: bool,
        /// Only the provider wiring, which needs no crate to compile.
        #[arg(long, conflicts_with = "artifacts")]
        wiring: bool,
        /// Also write completions and man pages to `target/artifacts`.
        #[arg(long, conflicts_with = "check")]
        artifacts: bool,
    },
    /// Scaffold a provider crate: compiling, wired, with a failing behaviour suite.
    NewProvider {
        /// Kebab-case provider name, such as `acme-box`.
        name: String,
        /// Shape of the provider.
        #[arg(long, value_enum)]
        kind: ProviderKind,
    },
    /// Build the API documentation without warnings and check every link in the prose.
    Docs {
        /// Check links only.
        #[arg(long)]
        links: bool,
    },
    /// Measure release builds against their peers and keep the tables in `docs/reference/performance.md`.
    Bench {
        /// Arguments of the benchmark runner; `--help` lists them.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            process::say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<()> {
    let workspace = Workspace::load()?;
    match arguments.command {
        Command::Ci(arguments) => ci::run(&workspace, &arguments),
        Command::Tidy => tidy::run(&workspace),
        Command::Gen {
            check,
            wiring,
            artifacts,
        } => {
            generate::wiring::run(&workspace, check)?;
            if wiring {
                Ok(())
            } else {
                generate::reference(&workspace, check, artifacts)
            }
        }
        Command::NewProvider { name, kind } => scaffold::run(&workspace, &name, kind),
        Command::Docs { links } => docs::run(&workspace, links),
        Command::Bench { arguments } => {
            process::cargo(
                &workspace.root,
                &["build", "--release", "--package", "crabbox-cli", "--bin", "crabbox"],
            )?;
            let mut all = vec![
                "run",
                "--release",
                "--package",
                "xtask",
                "--features",
                "project",
                "--bin",
                "xtask-project",
            ];
            all.extend(["--", "bench"]);
            all.extend(arguments.iter().map(String::as_str));
            process::cargo(&workspace.root, &all)
        }
    }
}
