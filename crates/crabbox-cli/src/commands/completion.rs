//! `crabbox completion`

use clap::{Args, ValueEnum};
use clap_complete::Shell;

use crate::ending::Ending;
use crate::session::Session;

/// Prints a completion script for a shell.
#[derive(Args, Clone, Debug)]
pub(crate) struct CompletionArgs {
    /// Shell to complete for.
    #[arg(value_enum, value_name = "SHELL")]
    shell: Kind,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kind {
    Bash,
    Zsh,
    Fish,
    #[value(alias = "pwsh")]
    Powershell,
}

/// Runs it.
pub(crate) fn run(args: CompletionArgs, session: &Session) -> anyhow::Result<Ending> {
    let shell = match args.shell {
        Kind::Bash => Shell::Bash,
        Kind::Zsh => Shell::Zsh,
        Kind::Fish => Shell::Fish,
        Kind::Powershell => Shell::PowerShell,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut crate::command(), "crabbox", &mut script);
    session.output.data(&script)?;
    Ok(Ending::success())
}
