//! The `crabbox` executable.

use std::process::ExitCode;

use crabbox_core::runtime::Environment;

fn main() -> ExitCode {
    // The one place where the process is asked; everything else is handed what it may know.
    let environment = Environment::new(std::env::vars_os());
    crabbox_cli::main_with(std::env::args_os().skip(1).collect(), environment)
}
