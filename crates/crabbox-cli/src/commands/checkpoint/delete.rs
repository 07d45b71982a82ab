//! `crabbox checkpoint delete`

use clap::Args;

use super::CheckpointName;
use crate::commands::flags::TargetFlags;
use crate::ending::Ending;
use crate::output::value;
use crate::render::Renderer;
use crate::session::Session;

/// Deletes a checkpoint.
#[derive(Args, Clone, Debug)]
pub(super) struct DeleteArgs {
    #[command(flatten)]
    name: CheckpointName,
    /// Leave what the provider has.
    #[arg(long)]
    local_only: bool,
    /// Only say what would be done.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    target: TargetFlags,
}

/// Runs it.
pub(super) async fn run(args: DeleteArgs, session: &Session) -> anyhow::Result<Ending> {
    let id = args.name.required()?;
    let engine = session.engine(Renderer::plain(session))?;
    let record = engine.checkpoint_delete(&id, args.local_only, args.dry_run).await?;
    let words = if args.dry_run {
        "would delete checkpoint"
    } else {
        "checkpoint deleted"
    };
    session
        .output
        .line(format!("{words} id={} kind={}", value(&record.id), value(&record.kind)))?;
    Ok(Ending::success())
}
