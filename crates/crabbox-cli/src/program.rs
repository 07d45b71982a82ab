//! From arguments to an exit status.

use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{ArgMatches, Command, CommandFactory as _, FromArgMatches as _, Parser};
use crabbox_core::runtime::Environment;
use crabbox_core::{Error, ErrorKind, IntoError as _, Result};
use crabbox_engine::Registry;
use tokio_util::sync::CancellationToken;

use crate::commands::flags::GlobalFlags;
use crate::commands::{self, Commands, provider_flags};
use crate::ending::{self, Ending};
use crate::grammar::{self, Normalized, for_display, for_parsing, normalize};
use crate::output::{ErrorFormat, Output};
use crate::providers::registry;
use crate::session::{GivenFlags, Session};

/// Provider that serves when nobody selected one.
pub(crate) const EMBEDDED_PROVIDER: &str = "local";

/// Runs your commands in disposable boxes that hold your checkout.
#[derive(Debug, Parser)]
#[command(
    name = "crabbox",
    after_help = "`crabbox help <command>` says more about one of them.\nStart with: crabbox run -- <your command>"
)]
struct Cli {
    #[command(flatten)]
    globals: GlobalFlags,
    #[command(subcommand)]
    command: Commands,
}

/// The grammar as it is shown: every command and flag of this build.
pub fn command() -> Command {
    let registry = registry();
    let mut command = for_display(tree(&registry, EMBEDDED_PROVIDER));
    command.build();
    command
}

/// Runs the program with the arguments after its name.
///
/// Nothing but these arguments and this environment decides what it does; the working directory is where it works.
pub fn main_with(arguments: Vec<OsString>, environment: Environment) -> ExitCode {
    // Providers start this executable again as a helper, in the middle of a box's creation: before anything else.
    if arguments
        .first()
        .is_some_and(|word| word.as_encoded_bytes().starts_with(b"__"))
        && let Some(code) = registry().dispatch_helper(&arguments)
    {
        return code;
    }
    if let [word] = arguments.as_slice()
        && ["--version", "-version", "-v"].iter().any(|version| word == version)
    {
        let output = Output::new(&environment, false);
        let result = output.line(crate::VERSION).map(|()| Ending::success());
        return ending::conclude(result, ErrorFormat::Text, &output).into();
    }
    run(&arguments, environment).into()
}

fn run(arguments: &[OsString], environment: Environment) -> u8 {
    let registry = registry();
    let declared = tree(&registry, EMBEDDED_PROVIDER);
    let parser = for_parsing(declared.clone());
    let normalized = normalize(&parser, arguments);
    if normalized.help {
        let output = Output::new(&environment, false);
        let selected = selected_for_help(&normalized, &environment);
        let shown = tree(&registry, selected.as_deref().unwrap_or(EMBEDDED_PROVIDER));
        return ending::conclude(help(shown, &normalized, &output), early_format(&normalized), &output);
    }
    if normalized.group && !normalized.unknown {
        return missing_command(declared, &normalized, &environment);
    }
    match parse(&parser, &normalized) {
        Ok((cli, given)) => execute(cli, given, environment, registry, &normalized.path),
        Err(error) => {
            let output = Output::new(&environment, false);
            ending::conclude(Err(error.into()), early_format(&normalized), &output)
        }
    }
}

fn parse(parser: &Command, normalized: &Normalized) -> Result<(Cli, GivenFlags)> {
    let refused = |refusal: clap::Error| grammar::usage_error(&refusal, parser, &normalized.path);
    let program = std::iter::once(OsString::from("crabbox"));
    let arguments = program.chain(normalized.args.iter().cloned());
    let matches = parser.clone().try_get_matches_from(arguments).map_err(refused)?;
    let given = GivenFlags::collect(parser, &matches);
    let cli = Cli::from_arg_matches(&matches).map_err(refused)?;
    Ok((cli, given))
}

fn execute(cli: Cli, given: GivenFlags, environment: Environment, registry: Registry, path: &[String]) -> u8 {
    let output = Arc::new(Output::new(&environment, cli.globals.quiet));
    let format = cli.globals.error_format;
    let result = session(given, environment, registry, Arc::clone(&output))
        .map_err(anyhow::Error::from)
        .and_then(|session| commands::dispatch(cli.command, &session))
        .map_err(|failure| ending::with_cure(failure, path));
    ending::conclude(result, format, &output)
}

fn session(given: GivenFlags, environment: Environment, registry: Registry, output: Arc<Output>) -> Result<Session> {
    let directory = std::env::current_dir()
        .or_error(ErrorKind::Usage, || "working directory cannot be found".to_owned())
        .map_err(|error| error.with_hint("change into a directory that exists"))?;
    Ok(Session {
        output,
        environment,
        directory,
        registry,
        given,
        cancel: CancellationToken::new(),
    })
}

/// The grammar as it is declared, with the flags that providers own.
fn tree(registry: &Registry, selected: &str) -> Command {
    provider_flags::add(Cli::command(), &registry.specs(), selected)
}

/// The form of errors before clap has accepted the arguments.
fn early_format(normalized: &Normalized) -> ErrorFormat {
    let own = normalized.args.iter().take_while(|word| *word != "--");
    let wanted = own
        .filter_map(|word| word.to_str()?.strip_prefix("--error-format="))
        .last();
    if wanted == Some("json") {
        ErrorFormat::Json
    } else {
        ErrorFormat::Text
    }
}

/// The provider whose flags help shows: the one that is named here, as far as that is known without reading files.
fn selected_for_help(normalized: &Normalized, environment: &Environment) -> Option<String> {
    let own = normalized.args.iter().take_while(|word| *word != "--");
    let flag = own.filter_map(|word| word.to_str()?.strip_prefix("--provider=")).last();
    flag.or_else(|| environment.get("CRABBOX_PROVIDER")).map(str::to_owned)
}

fn help(tree: Command, normalized: &Normalized, output: &Output) -> anyhow::Result<Ending> {
    if normalized.group && normalized.unknown {
        parse(&for_parsing(tree), normalized)?;
        return Ok(Ending::success());
    }
    output.data(rendered_help(tree, &normalized.path).as_bytes())?;
    Ok(Ending::success())
}

fn rendered_help(tree: Command, path: &[String]) -> String {
    let mut root = for_display(tree);
    root.build();
    let leaf = path
        .iter()
        .try_fold(&root, |command, name| command.find_subcommand(name));
    // The path was walked on the same tree.
    let Some(leaf) = leaf else { return String::new() };
    let mut leaf = leaf.clone();
    if let Some(long) = leaf.get_long_about().cloned() {
        leaf = leaf.about(long);
    }
    leaf.render_help().to_string()
}

/// A group alone shows its help; the program alone also says what is missing.
fn missing_command(tree: Command, normalized: &Normalized, environment: &Environment) -> u8 {
    let output = Output::new(environment, false);
    let text = rendered_help(tree, &normalized.path);
    let result = output.data(text.as_bytes()).and_then(|()| {
        if normalized.path.is_empty() {
            Err(Error::usage("missing command")
                .with_hint("try: crabbox run -- <your command>")
                .into())
        } else {
            Ok(Ending::success())
        }
    });
    ending::conclude(result, early_format(normalized), &output)
}

/// Matches of the command that was named.
pub(crate) fn leaf<'a>(command: &'a Command, matches: &'a ArgMatches) -> (&'a Command, &'a ArgMatches) {
    let mut place = (command, matches);
    while let Some((name, inner)) = place.1.subcommand()
        && let Some(child) = place.0.find_subcommand(name)
    {
        place = (child, inner);
    }
    place
}
