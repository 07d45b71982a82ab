//! The developer commands that link the project's own crates: reference pages and benchmarks.

#[cfg(unix)]
mod bench;
mod commands;
mod reference;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use xtask::process::say;
use xtask::workspace::Workspace;

/// Developer commands that link the project's crates; started by `cargo xtask`.
#[derive(Debug, Parser)]
#[command(disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write the reference pages.
    Reference {
        /// Change nothing; fail when a page differs from what would be written.
        #[arg(long)]
        check: bool,
        /// Also write completions and man pages to `target/artifacts`.
        #[arg(long)]
        artifacts: bool,
    },
    /// Measure release builds against their peers.
    #[cfg(unix)]
    Bench(bench::BenchArguments),
    /// Write the archive of a directory to a file; a child of the archive benchmark.
    #[cfg(unix)]
    #[command(hide = true)]
    Archive {
        /// Checkout to pack.
        source: std::path::PathBuf,
        /// File to write.
        archive: std::path::PathBuf,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<()> {
    match arguments.command {
        Command::Reference { check, artifacts } => reference::run(&Workspace::load()?, check, artifacts),
        #[cfg(unix)]
        Command::Bench(arguments) => bench::run(&Workspace::load()?, &arguments),
        #[cfg(unix)]
        Command::Archive { source, archive } => bench::archive::pack(&source, &archive),
    }
}
