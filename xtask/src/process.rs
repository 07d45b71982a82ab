//! Child processes and console output of the developer commands.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

/// Prints one line for the developer.
#[expect(
    clippy::print_stderr,
    reason = "a developer command talks to its terminal; this is the one place that does"
)]
pub fn say(line: &str) {
    eprintln!("{line}");
}

/// Starts describing a child process that runs in `directory`.
#[expect(
    clippy::disallowed_methods,
    reason = "developer commands run trusted tools and have no Runtime"
)]
pub fn command(program: impl Into<OsString>, directory: &Path) -> Command {
    let mut command = Command::new(program.into());
    command.current_dir(directory);
    command
}

/// Cargo, the same one that started this process where one did.
#[expect(
    clippy::disallowed_methods,
    reason = "cargo names itself in this variable, and nothing else carries it"
)]
pub fn cargo_program() -> OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// Runs cargo with inherited output.
///
/// # Errors
/// When cargo cannot start or does not exit with 0.
pub fn cargo(directory: &Path, arguments: &[&str]) -> Result<()> {
    let mut cargo = command(cargo_program(), directory);
    cargo.args(arguments);
    run(cargo)
}

/// Runs a prepared command with inherited output.
///
/// # Errors
/// When the command cannot start or does not exit with 0.
pub fn run(mut command: Command) -> Result<()> {
    let text = describe(&command);
    let status = command.status().with_context(|| format!("cannot start `{text}`"))?;
    if !status.success() {
        bail!("`{text}` ended with {status}");
    }
    Ok(())
}

/// Cargo's target directory: two levels above this program, wherever it was configured to be.
///
/// # Errors
/// When this program was moved out of it.
pub fn target_directory() -> Result<PathBuf> {
    let program = std::env::current_exe().context("cannot find this program")?;
    let directory = program.parent().and_then(Path::parent);
    directory
        .map(PathBuf::from)
        .context("this program is not inside a target directory")
}

/// Whether `program` starts and exits with 0 when given `argument`.
pub fn answers(program: &str, argument: &str) -> bool {
    command(program, Path::new("."))
        .arg(argument)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Whether cargo has the given subcommand installed.
pub fn cargo_has(subcommand: &str) -> bool {
    answers(&format!("cargo-{subcommand}"), "--version")
}

fn describe(command: &Command) -> String {
    let program = Path::new(command.get_program())
        .file_name()
        .unwrap_or(command.get_program());
    let mut text = program.to_string_lossy().into_owned();
    for argument in command.get_args() {
        text.push(' ');
        text.push_str(&argument.to_string_lossy());
    }
    text
}
