//! `crabbox job`

use clap::{Args, Subcommand, ValueEnum};
use crabbox_config::{FlagValue, Job, StopPolicy};
use crabbox_core::{Error, Result, duration};
use crabbox_engine::api::{CommandSource, RunOutcome, RunRequest, StopAfter, StopRequest, WarmupRequest};

use super::run::{self, Finish};
use crate::ending::Ending;
use crate::output::{escape, value};
use crate::render::{Renderer, Streams};
use crate::session::Session;

/// Lists and runs the jobs of the config.
#[derive(Args, Clone, Debug)]
pub(crate) struct JobArgs {
    #[command(subcommand)]
    command: JobCommand,
}

#[derive(Clone, Debug, Subcommand)]
enum JobCommand {
    /// Lists the jobs.
    List,
    Run(RunArgs),
}

/// Runs a job: gets a box, runs the command, gives the box back.
#[derive(Args, Clone, Debug)]
struct RunArgs {
    /// Name of the job.
    #[arg(value_name = "JOB")]
    job: String,
    /// Use an existing lease: id or slug.
    #[arg(long, value_name = "LEASE")]
    id: Option<String>,
    /// Do not prepare the box with a workflow, even if the job asks for it.
    #[arg(long)]
    no_hydrate: bool,
    /// When to give the box back, instead of what the job says.
    #[arg(long, value_name = "WHEN")]
    stop: Option<StopWhen>,
    /// Only print the commands that the job stands for.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum StopWhen {
    Auto,
    Always,
    Success,
    Failure,
    Never,
}

impl From<StopWhen> for StopPolicy {
    fn from(when: StopWhen) -> Self {
        match when {
            StopWhen::Auto => Self::Auto,
            StopWhen::Always => Self::Always,
            StopWhen::Success => Self::Success,
            StopWhen::Failure => Self::Failure,
            StopWhen::Never => Self::Never,
        }
    }
}

/// Runs it.
pub(crate) async fn run(args: JobArgs, session: &Session) -> anyhow::Result<Ending> {
    match args.command {
        JobCommand::List => list(session),
        JobCommand::Run(args) => run_job(args, session).await,
    }
}

fn list(session: &Session) -> anyhow::Result<Ending> {
    let jobs = session.config()?.config.jobs;
    if jobs.is_empty() {
        session.output.line("no jobs configured")?;
    }
    for (name, job) in &jobs {
        session.output.line(format!(
            "{} provider={} target={} hydrate_actions={} stop={}",
            escape(name),
            value(job.provider.as_deref().unwrap_or_default()),
            job.target.map_or_else(|| "-".to_owned(), |target| target.to_string()),
            job.hydrate_actions,
            job.stop,
        ))?;
    }
    Ok(Ending::success())
}

async fn run_job(args: RunArgs, session: &Session) -> anyhow::Result<Ending> {
    let mut jobs = session.load(Vec::new())?.config.jobs;
    let known = jobs
        .keys()
        .map(|name| format!("`{name}`"))
        .collect::<Vec<_>>()
        .join(", ");
    let job = jobs.remove(&args.job).ok_or_else(|| {
        let error = Error::usage(format!("no such job: `{}`", args.job.escape_debug()));
        if known.is_empty() {
            error.with_hint("`crabbox init --detect` writes jobs into .crabbox.yaml")
        } else {
            error.with_hint(format!("the config has: {known}"))
        }
    })?;
    refuse(&args, &job)?;
    let policy = args.stop.map_or(job.stop, StopPolicy::from);
    if args.dry_run {
        for line in plan(&args, &job, policy) {
            session.output.line(line)?;
        }
        return Ok(Ending::success());
    }
    let engine = session.engine_with(Renderer::for_run(session, false), settings(&job))?;
    let created = args.id.is_none();
    let lease = match args.id {
        Some(id) => id,
        None => engine.warmup(WarmupRequest::default()).await?.lease.lease.to_string(),
    };
    let outcome = engine.run(request(&job, &lease), &mut Streams::new(session)).await;
    let stopped = match gives_back(policy, created, &outcome) {
        true => stop(&engine, &lease).await,
        false => Ok(()),
    };
    let ending = run::conclude(
        outcome?,
        Finish {
            timing_json: false,
            sync_only: job.sync_only,
        },
        session,
    )?;
    // A failure of the job matters more than one of tidying up.
    match stopped {
        Err(error) if ending.is_success() => Err(error.into()),
        Err(error) => {
            session.output.warning(&error.to_string());
            Ok(ending)
        }
        Ok(()) => Ok(ending),
    }
}

/// What a job may not ask for here.
fn refuse(args: &RunArgs, job: &Job) -> Result<()> {
    if job.command.as_deref().is_none_or(|command| command.trim().is_empty()) && !job.sync_only {
        return Err(
            Error::usage(format!("job has no command: `{}`", args.job)).with_hint("set `command`, or `syncOnly: true`")
        );
    }
    let unsupported = [
        (
            job.hydrate_actions && !args.no_hydrate,
            "hydrate.actions",
            "pass --no-hydrate to run without it",
        ),
        (
            !job.artifact_globs.is_empty(),
            "artifactGlobs",
            "use `downloads` for single files",
        ),
        (
            !job.required_artifacts.is_empty(),
            "requiredArtifacts",
            "use `downloads` for single files",
        ),
    ];
    match unsupported.into_iter().find(|(asked, ..)| *asked) {
        None => Ok(()),
        Some((_, key, cure)) => Err(Error::usage(format!(
            "job {} uses a key that this version cannot honour: `{key}`",
            args.job
        ))
        .with_hint(cure)),
    }
}

fn gives_back(policy: StopPolicy, created: bool, outcome: &Result<RunOutcome>) -> bool {
    let succeeded = outcome.as_ref().is_ok_and(|outcome| outcome.exit_code == 0);
    match policy {
        StopPolicy::Auto => created,
        StopPolicy::Always => true,
        StopPolicy::Success => succeeded,
        StopPolicy::Failure => !succeeded,
        StopPolicy::Never => false,
    }
}

async fn stop(engine: &crabbox_engine::Engine, lease: &str) -> Result<()> {
    let mut request = StopRequest::default();
    request.id = lease.to_owned();
    engine.stop(request).await.map(drop)
}

fn words(job: &Job) -> Vec<String> {
    let command = job.command.as_deref().unwrap_or_default();
    if job.shell {
        vec![command.to_owned()]
    } else {
        command.split_whitespace().map(str::to_owned).collect()
    }
}

fn request(job: &Job, lease: &str) -> RunRequest {
    let mut request = RunRequest::default();
    request.id = Some(lease.to_owned());
    request.stop_after = StopAfter::Never;
    request.command = match words(job) {
        _ if job.sync_only => CommandSource::None,
        words if job.shell => CommandSource::Shell(words),
        words => CommandSource::Words(words),
    };
    request.no_sync = job.no_sync;
    request.sync_only = job.sync_only;
    request.checksum = job.checksum;
    request.force_sync_large = job.force_sync_large;
    request.junit = (!job.junit.is_empty()).then(|| job.junit.clone());
    request.downloads.clone_from(&job.downloads);
    request.label.clone_from(&job.label);
    request
}

/// The settings of a job, as flags by the name they would have.
fn pairs(job: &Job) -> Vec<(&'static str, &'static str, String)> {
    let mut pairs = Vec::new();
    let mut add = |key, flag, text: Option<String>| pairs.extend(text.map(|text| (key, flag, text)));
    add("provider", "provider", job.provider.clone());
    add("target", "target", job.target.map(|target| target.to_string()));
    add(
        "windows.mode",
        "windows-mode",
        job.windows_mode.map(|mode| mode.to_string()),
    );
    add("profile", "profile", job.profile.clone());
    add("class", "class", job.class.clone());
    add(
        "architecture",
        "arch",
        job.architecture.map(|architecture| architecture.to_string()),
    );
    add("serverType", "type", job.server_type.clone());
    add("ttl", "ttl", job.ttl.map(duration::format));
    add("idleTimeout", "idle-timeout", job.idle_timeout.map(duration::format));
    pairs
}

fn settings(job: &Job) -> Vec<FlagValue> {
    let flag = |section: &str, key: &str, text: String| FlagValue {
        section: section.to_owned(),
        key: key.to_owned(),
        values: vec![text],
    };
    let mut settings: Vec<_> = pairs(job)
        .into_iter()
        .map(|(key, _, text)| flag("", key, text))
        .collect();
    settings.extend(job.market.clone().map(|market| flag("capacity", "market", market)));
    for (key, wanted) in [("desktop", job.desktop), ("browser", job.browser), ("code", job.code)] {
        settings.extend(wanted.map(|wanted| flag("", key, wanted.to_string())));
    }
    settings
}

/// The commands that a job stands for.
fn plan(args: &RunArgs, job: &Job, policy: StopPolicy) -> Vec<String> {
    let lease = args.id.as_deref().unwrap_or("<lease>");
    let mut flags: Vec<String> = pairs(job)
        .into_iter()
        .flat_map(|(_, flag, text)| [format!("--{flag}"), quoted(&text)])
        .collect();
    flags.extend(
        job.market
            .iter()
            .flat_map(|market| ["--market".to_owned(), quoted(market)]),
    );
    let flags = flags.iter().map(|word| format!(" {word}")).collect::<String>();
    let mut lines = vec![format!("# job {}", escape(&args.job))];
    if args.id.is_none() {
        lines.push(format!("crabbox warmup{flags} --keep=true"));
    }
    let mut run = format!(
        "crabbox run{flags} --id {}",
        if args.id.is_some() {
            quoted(lease)
        } else {
            lease.to_owned()
        }
    );
    let mut add = |wanted: bool, flag: &str| {
        if wanted {
            run.push(' ');
            run.push_str(flag);
        }
    };
    add(job.no_sync, "--no-sync");
    add(job.sync_only, "--sync-only");
    add(job.checksum == Some(true), "--checksum");
    add(job.checksum == Some(false), "--checksum=false");
    add(job.force_sync_large, "--force-sync-large");
    add(
        !job.junit.is_empty(),
        &format!("--junit {}", quoted(&job.junit.join(","))),
    );
    add(
        job.label.is_some(),
        &format!("--label {}", quoted(job.label.as_deref().unwrap_or_default())),
    );
    for download in &job.downloads {
        add(true, &format!("--download {}", quoted(download)));
    }
    add(job.shell, "--shell");
    if !job.sync_only {
        add(true, "--");
        for word in words(job) {
            add(true, &quoted(&word));
        }
    }
    lines.push(run);
    let when = match policy {
        StopPolicy::Auto if args.id.is_some() => None,
        StopPolicy::Never => None,
        StopPolicy::Auto | StopPolicy::Always => Some(""),
        StopPolicy::Success => Some("  # after success"),
        StopPolicy::Failure => Some("  # after failure"),
    };
    lines.extend(when.map(|when| format!("crabbox stop {lease}{when}")));
    lines
}

/// A word as a POSIX shell reads it back.
fn quoted(word: &str) -> String {
    let plain = |character: char| character.is_ascii_alphanumeric() || "_./:@=-,+".contains(character);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}
