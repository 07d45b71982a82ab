//! Reference pages, written from the declarations that the program itself uses.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use clap::ValueEnum as _;
use clap_complete::Shell;
use crabbox_core::ErrorKind;
use xtask::files::{Generated, Region};
use xtask::generate::CURE;
use xtask::process::say;
use xtask::workspace::Workspace;

use crate::commands;

const NOTICE: &str = "<!-- Written by `cargo xtask gen`; edit the declarations instead. -->\n\n";

const KINDS: [ErrorKind; 7] = [
    ErrorKind::Other,
    ErrorKind::Usage,
    ErrorKind::Prerequisite,
    ErrorKind::Identity,
    ErrorKind::Readiness,
    ErrorKind::Sync,
    ErrorKind::Remote,
];

/// Writes or checks every reference page; on demand also completions and man pages.
pub(crate) fn run(workspace: &Workspace, check: bool, artifacts: bool) -> Result<()> {
    let pages = workspace.root.join("docs/reference");
    let mut generated = Generated::new(check);
    generated.file(
        &pages.join("cli.md"),
        &format!("{NOTICE}{}", commands::page(crabbox_cli::command())),
    )?;
    let sections: Vec<_> = crabbox_cli::providers::registry()
        .specs()
        .into_iter()
        .map(|spec| spec.section)
        .collect();
    generated.file(&pages.join("config.md"), &crabbox_config::reference(&sections))?;
    generated.region(
        &pages.join("exit-codes.md"),
        &Region { name: "exit codes" },
        &exit_codes(),
    )?;
    generated.finish(&workspace.root, CURE)?;
    if artifacts {
        let directory = workspace.root.join("target/artifacts");
        write_artifacts(&directory)?;
        say(&format!("wrote completions and man pages to {}", directory.display()));
    }
    Ok(())
}

fn exit_codes() -> String {
    let mut table = String::from("| Code | Kind | What happened |\n|---|---|---|\n");
    for kind in KINDS {
        let _ = writeln!(
            table,
            "| {} | `{}` | {} |",
            kind.exit_code(),
            kind.as_str(),
            meaning(kind)
        );
    }
    table
}

const fn meaning(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Other => "Anything without a better name: network, input and output, an interrupted operation",
        ErrorKind::Usage => "The request itself: arguments, config, a combination nobody offers, a local file",
        ErrorKind::Prerequisite => "Credentials or something the provider needs is missing or was refused",
        ErrorKind::Identity => "Not found, ambiguous, or held by somebody else",
        ErrorKind::Readiness => "A wait that ran out, or a capability that is not there",
        ErrorKind::Sync => "The manifest, a guardrail, or the transfer",
        ErrorKind::Remote => "A step on the box around the command, never the command itself",
    }
}

fn write_artifacts(directory: &Path) -> Result<()> {
    let completions = directory.join("completions");
    let man = directory.join("man");
    for path in [&completions, &man] {
        fs::create_dir_all(path).with_context(|| format!("cannot create {}", path.display()))?;
    }
    for shell in Shell::value_variants() {
        clap_complete::generate_to(*shell, &mut crabbox_cli::command(), "crabbox", &completions)?;
    }
    clap_mangen::generate_to(crabbox_cli::command(), &man)?;
    Ok(())
}
