//! `crabbox sync-plan`

use clap::Args;

use super::flags::{JsonFlag, count};
use crate::ending::Ending;
use crate::render::Renderer;
use crate::session::Session;

/// Shows what of this checkout would travel to a box.
#[derive(Args, Clone, Debug)]
pub(crate) struct SyncPlanArgs {
    /// Largest files and directories to show.
    #[arg(long, value_name = "COUNT", default_value = "20", value_parser = count)]
    limit: usize,
    #[command(flatten)]
    output: JsonFlag,
}

/// Runs it.
pub(crate) async fn run(args: SyncPlanArgs, session: &Session) -> anyhow::Result<Ending> {
    let engine = session.engine(Renderer::plain(session))?;
    let plan = engine.sync_plan(args.limit).await?;
    if args.output.json {
        session.output.json(&plan)?;
    } else {
        session.output.data(plan.text().as_bytes())?;
    }
    Ok(Ending::success())
}
