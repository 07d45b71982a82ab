//! The page of every command, from the grammar that parses them.

use std::fmt::Write as _;

use clap::builder::StyledStr;
use clap::{Arg, Command};

/// Renders a command and everything below it as Markdown.
pub(crate) fn page(mut root: Command) -> String {
    root.build();
    let mut page = String::from("# Commands\n");
    overview(&mut page, &root);
    section(&mut page, &root, root.get_name(), true);
    page
}

/// One line per command, linked to its section.
fn overview(page: &mut String, root: &Command) {
    page.push_str("\n| Command | |\n|---|---|\n");
    each(root, root.get_name(), &mut |command, path| {
        if !command.is_subcommand_required_set() {
            let anchor = path.replace(' ', "-");
            let _ = writeln!(page, "| [`{path}`](#{anchor}) | {} |", text(command.get_about()));
        }
    });
}

fn each(command: &Command, path: &str, visit: &mut impl FnMut(&Command, &str)) {
    for child in children(command) {
        let path = format!("{path} {}", child.get_name());
        visit(child, &path);
        each(child, &path, visit);
    }
}

fn children(command: &Command) -> impl Iterator<Item = &Command> {
    command
        .get_subcommands()
        .filter(|child| !child.is_hide_set() && child.get_name() != "help")
}

fn section(page: &mut String, command: &Command, path: &str, is_root: bool) {
    let _ = write!(
        page,
        "\n## {path}\n\n{}.\n",
        text(command.get_about()).trim_end_matches('.')
    );
    let aliases: Vec<String> = command
        .get_visible_aliases()
        .map(|alias| format!("`{alias}`"))
        .collect();
    if !aliases.is_empty() {
        let _ = write!(page, "\nAlso: {}.\n", aliases.join(", "));
    }
    let usage = command.clone().render_usage().to_string();
    let usage = usage
        .trim_start_matches("Usage:")
        .lines()
        .map(str::trim)
        .collect::<Vec<_>>()
        .join("\n");
    let _ = write!(page, "\n```text\n{}\n```\n", usage.trim());
    if let Some(long) = command.get_long_about() {
        let long = long.to_string();
        // The first paragraph is the short text again.
        if let Some((_, rest)) = long.split_once("\n\n") {
            let _ = write!(page, "\n{}\n", rest.trim());
        }
    }
    arguments(page, command, is_root);
    for child in children(command) {
        section(page, child, &format!("{path} {}", child.get_name()), false);
    }
}

/// A table for each help heading, in the order in which help shows them. Flags of every command stand at the root only.
fn arguments(page: &mut String, command: &Command, is_root: bool) {
    let shown = command.get_arguments().filter(|argument| {
        !argument.is_hide_set()
            && !matches!(argument.get_id().as_str(), "help" | "version")
            && argument.is_global_set() == is_root
    });
    let mut groups: Vec<(&str, Vec<&Arg>)> = Vec::new();
    for argument in shown {
        let usual = if argument.is_positional() {
            "Arguments"
        } else if is_root {
            "With every command"
        } else {
            "Flags"
        };
        let heading = argument.get_help_heading().unwrap_or(usual);
        match groups.iter_mut().find(|(name, _)| *name == heading) {
            Some((_, group)) => group.push(argument),
            None => groups.push((heading, vec![argument])),
        }
    }
    for (heading, group) in groups {
        let _ = write!(page, "\n| {heading} | |\n|---|---|\n");
        for argument in group {
            let _ = writeln!(page, "| {} | {} |", spelling(argument), meaning(argument));
        }
    }
}

fn spelling(argument: &Arg) -> String {
    let takes_value = argument.get_action().takes_values();
    let names = argument.get_value_names().unwrap_or_default();
    let mut value = names
        .iter()
        .map(|name| format!("<{name}>"))
        .collect::<Vec<_>>()
        .join(" ");
    if value.is_empty() {
        value = format!("<{}>", argument.get_id().as_str().to_uppercase());
    }
    if argument.is_positional() {
        return format!("`{value}`");
    }
    let short = argument.get_short().map(|short| format!("-{short}"));
    let long = argument.get_long().map(|long| format!("--{long}"));
    let mut flag = [short, long].into_iter().flatten().collect::<Vec<_>>().join(", ");
    if takes_value && argument.get_num_args().is_none_or(|count| count.min_values() > 0) {
        let _ = write!(flag, " {value}");
    }
    format!("`{flag}`")
}

fn meaning(argument: &Arg) -> String {
    let mut meaning = text(argument.get_help());
    let values: Vec<String> = argument
        .get_possible_values()
        .iter()
        .filter(|value| !value.is_hide_set())
        .map(|value| format!("`{}`", value.get_name()))
        .collect();
    if argument.get_action().takes_values() && !values.is_empty() && !argument.is_hide_possible_values_set() {
        let _ = write!(meaning, ". One of {}", values.join(", "));
    }
    let defaults: Vec<_> = argument
        .get_default_values()
        .iter()
        .map(|value| value.to_string_lossy())
        .collect();
    if argument.get_action().takes_values() && !defaults.is_empty() && !argument.is_hide_default_value_set() {
        let _ = write!(meaning, ". Default `{}`", defaults.join(" "));
    }
    meaning.replace("..", ".")
}

/// One line, fit for a table cell.
fn text(styled: Option<&StyledStr>) -> String {
    let text = styled.map(ToString::to_string).unwrap_or_default();
    text.split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
        .replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use clap::{Arg, ArgAction, Command};

    use super::page;

    #[test]
    fn commands_flags_values_and_defaults_are_listed() {
        let run = Command::new("run")
            .about("Runs a command")
            .visible_alias("r")
            .arg(
                Arg::new("keep")
                    .long("keep")
                    .action(ArgAction::SetTrue)
                    .help("Keep the box"),
            )
            .arg(
                Arg::new("mode")
                    .long("mode")
                    .value_parser(["fast", "slow"])
                    .default_value("fast")
                    .help("How"),
            )
            .arg(Arg::new("secret").long("secret").hide(true))
            .arg(Arg::new("command").num_args(1..).required(true).help("What"));
        let quiet = Arg::new("quiet")
            .long("quiet")
            .global(true)
            .action(ArgAction::SetTrue)
            .help("Say less");
        let hidden = Command::new("internal").hide(true);
        let root = Command::new("box")
            .about("Boxes")
            .arg(quiet)
            .subcommand(run)
            .subcommand(hidden);
        let expected = "\
# Commands

| Command | |
|---|---|
| [`box run`](#box-run) | Runs a command |

## box

Boxes.

```text
box [OPTIONS] [COMMAND]
```

| With every command | |
|---|---|
| `--quiet` | Say less |

## box run

Runs a command.

Also: `r`.

```text
box run [OPTIONS] <command>...
```

| Flags | |
|---|---|
| `--keep` | Keep the box |
| `--mode <MODE>` | How. One of `fast`, `slow`. Default `fast` |

| Arguments | |
|---|---|
| `<COMMAND>` | What |
";
        assert_eq!(page(root), expected);
    }
}
