//! `crabbox checkpoint prune`

use std::time::Duration;

use clap::{Args, ValueEnum};
use crabbox_engine::Prune;

use crate::commands::flags::age;
use crate::ending::Ending;
use crate::output::value;
use crate::render::Renderer;
use crate::session::Session;

/// Deletes checkpoints that are old or unused. With both ages, both must match.
#[derive(Args, Clone, Debug)]
pub(super) struct PruneArgs {
    /// Those created longer ago than this, such as 7d or 36h.
    #[arg(long, value_name = "AGE", value_parser = age)]
    older_than: Option<Duration>,
    /// Those last used longer ago than this, such as 7d or 36h.
    #[arg(long, value_name = "AGE", value_parser = age)]
    unused_for: Option<Duration>,
    /// Only those of this kind.
    #[arg(long, value_name = "KIND")]
    kind: Option<Kind>,
    /// Leave what the providers have.
    #[arg(long)]
    local_only: bool,
    /// Only say what would be done.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// The provider's own.
    Native,
    /// On this machine.
    Archive,
}

/// Runs it.
pub(super) async fn run(args: PruneArgs, session: &Session) -> anyhow::Result<Ending> {
    let engine = session.engine(Renderer::plain(session))?;
    let records = engine
        .checkpoint_prune(Prune {
            older_than: args.older_than,
            unused_for: args.unused_for,
            native: args.kind.map(|kind| kind == Kind::Native),
            local_only: args.local_only,
            dry_run: args.dry_run,
        })
        .await?;
    if records.is_empty() {
        session.output.line("no checkpoints matched prune criteria")?;
    }
    let words = if args.dry_run {
        "would prune checkpoint"
    } else {
        "checkpoint pruned"
    };
    for record in &records {
        session.output.line(format!(
            "{words} id={} kind={} created={} last_used={}",
            value(&record.id),
            value(&record.kind),
            value(&record.created_at),
            value(&record.last_used_at)
        ))?;
    }
    Ok(Ending::success())
}
