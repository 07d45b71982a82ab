//! `crabbox resume`

use clap::Args;

use super::flags::{JsonFlag, LeaseName, TargetFlags};
use super::status;
use crate::ending::Ending;
use crate::render::Renderer;
use crate::session::Session;

/// Lets a paused box go on.
#[derive(Args, Clone, Debug)]
pub(crate) struct ResumeArgs {
    #[command(flatten)]
    name: LeaseName,
    #[command(flatten)]
    target: TargetFlags,
    #[command(flatten)]
    output: JsonFlag,
}

/// Runs it.
pub(crate) async fn run(args: ResumeArgs, session: &Session) -> anyhow::Result<Ending> {
    let id = args.name.required()?;
    let engine = session.engine(Renderer::plain(session))?;
    let view = engine.resume(&id).await?;
    if args.output.json {
        session.output.json(&view)?;
    } else {
        session.output.line(status::line(&view))?;
    }
    Ok(Ending::success())
}
