//! One declaration of a flag, two forms: the one that is parsed and the one that is shown.

use clap::builder::ValueParser;
use clap::{Arg, ArgAction, Command};

use super::go_boolean;

/// Makes every boolean accept `--x=false`, every scalar take its last value, and leaves help to us.
#[must_use]
pub(crate) fn for_parsing(command: Command) -> Command {
    every(
        command,
        &|command| {
            command
                .args_override_self(true)
                .disable_help_flag(true)
                .disable_help_subcommand(true)
                .disable_version_flag(true)
        },
        &|argument| {
            if matches!(argument.get_action(), ArgAction::SetTrue) {
                boolean(argument).default_value("false")
            } else {
                argument
            }
        },
    )
}

/// Shows every boolean as a bare flag.
#[must_use]
pub(crate) fn for_display(command: Command) -> Command {
    every(
        command,
        &|command| {
            // Both spellings show the same text, so neither points to the other.
            let help = Arg::new("help")
                .short('h')
                .long("help")
                .action(ArgAction::Help)
                .help("Print this help")
                .help_heading("Output");
            command
                .disable_help_flag(true)
                .disable_help_subcommand(true)
                .disable_version_flag(true)
                .arg(help)
        },
        &|argument| {
            if is_boolean(&argument) && matches!(argument.get_action(), ArgAction::Set) {
                argument
                    .require_equals(false)
                    .default_missing_values(std::iter::empty::<&str>())
                    .default_values(std::iter::empty::<&str>())
                    .num_args(0)
                    .action(ArgAction::SetTrue)
            } else {
                argument
            }
        },
    )
}

/// Whether a flag stands for itself instead of taking the next argument.
pub(super) fn is_boolean(argument: &Arg) -> bool {
    match argument.get_action() {
        ArgAction::Set => argument.is_require_equals_set(),
        ArgAction::Append => false,
        _ => true,
    }
}

/// A boolean flag that knows whether it was given; see `commands::flags`.
#[must_use]
pub(crate) fn boolean(argument: Arg) -> Arg {
    argument
        .action(ArgAction::Set)
        .num_args(0..=1)
        .require_equals(true)
        .default_missing_value("true")
        .value_parser(ValueParser::new(go_boolean))
}

fn every(
    command: Command,
    change_command: &dyn Fn(Command) -> Command,
    change_argument: &dyn Fn(Arg) -> Arg,
) -> Command {
    let command = change_command(command).mut_args(change_argument);
    command.mut_subcommands(|child| every(child, change_command, change_argument))
}
