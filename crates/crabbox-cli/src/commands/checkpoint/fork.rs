//! `crabbox checkpoint fork`

use clap::{ArgAction, Args};
use crabbox_core::Error;
use crabbox_core::remote::OutputSink;
use crabbox_engine::api::{CheckpointForkRequest, ExitSource, ForkOutcome};
use crabbox_evidence::text::quote;

use super::{missing, parsed};
use crate::commands::flags::{LeaseFlags, count};
use crate::ending::Ending;
use crate::grammar::go_boolean;
use crate::output::value;
use crate::render::{PrefixedStreams, Renderer, Streams};
use crate::session::Session;

/// Makes boxes from a checkpoint, and runs a command in each.
///
/// The command may hold `{{index}}`, `{{total}}`, `{{lease}}` and `{{slug}}`. With several boxes, each line of output
/// starts with the index of its box.
#[derive(Args, Clone, Debug)]
pub(super) struct ForkArgs {
    /// Checkpoint id.
    #[arg(value_name = "CHECKPOINT")]
    checkpoint: Option<String>,
    /// Command for each box.
    #[arg(last = true, value_name = "COMMAND", num_args = 0..)]
    command: Vec<String>,
    /// How many boxes.
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = count)]
    count: usize,
    /// Keep the boxes; on unless `--keep=false`.
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "true", value_parser = go_boolean)]
    keep: bool,
    /// Workspace on the boxes, when it is not the usual one.
    #[arg(long, value_name = "DIRECTORY")]
    workdir: Option<String>,
    /// Only say what would be done.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    lease: LeaseFlags,
}

/// Runs it.
pub(super) async fn run(args: ForkArgs, session: &Session) -> anyhow::Result<Ending> {
    let checkpoint = args.checkpoint.map_or_else(|| Err(missing()), parsed)?;
    let engine = session.engine(Renderer::terse(session))?;
    let mut request = CheckpointForkRequest::new(checkpoint.clone());
    request.count = args.count;
    request.slug = args.lease.slug;
    request.command = args.command;
    request.keep = args.keep;
    request.workdir = args.workdir;
    request.dry_run = args.dry_run;
    let count = args.count;
    let streams = |index: usize| -> Box<dyn OutputSink> {
        if count == 1 {
            Box::new(Streams::new(session))
        } else {
            Box::new(PrefixedStreams::new(session, index, count))
        }
    };
    let outcomes = engine.checkpoint_fork(request, &streams).await?;
    for outcome in &outcomes {
        session
            .output
            .line(line(checkpoint.as_str(), outcome, (count, args.keep, args.dry_run)))?;
        if let Some(command) = command_line(outcome, count) {
            session.output.info(&command);
        }
    }
    conclude(outcomes, session)
}

/// A box that could not be made matters most, then what the commands say.
fn conclude(outcomes: Vec<ForkOutcome>, session: &Session) -> anyhow::Result<Ending> {
    let total = outcomes.len();
    let codes: Vec<i32> = outcomes
        .iter()
        .filter_map(|outcome| outcome.exit_code)
        .filter(|code| *code != 0)
        .collect();
    let failures: Vec<(usize, Error)> = outcomes
        .into_iter()
        .filter_map(|outcome| Some((outcome.index, outcome.error?)))
        .collect();
    for (index, error) in failures.iter().skip(1) {
        session.output.warning(&format!("fork {index}/{total}: {error}"));
    }
    if let Some((index, error)) = failures.into_iter().next() {
        return Err(error.context(format!("fork {index}/{total}")).into());
    }
    let common = match codes.first() {
        None => return Ok(Ending::success()),
        Some(first) if codes.iter().all(|code| code == first) => u8::try_from(*first).unwrap_or(u8::MAX),
        Some(_) => 1,
    };
    Ok(Ending::of_command(common, ExitSource::Command, None))
}

/// What ran, and how it ended, for people.
fn command_line(outcome: &ForkOutcome, count: usize) -> Option<String> {
    let lease = outcome.lease.as_ref()?;
    let exit = outcome.exit_code?;
    Some(format!(
        "checkpoint fork command lease={} slug={} index={}/{count} exit={exit} command={}",
        lease.lease,
        value(lease.slug.as_ref().map_or("", |slug| slug.as_str())),
        outcome.index,
        quote(&outcome.command),
    ))
}

fn line(checkpoint: &str, outcome: &ForkOutcome, (count, keep, dry_run): (usize, bool, bool)) -> String {
    let index = if count > 1 {
        format!(" index={}/{count}", outcome.index)
    } else {
        String::new()
    };
    let lease = outcome.lease.as_ref();
    if dry_run {
        let command = if outcome.command.is_empty() {
            String::new()
        } else {
            format!(" command={}", quote(&outcome.command))
        };
        return format!(
            "would fork checkpoint id={checkpoint} provider={} resource={} slug={} keep={keep}{index}{command}",
            value(&outcome.provider),
            value(&outcome.resource),
            value(outcome.slug.as_ref().map_or("", |slug| slug.as_str())),
        );
    }
    match (lease, &outcome.error) {
        (Some(lease), None) => format!(
            "checkpoint forked id={checkpoint} lease={} slug={} workdir={}{index}",
            lease.lease,
            value(lease.slug.as_ref().map_or("", |slug| slug.as_str())),
            value(&outcome.workdir),
        ),
        _ => format!(
            "checkpoint fork failed id={checkpoint} lease={}{index}",
            lease.map_or("-", |lease| lease.lease.as_str())
        ),
    }
}
