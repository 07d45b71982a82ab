//! `crabbox run`

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::PathBuf;
use std::time::Instant;

use bytes::Bytes;
use clap::{Args, ValueEnum};
use crabbox_core::{Error, ErrorKind, IntoError as _, Result};
use crabbox_engine::Engine;
use crabbox_engine::api::{CommandSource, ExitSource, RunOutcome, RunRequest, ScriptReader, StopAfter};
use crabbox_evidence::timing::TimingReport;

use super::flags::{LeaseFlags, heading};
use crate::ending::Ending;
use crate::grammar::go_boolean;
use crate::render::{Renderer, Streams};
use crate::session::Session;

/// Largest script that is read from standard input, as of a script file: 16 MiB, far above any script a person wrote.
const LARGEST_SCRIPT: u64 = 16 * 1024 * 1024;

/// Runs a command in a box that holds this checkout.
///
/// Gets a box or reuses one, brings the checkout to it, runs the command, streams its output, keeps the evidence and gives
/// the box back. The exit status is the command's own.
#[derive(Args, Clone, Debug)]
#[command(
    override_usage = "crabbox run [flags] [--] <command>...\n       crabbox run [flags] --script FILE [--] [arguments]...\n       crabbox run [flags] --sync-only"
)]
pub(crate) struct RunArgs {
    /// Command and its arguments; flags end at its first word.
    #[arg(last = true, value_name = "COMMAND", num_args = 0..)]
    command: Vec<String>,
    #[command(flatten)]
    box_: BoxFlags,
    #[command(flatten)]
    lease: LeaseFlags,
    #[command(flatten)]
    what: WhatFlags,
    #[command(flatten)]
    environment: EnvironmentFlags,
    #[command(flatten)]
    sync: SyncFlags,
    #[command(flatten)]
    results: ResultFlags,
    #[command(flatten)]
    output: OutputFlags,
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = heading::LEASE)]
struct BoxFlags {
    /// Use an existing lease: id or slug.
    #[arg(long, value_name = "LEASE")]
    id: Option<String>,
    /// Take over a lease that another checkout has claimed.
    #[arg(long)]
    reclaim: bool,
    /// Keep a box that this run creates.
    #[arg(long)]
    keep: bool,
    /// Keep a box that this run creates when the run fails.
    #[arg(long)]
    keep_on_failure: bool,
    /// When to give the box back.
    #[arg(long, value_name = "WHEN")]
    stop_after: Option<StopWhen>,
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = heading::RUN)]
struct WhatFlags {
    /// Join the words with spaces and evaluate them in the box's shell.
    #[arg(long)]
    shell: bool,
    /// Run this script of this machine; words become its arguments.
    #[arg(long, value_name = "FILE")]
    script: Option<PathBuf>,
    /// Run the script that standard input holds.
    #[arg(long)]
    script_stdin: bool,
    /// Run a preset of the config.
    #[arg(long, value_name = "NAME")]
    preset: Option<String>,
    /// Value of the preset's `{{scenario}}`.
    #[arg(long, value_name = "NAME")]
    scenario: Option<String>,
    /// Values of other placeholders of the preset.
    #[arg(long, value_name = "NAME=VALUE", value_delimiter = ',')]
    preset_var: Vec<String>,
    /// Show what tools the box has before the command runs.
    #[arg(long)]
    preflight: bool,
    /// Tools to show, comma-separated; `default` stands for the usual ones, `none` for no tools.
    #[arg(long, value_name = "TOOLS")]
    preflight_tools: Option<String>,
    /// Label of the run in records.
    #[arg(long, value_name = "TEXT")]
    label: Option<String>,
    // Nothing hydrates a workspace on its own here, which is what this asks for.
    #[arg(long, hide = true)]
    no_hydrate: bool,
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = heading::ENVIRONMENT)]
struct EnvironmentFlags {
    /// Also forward these variables: names or PREFIX*.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    allow_env: Vec<String>,
    /// Forward the variables of a dotenv-style file, which is read and never executed.
    #[arg(long, value_name = "FILE")]
    env_from_profile: Vec<PathBuf>,
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = heading::SYNC)]
struct SyncFlags {
    /// Do not bring the checkout to the box.
    #[arg(long)]
    no_sync: bool,
    /// Only bring the checkout to the box.
    #[arg(long)]
    sync_only: bool,
    /// Empty the workspace first.
    #[arg(long, visible_alias = "fresh-sync")]
    full_resync: bool,
    /// Compare file contents instead of size and time.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = go_boolean)]
    checksum: Option<bool>,
    /// Sync even a checkout that is larger than the limits.
    #[arg(long)]
    force_sync_large: bool,
    /// Say more about sync.
    #[arg(long)]
    debug: bool,
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = heading::RESULTS)]
struct ResultFlags {
    /// JUnit XML files on the box, comma-separated.
    #[arg(long, value_name = "PATHS", value_delimiter = ',')]
    junit: Option<Vec<String>>,
    /// Find JUnit XML files that the command wrote.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = go_boolean)]
    results_auto: Option<bool>,
    /// Exit with 1 when tests failed although the command succeeded.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = go_boolean)]
    fail_on_test_failures: Option<bool>,
    /// Fetch a file after success.
    #[arg(long, value_name = "REMOTE=LOCAL")]
    download: Vec<String>,
    /// Write the command's standard output to this file only.
    #[arg(long, value_name = "FILE")]
    capture_stdout: Option<PathBuf>,
    /// Write the command's standard error to this file only.
    #[arg(long, value_name = "FILE")]
    capture_stderr: Option<PathBuf>,
    // Failure bundles are always written; kept for scripts that ask for them.
    #[arg(long, hide = true)]
    capture_on_fail: bool,
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = heading::OUTPUT)]
struct OutputFlags {
    /// Write a session handle in JSON to this file.
    #[arg(long, value_name = "FILE")]
    lease_output: Option<PathBuf>,
    /// Print the times as one line of JSON at the end of standard error.
    #[arg(long)]
    timing_json: bool,
    /// Append the times to a ledger: `default`, `off` or a file.
    #[arg(long, value_name = "FILE")]
    timing_record: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum StopWhen {
    /// If this run created it and nothing asks to keep it.
    #[value(alias = "")]
    Auto,
    Success,
    Always,
    Failure,
    Never,
}

impl From<StopWhen> for StopAfter {
    fn from(when: StopWhen) -> Self {
        match when {
            StopWhen::Auto => Self::Auto,
            StopWhen::Success => Self::Success,
            StopWhen::Always => Self::Always,
            StopWhen::Failure => Self::Failure,
            StopWhen::Never => Self::Never,
        }
    }
}

/// Runs it.
pub(crate) async fn run(args: RunArgs, session: &Session) -> anyhow::Result<Ending> {
    let (begun, timing_json) = (Instant::now(), args.output.timing_json);
    let mut provider = String::new();
    match attempt(args, session, &mut provider).await {
        // Programs count on the times whichever stage failed.
        Err(failure) if timing_json => {
            Ending::timed_failure(failure, "run", TimingReport::new(provider), begun.elapsed())
        }
        ended => ended,
    }
}

async fn attempt(args: RunArgs, session: &Session, provider: &mut String) -> anyhow::Result<Ending> {
    let (timing_json, sync_only) = (args.output.timing_json, args.sync.sync_only);
    let engine = session.engine(Renderer::for_run(session, timing_json))?;
    *provider = provider_name(&engine);
    let request = request(args, session)?;
    let outcome = engine.run(request, &mut Streams::new(session)).await?;
    conclude(outcome, Finish { timing_json, sync_only }, session)
}

/// Canonical name of the selected provider; empty when it is not in this build.
pub(super) fn provider_name(engine: &Engine) -> String {
    let registry = engine.registry();
    let selected = match &engine.config().config.provider {
        Some(selection) => registry.get(&selection.name),
        None => registry.fallback(),
    };
    selected
        .map(|provider| provider.spec().name.to_owned())
        .unwrap_or_default()
}

/// What a run prints when it is over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Finish {
    /// The times, as the last line.
    pub(crate) timing_json: bool,
    /// Where the checkout is on the box.
    pub(crate) sync_only: bool,
}

/// Turns what became of a run into an ending.
pub(crate) fn conclude(outcome: RunOutcome, finish: Finish, session: &Session) -> anyhow::Result<Ending> {
    if let (Some(workdir), None, true) = (&outcome.workdir, &outcome.error, finish.sync_only) {
        session.output.line(format!("synced {workdir}"))?;
    }
    let lease = outcome.lease.as_ref().map(|info| info.lease.to_string());
    let last_line = if finish.timing_json {
        Some(outcome.timing.to_json()?)
    } else {
        None
    };
    let ending = match (outcome.exit_source, outcome.error) {
        (ExitSource::Crabbox, Some(error)) => Ending::failed(error, outcome.exit_code),
        (ExitSource::Crabbox, None) => Ending::explained(outcome.exit_code),
        // The command's own status, or that of the signal which ended it.
        (source, None) => Ending::of_command(outcome.exit_code, source, lease),
        (source, Some(error)) => {
            session.output.warning(&error.to_string());
            Ending::of_command(outcome.exit_code, source, lease)
        }
    };
    Ok(ending.with_last_line(last_line))
}

fn request(args: RunArgs, session: &Session) -> anyhow::Result<RunRequest> {
    let RunArgs {
        box_,
        lease,
        what,
        environment,
        sync,
        results,
        output,
        command,
    } = args;
    let timing_record = timing_record(output.timing_record.as_deref(), session)?;
    let preset_vars = preset_variables(&what.preset_var)?;
    let source = command_source(&what, command, sync.sync_only, session)?;
    let mut request = RunRequest::default();
    request.command = source;
    request.id = box_.id;
    request.reclaim = box_.reclaim;
    request.keep = box_.keep;
    request.keep_on_failure = box_.keep_on_failure;
    request.stop_after = box_.stop_after.map(StopAfter::from).unwrap_or_default();
    request.idle_timeout = lease.idle_timeout()?;
    request.slug = lease.slug;
    request.preset = what.preset;
    request.scenario = what.scenario;
    request.preset_vars = preset_vars;
    request.preflight = what.preflight;
    request.preflight_tools = what.preflight_tools;
    request.label = what.label;
    request.allow_env = environment.allow_env;
    request.env_from_profile = environment.env_from_profile;
    request.no_sync = sync.no_sync;
    request.sync_only = sync.sync_only;
    request.full_resync = sync.full_resync;
    request.checksum = sync.checksum;
    request.force_sync_large = sync.force_sync_large;
    request.debug = sync.debug;
    request.junit = results.junit;
    request.results_auto = results.results_auto;
    request.fail_on_test_failures = results.fail_on_test_failures;
    request.downloads = results.download;
    request.capture_stdout = results.capture_stdout;
    request.capture_stderr = results.capture_stderr;
    request.capture_on_fail = results.capture_on_fail;
    request.lease_output = output.lease_output;
    request.timing_record = timing_record;
    Ok(request)
}

fn read_script() -> Result<Bytes> {
    let mut script = Vec::new();
    std::io::stdin()
        .lock()
        .take(LARGEST_SCRIPT + 1)
        .read_to_end(&mut script)
        .or_error(ErrorKind::Usage, || "read the script from standard input".to_owned())?;
    if script.len() as u64 > LARGEST_SCRIPT {
        return Err(Error::usage(format!("script is longer than {LARGEST_SCRIPT} bytes"))
            .with_hint("put it into the checkout and run it from there"));
    }
    Ok(Bytes::from(script))
}

/// What to execute. A script on standard input is not read yet: a refused run leaves it alone.
fn command_source(
    what: &WhatFlags,
    command: Vec<String>,
    sync_only: bool,
    session: &Session,
) -> anyhow::Result<CommandSource> {
    let script = what.script.is_some() || what.script_stdin;
    if what.script.is_some() && what.script_stdin {
        let error = Error::usage("two scripts: `--script` and `--script-stdin`").with_hint("give one of them");
        return Err(error.into());
    }
    if script && sync_only {
        let error = Error::usage("nothing runs with `--sync-only`").with_hint("leave out the script or `--sync-only`");
        return Err(error.into());
    }
    if let Some(path) = &what.script {
        let path = session.directory.join(path);
        // A pipe will do, as a shell's process substitution gives one.
        if !std::fs::metadata(&path).is_ok_and(|metadata| !metadata.is_dir()) {
            return Err(Error::usage(format!("no such script: `{}`", path.display()))
                .with_hint("`--script` takes a file of this machine; write a command of the box after `--`")
                .into());
        }
        return Ok(CommandSource::ScriptFile { path, args: command });
    }
    if what.script_stdin {
        return Ok(CommandSource::ScriptReader {
            script: ScriptReader::new(read_script),
            args: command,
        });
    }
    Ok(match command {
        command if command.is_empty() => CommandSource::None,
        command if what.shell => CommandSource::Shell(command),
        command => CommandSource::Words(command),
    })
}

fn preset_variables(given: &[String]) -> Result<BTreeMap<String, String>> {
    given
        .iter()
        .map(|entry| match entry.split_once('=') {
            Some((name, value)) if !name.trim().is_empty() => Ok((name.trim().to_owned(), value.to_owned())),
            _ => Err(
                Error::usage(format!("--preset-var is not name=value: `{}`", entry.escape_debug()))
                    .with_hint("write `--preset-var name=value`"),
            ),
        })
        .collect()
}

fn timing_record(given: Option<&str>, session: &Session) -> Result<Option<PathBuf>> {
    Ok(match given.map(str::trim) {
        None | Some("" | "off") => None,
        Some("default") => Some(session.directories()?.state.join("timings.jsonl")),
        Some(path) => Some(session.directory.join(path)),
    })
}
