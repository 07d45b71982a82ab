//! Flags that belong to providers, from the one declaration of their settings.

use clap::builder::PossibleValue;
use clap::{Arg, ArgAction, Command};
use crabbox_core::ProviderSpec;
use crabbox_core::section::{KeySchema, Kind};

/// Commands that route to a box through a provider's own flags, each with the groups it is in.
const ROUTED: &[&[&str]] = &[
    &["run"],
    &["warmup"],
    &["list"],
    &["status"],
    &["stop"],
    &["cleanup"],
    &["machine", "cleanup"],
    &["pause"],
    &["resume"],
    &["cp"],
    &["doctor"],
    &["checkpoint", "create"],
    &["checkpoint", "restore"],
    &["checkpoint", "fork"],
    &["checkpoint", "delete"],
];

/// Adds every provider's flags to the commands that take them. Help shows those of the selected provider; the others are
/// accepted, so that a script may switch providers with one flag.
pub(crate) fn add(root: Command, specs: &[&'static ProviderSpec], selected: &str) -> Command {
    below(root, &[], &|leaf| with_flags(leaf, specs, selected))
}

/// Changes the routed commands below a group. Each stays in its place, which is the order of the reference.
fn below(group: Command, path: &[String], change: &dyn Fn(Command) -> Command) -> Command {
    group.mut_subcommands(|child| {
        let path: Vec<String> = path.iter().cloned().chain([child.get_name().to_owned()]).collect();
        let child = below(child, &path, change);
        if ROUTED.iter().any(|routed| *routed == path) {
            change(child)
        } else {
            child
        }
    })
}

fn with_flags(mut leaf: Command, specs: &[&'static ProviderSpec], selected: &str) -> Command {
    for spec in specs {
        for key in spec.section.keys {
            let Some(flag) = key.flag else { continue };
            // Providers of one family share a section.
            if leaf.get_arguments().any(|known| known.get_long() == Some(flag)) {
                continue;
            }
            leaf = leaf.arg(argument(key, flag, spec).hide(!spec.answers_to(selected)));
        }
    }
    leaf
}

fn argument(key: &'static KeySchema, flag: &'static str, spec: &'static ProviderSpec) -> Arg {
    let argument = Arg::new(flag)
        .long(flag)
        .help(key.help.trim_end_matches('.'))
        .help_heading(format!("Provider {}", spec.name));
    match key.kind {
        Kind::Boolean => crate::grammar::boolean(argument),
        Kind::List => argument.action(ArgAction::Append).value_name("LIST"),
        Kind::Choice(choices) => {
            let values = choices
                .iter()
                .map(|choice| PossibleValue::new(choice.name).aliases(choice.aliases));
            let values: Vec<_> = values.collect();
            argument
                .action(ArgAction::Set)
                .value_name("VALUE")
                .ignore_case(true)
                .value_parser(values)
        }
        kind => argument.action(ArgAction::Set).value_name(value_name(kind)),
    }
}

const fn value_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Integer | Kind::Float => "NUMBER",
        Kind::Duration | Kind::DurationOrZero => "DURATION",
        Kind::Bytes => "BYTES",
        Kind::Map => "NAME=VALUE",
        Kind::Origin => "URL",
        Kind::Path => "PATH",
        Kind::Any => "JSON",
        _ => "VALUE",
    }
}
