//! Rewrites arguments in Go's grammar into the form that the clap commands parse.

use std::ffi::{OsStr, OsString};

use clap::{Arg, Command};

use super::go_boolean;
use super::shape::is_boolean;

/// Arguments in the form that clap parses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Normalized {
    /// Arguments after the program's name.
    pub(crate) args: Vec<OsString>,
    /// Names of the command and its groups, aliases resolved. Empty for the program itself.
    pub(crate) path: Vec<String>,
    /// Help was asked for: `help …`, `… help`, `--help` or `-h`.
    pub(crate) help: bool,
    /// The path ends at a group, which does nothing by itself.
    pub(crate) group: bool,
    /// Something after the path is no command or flag of the group.
    pub(crate) unknown: bool,
}

/// Rewrites arguments.
///
/// - `-flag` becomes `--flag`, and `--flag value` becomes `--flag=value`, so that a value may start with a dash.
/// - Where a command runs another one, everything from the first word that is no flag belongs to that one; a `--` is put
///   before it, and one that is there already is dropped.
/// - `help`, `--help` and `-h` are taken out and noted.
///
/// `root` is in the form that is parsed, with the global flags on the root.
pub(crate) fn normalize(root: &Command, args: &[OsString]) -> Normalized {
    Reader {
        root,
        leaf: root,
        rest: args,
        done: Normalized::default(),
        leaf_started: false,
    }
    .read()
}

struct Reader<'a> {
    root: &'a Command,
    leaf: &'a Command,
    rest: &'a [OsString],
    done: Normalized,
    leaf_started: bool,
}

impl<'a> Reader<'a> {
    fn read(mut self) -> Normalized {
        while let Some((token, rest)) = self.rest.split_first() {
            self.rest = rest;
            if token == "--" {
                self.after_dashes(token);
                break;
            }
            if let Some(flag) = Flag::split(token) {
                self.flag(token, &flag);
                continue;
            }
            if !self.word(token) {
                break;
            }
        }
        self.done.group = self.leaf.has_subcommands() && self.leaf.is_subcommand_required_set();
        self.done
    }

    fn after_dashes(&mut self, token: &OsString) {
        self.done.args.push(token.clone());
        if is_trailing(self.leaf)
            && let Some((second, rest)) = self.rest.split_first()
            && second == "--"
        {
            self.rest = rest;
        }
        self.done.args.extend_from_slice(self.rest);
    }

    fn flag(&mut self, token: &OsString, flag: &Flag<'a>) {
        if matches!(flag.name, "help" | "h") && flag.value.is_none() {
            self.done.help = true;
            return;
        }
        let Some(argument) = self.lookup(flag) else {
            // Clap names it in its refusal, always with two dashes.
            self.done.unknown = true;
            let unknown = if flag.name.chars().count() > 1 {
                flag.long()
            } else {
                token.clone()
            };
            self.done.args.push(unknown);
            return;
        };
        let name = argument.get_long().unwrap_or(flag.name);
        let mut text = OsString::from(if argument.get_long().is_some() { "--" } else { "-" });
        text.push(name);
        let value = match flag.value {
            None if !is_boolean(argument) => {
                let next = self.rest.split_first();
                next.map(|(value, rest)| {
                    self.rest = rest;
                    value.as_os_str()
                })
            }
            other => other,
        };
        if let Some(value) = value {
            text.push("=");
            text.push(spelled_out(argument, value));
        }
        self.done.args.push(text);
    }

    /// Reads a word that is no flag. Returns whether to go on.
    fn word(&mut self, token: &'a OsString) -> bool {
        let text = token.to_str();
        if self.leaf.has_subcommands() {
            if text == Some("help") {
                self.done.help = true;
                return true;
            }
            let Some(child) = text.and_then(|text| self.leaf.find_subcommand(text)) else {
                self.done.unknown = true;
                self.done.args.push(token.clone());
                self.done.args.extend_from_slice(self.rest);
                return false;
            };
            self.leaf = child;
            self.done.path.push(child.get_name().to_owned());
            self.done.args.push(child.get_name().into());
            return true;
        }
        let first = !std::mem::replace(&mut self.leaf_started, true);
        if first && text == Some("help") && !self.leaf_is_root() {
            self.done.help = true;
            return true;
        }
        if is_trailing(self.leaf) {
            self.done.args.push("--".into());
            self.done.args.push(token.clone());
            self.done.args.extend_from_slice(self.rest);
            return false;
        }
        self.done.args.push(token.clone());
        true
    }

    fn leaf_is_root(&self) -> bool {
        self.done.path.is_empty()
    }

    fn lookup(&self, flag: &Flag<'_>) -> Option<&'a Arg> {
        let globals = self.root.get_arguments().filter(|argument| argument.is_global_set());
        let mut known = self
            .leaf
            .get_arguments()
            .chain(globals)
            .filter(|argument| !argument.is_positional());
        known.find(|argument| names(argument).any(|name| name == flag.name))
    }
}

/// Every spelling of a flag, without dashes.
pub(super) fn names(argument: &Arg) -> impl Iterator<Item = String> {
    let long = argument.get_long().map(str::to_owned);
    let short = argument.get_short().map(|letter| letter.to_string());
    let aliases = argument
        .get_all_aliases()
        .unwrap_or_default()
        .into_iter()
        .map(str::to_owned)
        .collect::<Vec<_>>();
    long.into_iter().chain(short).chain(aliases)
}

/// Go's short spellings of a boolean, in the words that a config file has for it: some flags are settings as well.
fn spelled_out<'a>(argument: &Arg, value: &'a OsStr) -> &'a OsStr {
    let text = value.to_str().filter(|_| is_boolean(argument));
    match text.map(go_boolean) {
        Some(Ok(true)) => OsStr::new("true"),
        Some(Ok(false)) => OsStr::new("false"),
        _ => value,
    }
}

/// Whether everything from the first word on belongs to another command.
fn is_trailing(command: &Command) -> bool {
    let mut positionals = command.get_positionals();
    positionals.next().is_some_and(Arg::is_last_set) && positionals.next().is_none()
}

/// One argument that starts with a dash.
struct Flag<'a> {
    name: &'a str,
    value: Option<&'a OsStr>,
}

impl<'a> Flag<'a> {
    /// Splits `-name`, `--name`, `-name=value` and `--name=value`. A lone dash is a word.
    fn split(token: &'a OsString) -> Option<Self> {
        let bytes = token.as_encoded_bytes();
        let name_and_value = bytes.strip_prefix(b"--").or_else(|| bytes.strip_prefix(b"-"))?;
        if name_and_value.is_empty() {
            return None;
        }
        let equals = name_and_value.iter().position(|byte| *byte == b'=');
        let name = equals.map_or(name_and_value, |at| &name_and_value[..at]);
        let value = equals.map(|at| tail(token, bytes.len() - name_and_value.len() + at + 1));
        Some(Self {
            name: std::str::from_utf8(name).ok()?,
            value,
        })
    }

    fn long(&self) -> OsString {
        let mut text = OsString::from(format!("--{}", self.name));
        if let Some(value) = self.value {
            text.push("=");
            text.push(value);
        }
        text
    }
}

/// The part of an argument after an ASCII character.
#[cfg(unix)]
fn tail(token: &OsString, start: usize) -> &OsStr {
    use std::os::unix::ffi::OsStrExt as _;
    OsStr::from_bytes(&token.as_bytes()[start..])
}

/// The part of an argument after an ASCII character. Text that is not Unicode cannot be split here and counts as empty,
/// which every flag refuses.
#[cfg(not(unix))]
fn tail(token: &OsString, start: usize) -> &OsStr {
    OsStr::new(token.to_str().map_or("", |text| &text[start..]))
}

#[cfg(test)]
mod tests {
    use clap::ArgAction;
    use proptest::prelude::{Just, any, prop_oneof, proptest};

    use super::*;
    use crate::grammar::for_parsing;

    fn tree() -> Command {
        let json = || Arg::new("json").long("json").action(ArgAction::SetTrue);
        let id = || Arg::new("id").long("id");
        for_parsing(
            Command::new("crabbox")
                .arg(Arg::new("error-format").long("error-format").global(true))
                .arg(Arg::new("quiet").long("quiet").global(true).action(ArgAction::SetTrue))
                .subcommand(
                    Command::new("run")
                        .args([json(), id(), Arg::new("junit").long("junit").action(ArgAction::Append)])
                        .arg(Arg::new("command").last(true).num_args(0..)),
                )
                .subcommand(
                    Command::new("stop")
                        .alias("release")
                        .args([json(), id(), Arg::new("name")]),
                )
                .subcommand(
                    Command::new("checkpoint").subcommand(
                        Command::new("fork")
                            .args([json(), Arg::new("checkpoint")])
                            .arg(Arg::new("command").last(true).num_args(0..)),
                    ),
                )
                .subcommand(Command::new("cp").args([
                    Arg::new("follow").short('L').action(ArgAction::SetTrue),
                    Arg::new("source"),
                    Arg::new("destination"),
                ])),
        )
    }

    fn words(text: &str) -> Vec<OsString> {
        text.split_whitespace().map(OsString::from).collect()
    }

    fn rewritten(text: &str) -> String {
        let done = normalize(&tree(), &words(text));
        let args: Vec<_> = done.args.iter().map(|word| word.to_string_lossy()).collect();
        let help = if done.help {
            format!("?{}", done.path.join(" "))
        } else {
            String::new()
        };
        format!("{}{help}", args.join(" "))
    }

    #[test]
    fn arguments_become_one_spelling() {
        let cases = [
            ("run -json echo hi", "run --json -- echo hi"),
            ("run echo --json", "run -- echo --json"),
            ("run --id -x echo", "run --id=-x -- echo"),
            ("run --id -- echo", "run --id=-- -- echo"),
            ("run --id", "run --id"),
            ("run -- -- echo -- a", "run -- echo -- a"),
            ("run -junit a -junit=b -- x", "run --junit=a --junit=b -- x"),
            ("run --json=false sh", "run --json=false -- sh"),
            ("run --jsno sh", "run --jsno -- sh"),
            ("run -z sh", "run -z -- sh"),
            ("stop box -json", "stop box --json"),
            ("release --id=a=b", "stop --id=a=b"),
            ("stop -- --json", "stop -- --json"),
            ("stop --json false", "stop --json false"),
            ("cp -L a b", "cp -L a b"),
            (
                "-quiet -error-format json stop -quiet=0 a",
                "--quiet --error-format=json stop --quiet=false a",
            ),
            (
                "checkpoint fork chk_1 -json -- echo --json",
                "checkpoint fork chk_1 --json -- echo --json",
            ),
            ("checkpoint nope -x", "checkpoint nope -x"),
            ("stop -", "stop -"),
        ];
        for (given, expected) in cases {
            assert_eq!(rewritten(given), expected, "{given}");
        }
    }

    #[test]
    fn help_is_found_wherever_it_is_asked_for() {
        let cases = [
            ("help", "?"),
            ("-h", "?"),
            ("help run", "run?run"),
            ("help checkpoint fork", "checkpoint fork?checkpoint fork"),
            ("checkpoint help", "checkpoint?checkpoint"),
            ("run help", "run?run"),
            ("run -help x", "run -- x?run"),
            ("stop box --help", "stop box?stop"),
            ("run echo --help", "run -- echo --help"),
            ("run -- help", "run -- help"),
            ("stop --id --help", "stop --id=--help"),
            ("stop box help", "stop box help"),
        ];
        for (given, expected) in cases {
            assert_eq!(rewritten(given), expected, "{given}");
        }
    }

    proptest! {
        /// Whatever stands after the first word of a trailing command reaches it unchanged.
        #[test]
        fn a_trailing_command_is_never_touched(
            flags in proptest::collection::vec(prop_oneof![Just("-json"), Just("--json=0"), Just("--id=x"), Just("--quiet")], 0..4),
            first in "[a-z]{1,6}",
            rest in proptest::collection::vec(prop_oneof![Just("--"), Just("-json"), Just("--help"), Just("help"), Just("run"), Just("--id")], 0..5),
        ) {
            let first = if first == "help" { "x".to_owned() } else { first };
            let command: Vec<OsString> = std::iter::once(first.as_str()).chain(rest.iter().copied()).map(OsString::from).collect();
            let mut given = words("run");
            given.extend(flags.iter().map(OsString::from));
            given.extend(command.iter().cloned());
            let done = normalize(&tree(), &given);
            let matches = tree().try_get_matches_from(std::iter::once("crabbox".into()).chain(done.args)).unwrap();
            let run = matches.subcommand_matches("run").unwrap();
            let got: Vec<OsString> = run.get_raw("command").unwrap().map(OsStr::to_os_string).collect();
            assert_eq!(got, command);
        }

        /// Nothing panics, and rewriting what was rewritten changes nothing.
        #[test]
        fn rewriting_is_idempotent(tokens in proptest::collection::vec(prop_oneof![
            Just("run".to_owned()), Just("stop".to_owned()), Just("checkpoint".to_owned()), Just("fork".to_owned()),
            Just("--json".to_owned()), Just("-id".to_owned()), Just("--id=v".to_owned()), Just("-L".to_owned()),
            Just("--error-format".to_owned()), any::<String>()], 0..8)) {
            let given: Vec<OsString> = tokens.into_iter().map(OsString::from).collect();
            let once = normalize(&tree(), &given);
            // A value that was the last argument is still missing, and a command of its own has no second `--` to lose.
            let again = normalize(&tree(), &once.args);
            if !given.iter().any(|token| token == "--") && !once.help {
                assert_eq!(again.args, once.args);
                assert_eq!(again.path, once.path);
            }
        }
    }
}
