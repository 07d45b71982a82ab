//! Turns what clap refuses into one line with a cure.

use clap::Command;
use clap::error::{ContextKind, ContextValue, ErrorKind as Refusal};
use crabbox_core::Error;

use super::normalize::names;

/// Makes our error of a refusal.
///
/// `path` names the command whose help is pointed to; `command` is that command in the form that is parsed.
pub(crate) fn usage_error(refusal: &clap::Error, root: &Command, path: &[String]) -> Error {
    let leaf = path
        .iter()
        .fold(root, |command, name| command.find_subcommand(name).unwrap_or(command));
    let text = |kind| context(refusal, kind);
    let argument = text(ContextKind::InvalidArg).unwrap_or_default();
    let value = text(ContextKind::InvalidValue).unwrap_or_default();
    let (message, suggestion) = match refusal.kind() {
        Refusal::UnknownArgument if argument.starts_with('-') => {
            let name = argument.trim_start_matches('-').split('=').next().unwrap_or_default();
            (format!("unknown flag: `--{name}`"), nearest_flag(root, leaf, name))
        }
        Refusal::UnknownArgument => (format!("unexpected argument: `{}`", argument.escape_debug()), None),
        Refusal::InvalidSubcommand => {
            let word = text(ContextKind::InvalidSubcommand).unwrap_or_default();
            (
                format!("unknown command: `{}`", word.escape_debug()),
                nearest_command(leaf, &word),
            )
        }
        Refusal::InvalidValue if value.is_empty() => (format!("missing value: `{}`", flag_of(&argument)), None),
        Refusal::InvalidValue => {
            let known = text(ContextKind::ValidValue).unwrap_or_default();
            (
                format!("bad value for {}: `{}`", flag_of(&argument), value.escape_debug()),
                Some(format!("choose one of: {known}")),
            )
        }
        Refusal::ValueValidation => validation(refusal, &argument, &value),
        Refusal::MissingRequiredArgument => (format!("missing argument: `{argument}`"), None),
        Refusal::ArgumentConflict => {
            let prior = text(ContextKind::PriorArg).unwrap_or_default();
            (
                format!(
                    "{} cannot be used together with: `{}`",
                    flag_of(&argument),
                    flag_of(&prior)
                ),
                None,
            )
        }
        Refusal::MissingSubcommand | Refusal::DisplayHelpOnMissingArgumentOrSubcommand => {
            ("missing command".to_owned(), None)
        }
        Refusal::InvalidUtf8 => ("argument is not valid UTF-8".to_owned(), None),
        other => (format!("bad arguments: `{other}`"), None),
    };
    let help = format!("see `{} --help`", display_path(path));
    Error::usage(message).with_hint(match suggestion {
        Some(question) if question.ends_with('?') => format!("{question} {help}"),
        Some(cure) => format!("{cure}; {help}"),
        None => help,
    })
}

/// `crabbox` with the command's name.
fn display_path(path: &[String]) -> String {
    std::iter::once("crabbox")
        .chain(path.iter().map(String::as_str))
        .collect::<Vec<_>>()
        .join(" ")
}

fn context(refusal: &clap::Error, kind: ContextKind) -> Option<String> {
    match refusal.get(kind)? {
        ContextValue::String(text) => Some(text.clone()),
        ContextValue::Strings(texts) => Some(texts.join(", ")),
        _ => None,
    }
}

/// The flag in clap's description of an argument, such as `--id` in `--id <ID>`.
fn flag_of(description: &str) -> &str {
    description.split([' ', '=', '[']).next().unwrap_or(description)
}

/// Our own errors keep their message and cure; what else a parser says is put before the value.
fn validation(refusal: &clap::Error, argument: &str, value: &str) -> (String, Option<String>) {
    use std::error::Error as _;
    let flag = flag_of(argument);
    let Some(source) = refusal.source() else {
        return (format!("bad value for {flag}: `{}`", value.escape_debug()), None);
    };
    match source.downcast_ref::<Error>() {
        Some(error) => (format!("{flag}: {error}"), error.hint().map(str::to_owned)),
        None => (format!("{flag}: {source}: `{}`", value.escape_debug()), None),
    }
}

fn nearest_flag(root: &Command, leaf: &Command, name: &str) -> Option<String> {
    let globals = root.get_arguments().filter(|argument| argument.is_global_set());
    let flags = leaf
        .get_arguments()
        .chain(globals)
        .filter(|argument| !argument.is_positional() && !argument.is_hide_set());
    let known: Vec<String> = flags.flat_map(names).filter(|name| name.len() > 1).collect();
    nearest(&known, name).map(|flag| format!("did you mean `--{flag}`?"))
}

fn nearest_command(group: &Command, word: &str) -> Option<String> {
    let commands = group.get_subcommands().filter(|command| !command.is_hide_set());
    let known: Vec<String> = commands
        .flat_map(|command| std::iter::once(command.get_name()).chain(command.get_all_aliases()))
        .map(str::to_owned)
        .collect();
    nearest(&known, word).map(|command| format!("did you mean `{command}`?"))
}

/// The closest of some words: at most two edits away, or begun by what was written.
fn nearest<'a>(known: &'a [String], written: &str) -> Option<&'a str> {
    let close = known
        .iter()
        .map(|word| (strsim::damerau_levenshtein(word, written), word))
        .filter(|(distance, word)| *distance <= 2 && *distance < word.chars().count())
        .min();
    let begun = || {
        known
            .iter()
            .filter(|word| written.len() > 1 && word.starts_with(written))
            .min()
    };
    close.map(|(_, word)| word).or_else(begun).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn only_near_words_are_suggested() {
        let known = ["run", "list", "warmup", "checkpoint"].map(str::to_owned);
        assert_eq!(nearest(&known, "rnu"), Some("run"));
        assert_eq!(nearest(&known, "lsit"), Some("list"));
        assert_eq!(nearest(&known, "check"), Some("checkpoint"));
        assert_eq!(nearest(&known, "deploy"), None);
        assert_eq!(nearest(&known, "x"), None);
    }
}
