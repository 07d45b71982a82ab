//! `crabbox cleanup`

use clap::Args;
use crabbox_core::Error;
use crabbox_engine::api::{CleanupItem, CleanupReport};

use super::flags::{JsonFlag, TargetFlags, heading};
use crate::ending::Ending;
use crate::output::{escape, value};
use crate::render::Renderer;
use crate::session::Session;

/// Gives back boxes that expired or whose client died.
#[derive(Args, Clone, Debug)]
pub(crate) struct CleanupArgs {
    /// Only say what would be done.
    #[arg(long, help_heading = heading::LEASE)]
    dry_run: bool,
    #[command(flatten)]
    target: TargetFlags,
    #[command(flatten)]
    output: JsonFlag,
}

/// Runs it.
pub(crate) async fn run(args: CleanupArgs, session: &Session) -> anyhow::Result<Ending> {
    let engine = session.engine(Renderer::plain(session))?;
    let CleanupReport { items, .. } = engine.cleanup(args.dry_run).await?;
    if args.output.json {
        session.output.json(&items)?;
    } else {
        for item in &items {
            session.output.line(line(item))?;
        }
    }
    let mut failures: Vec<Error> = Vec::new();
    for item in items {
        if let Some(error) = item.error {
            session.output.warning(&format!("{}: {error}", value(&item.server)));
            failures.push(error);
        }
    }
    let count = failures.len();
    match failures.into_iter().next() {
        None => Ok(Ending::success()),
        Some(first) => Err(first.context(format!("cleanup failed for {count} of the boxes")).into()),
    }
}

fn line(item: &CleanupItem) -> String {
    format!(
        "{} server={} name={} provider={} lease={} reason={}",
        item.action,
        value(&item.server),
        value(&item.name),
        value(&item.provider),
        item.lease.as_ref().map_or("-", |lease| lease.as_str()),
        escape(&item.reason),
    )
}
