//! `crabbox config`

use std::io::{BufRead as _, Read as _};
use std::path::Path;

use clap::{Args, Subcommand};
use crabbox_config::{BrokerChange, BrokerMode, Loaded, Platform, ShowContext, user_file, writable_file};
use crabbox_core::secret::Secret;
use crabbox_core::{Error, ErrorKind, IntoError as _, Result};
use crabbox_sync::Rules;

use super::flags::{JsonFlag, ProviderFlag};
use crate::ending::Ending;
use crate::grammar::go_boolean;
use crate::session::Session;

/// Longest line that is read as a token.
const LONGEST_TOKEN: u64 = 64 * 1024;

/// Shows, checks and changes the settings.
#[derive(Args, Clone, Debug)]
pub(crate) struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Clone, Debug, Subcommand)]
enum ConfigCommand {
    /// Prints where your own config file is.
    Path,
    /// Prints the effective settings, without secrets.
    Show(ShowArgs),
    /// Fails when anything in the config files is wrong or unknown.
    Check,
    SetBroker(SetBrokerArgs),
}

#[derive(Args, Clone, Debug)]
struct ShowArgs {
    #[command(flatten)]
    provider: ProviderFlag,
    #[command(flatten)]
    output: JsonFlag,
}

/// Writes a coordinator into your own config file.
#[derive(Args, Clone, Debug)]
struct SetBrokerArgs {
    /// Address of the coordinator.
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// Provider to lease from by way of the coordinator.
    #[arg(long, value_name = "NAME")]
    provider: Option<String>,
    /// Who creates boxes: the coordinator (managed), or this machine (registered).
    #[arg(long, value_name = "MODE", value_parser = ["managed", "registered"])]
    mode: Option<String>,
    /// Whether desktops are published through its viewer.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = go_boolean)]
    auto_webvnc: Option<bool>,
    /// Other origins that a login may be redirected to, comma-separated.
    #[arg(long, value_name = "URLS", value_delimiter = ',')]
    login_redirect_origins: Option<Vec<String>>,
    /// Read your token from standard input.
    #[arg(long)]
    token_stdin: bool,
    /// Read the administrator's token from standard input; with both, it is the second line.
    #[arg(long)]
    admin_token_stdin: bool,
}

/// Runs it.
pub(crate) fn run(args: ConfigArgs, session: &Session) -> anyhow::Result<Ending> {
    match args.command {
        ConfigCommand::Path => {
            let path = user_file(&session.environment, Platform::current())?;
            session.output.line(path.display())?;
            Ok(Ending::success())
        }
        ConfigCommand::Show(args) => show(args.output.json, session),
        ConfigCommand::Check => check(session),
        ConfigCommand::SetBroker(args) => set_broker(args, session),
    }
}

fn show(as_json: bool, session: &Session) -> anyhow::Result<Ending> {
    let loaded = session.config()?;
    let context = context(&loaded, session)?;
    if as_json {
        session.output.json(&loaded.config.show_json(&context))?;
    } else {
        session.output.data(loaded.config.show_text(&context).as_bytes())?;
    }
    Ok(Ending::success())
}

fn context(loaded: &Loaded, session: &Session) -> Result<ShowContext> {
    let config = &loaded.config;
    // A provider that this build does not have is an error here as everywhere else.
    let spec = match &config.provider {
        Some(selection) => Some(session.registry.get(&selection.name)?.spec()),
        None => None,
    };
    let server_type = spec
        .and_then(|spec| spec.classes)
        .and_then(|table| table.types(&config.selection.class));
    let rules = Rules::new(&config.sync.exclude, &config.sync.include);
    Ok(ShowContext {
        file: user_file(&session.environment, Platform::current())?,
        excludes: rules.list().map(|(_, text)| text.to_owned()).collect(),
        server_type: server_type
            .and_then(|types| types.first())
            .map(|name| (*name).to_owned()),
        ..ShowContext::default()
    })
}

fn check(session: &Session) -> anyhow::Result<Ending> {
    let loaded = session.load(Vec::new())?;
    for warning in loaded.warnings.iter().skip(1) {
        session.output.warning(&format!("{warning} ({})", warning.hint));
    }
    loaded.check()?;
    let found: Vec<_> = loaded.files.iter().filter(|file| file.found).collect();
    for file in &found {
        session.output.line(format!("ok {}", file.path.display()))?;
    }
    if found.is_empty() {
        session.output.line("ok, there are no config files")?;
    }
    Ok(Ending::success())
}

fn set_broker(args: SetBrokerArgs, session: &Session) -> anyhow::Result<Ending> {
    let url = args.url.ok_or_else(|| {
        Error::usage("missing coordinator: `--url`").with_hint("give its address with `--url https://host`")
    })?;
    let mode = args.mode.as_deref().map(str::parse::<BrokerMode>).transpose()?;
    if let Some(provider) = &args.provider {
        session.registry.require_known(provider)?;
    }
    let path = writable_file(&session.environment, Platform::current(), &session.directory)?;
    // Read last: nothing that is refused may swallow a token first.
    let token = args.token_stdin.then(read_token).transpose()?;
    let admin_token = args.admin_token_stdin.then(read_token).transpose()?;
    let change = BrokerChange {
        url,
        provider: args.provider,
        mode,
        auto_web_vnc: args.auto_webvnc,
        login_redirect_origins: args.login_redirect_origins,
        token,
        admin_token,
    };
    write(&change, &path, session)
}

fn write(change: &BrokerChange, path: &Path, session: &Session) -> anyhow::Result<Ending> {
    session.output.line(change.write(path)?)?;
    Ok(Ending::success())
}

/// Reads one line of standard input, which is never an argument that other users could see.
fn read_token() -> Result<Secret> {
    let mut line = String::new();
    std::io::stdin()
        .lock()
        .take(LONGEST_TOKEN)
        .read_line(&mut line)
        .or_error(ErrorKind::Usage, || {
            "cannot read the token from standard input".to_owned()
        })?;
    let token = line.trim();
    if token.is_empty() {
        return Err(Error::usage("standard input holds no token").with_hint("pipe the token into the command"));
    }
    Ok(Secret::new(token))
}
