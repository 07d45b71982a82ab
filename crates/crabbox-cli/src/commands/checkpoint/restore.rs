//! `crabbox checkpoint restore`

use clap::{ArgAction, Args};
use crabbox_engine::api::CheckpointRestoreRequest;

use super::{missing, parsed};
use crate::commands::flags::TargetFlags;
use crate::ending::Ending;
use crate::grammar::go_boolean;
use crate::output::value;
use crate::render::Renderer;
use crate::session::Session;

/// Puts a box's workspace back to a checkpoint.
#[derive(Args, Clone, Debug)]
pub(super) struct RestoreArgs {
    /// Checkpoint id.
    #[arg(value_name = "CHECKPOINT")]
    checkpoint: Option<String>,
    /// Lease id or slug of the box.
    #[arg(long, value_name = "LEASE", required = true)]
    id: String,
    /// Workspace on the box, when it is not the usual one.
    #[arg(long, value_name = "DIRECTORY")]
    workdir: Option<String>,
    /// Empty the workspace first; on unless `--clear=false`.
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "true", value_parser = go_boolean)]
    clear: bool,
    /// Only say what would be done.
    #[arg(long)]
    dry_run: bool,
    /// Take over a lease that another checkout has claimed.
    #[arg(long)]
    reclaim: bool,
    #[command(flatten)]
    target: TargetFlags,
}

/// Runs it.
pub(super) async fn run(args: RestoreArgs, session: &Session) -> anyhow::Result<Ending> {
    let checkpoint = args.checkpoint.map_or_else(|| Err(missing()), parsed)?;
    let engine = session.engine(Renderer::plain(session))?;
    let mut request = CheckpointRestoreRequest::new(checkpoint, &args.id);
    request.workdir = args.workdir;
    request.clear = args.clear;
    request.dry_run = args.dry_run;
    request.reclaim = args.reclaim;
    let outcome = engine.checkpoint_restore(request).await?;
    let words = if args.dry_run {
        "would restore checkpoint"
    } else {
        "checkpoint restored"
    };
    session.output.line(format!(
        "{words} id={} kind={} lease={} workdir={}",
        value(&outcome.record.id),
        value(&outcome.record.kind),
        outcome.lease,
        value(&outcome.workdir),
    ))?;
    Ok(Ending::success())
}
