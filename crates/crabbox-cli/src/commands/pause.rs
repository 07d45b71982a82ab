//! `crabbox pause`

use clap::Args;

use super::flags::{JsonFlag, LeaseName, TargetFlags};
use super::status;
use crate::ending::Ending;
use crate::render::Renderer;
use crate::session::Session;

/// Holds a box without processor time.
#[derive(Args, Clone, Debug)]
pub(crate) struct PauseArgs {
    #[command(flatten)]
    name: LeaseName,
    #[command(flatten)]
    target: TargetFlags,
    #[command(flatten)]
    output: JsonFlag,
}

/// Runs it.
pub(crate) async fn run(args: PauseArgs, session: &Session) -> anyhow::Result<Ending> {
    let id = args.name.required()?;
    let engine = session.engine(Renderer::plain(session))?;
    let view = engine.pause(&id).await?;
    if args.output.json {
        session.output.json(&view)?;
    } else {
        session.output.line(status::line(&view))?;
    }
    Ok(Ending::success())
}
