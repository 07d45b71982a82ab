//! `crabbox stop`

use clap::Args;
use crabbox_core::{Error, Outcome};
use crabbox_engine::api::{StopOutcome, StopRequest};

use super::flags::{JsonFlag, LeaseName, TargetFlags, heading};
use crate::ending::Ending;
use crate::output::value;
use crate::render::Renderer;
use crate::session::Session;

/// Gives a box back.
#[derive(Args, Clone, Debug)]
pub(crate) struct StopArgs {
    #[command(flatten)]
    name: LeaseName,
    /// Take over a box that has no claim on this machine first.
    #[arg(long, help_heading = heading::LEASE)]
    reclaim: bool,
    #[command(flatten)]
    target: TargetFlags,
    #[command(flatten)]
    output: JsonFlag,
}

/// Runs it.
pub(crate) async fn run(args: StopArgs, session: &Session) -> anyhow::Result<Ending> {
    let id = args.name.required()?;
    let engine = session.engine(Renderer::plain(session))?;
    let mut request = StopRequest::default();
    request.id = id;
    request.reclaim = args.reclaim;
    let outcome = engine.stop(request).await?;
    if args.output.json {
        session.output.json(&outcome)?;
    }
    session.output.info(&line(&outcome));
    if outcome.outcome == Outcome::Pending {
        return Err(
            Error::readiness(format!("provider has not finished yet: `{}`", outcome.server))
                .with_lease(outcome.lease.as_str())
                .with_hint("run the same command again in a moment")
                .into(),
        );
    }
    Ok(Ending::success())
}

fn line(outcome: &StopOutcome) -> String {
    let word = match outcome.outcome {
        Outcome::Deleted => "deleted",
        Outcome::AlreadyGone => "already-gone",
        Outcome::Stopped => "stopped",
        Outcome::Retained => "retained",
        Outcome::Pending => "pending",
    };
    format!(
        "{word} lease={} server={} name={}",
        outcome.lease,
        value(&outcome.server),
        value(&outcome.name)
    )
}
