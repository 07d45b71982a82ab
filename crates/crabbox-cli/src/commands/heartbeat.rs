//! `crabbox heartbeat`

use std::time::Duration;

use clap::Args;
use crabbox_engine::api::HeartbeatView;

use super::flags::{JsonFlag, LeaseName, ProviderFlag, heading, positive_duration};
use crate::ending::Ending;
use crate::output::value;
use crate::render::Renderer;
use crate::session::Session;

/// Refreshes the idle deadline of a lease.
#[derive(Args, Clone, Debug)]
pub(crate) struct HeartbeatArgs {
    #[command(flatten)]
    name: LeaseName,
    /// New longest idle time.
    #[arg(long = "idle-timeout", value_name = "DURATION", value_parser = positive_duration, help_heading = heading::LEASE)]
    idle_timeout: Option<Duration>,
    #[command(flatten)]
    provider: ProviderFlag,
    #[command(flatten)]
    output: JsonFlag,
}

/// Runs it.
pub(crate) async fn run(args: HeartbeatArgs, session: &Session) -> anyhow::Result<Ending> {
    let id = args.name.required()?;
    let engine = session.engine(Renderer::plain(session))?;
    let view = engine.heartbeat(&id, args.idle_timeout).await?;
    if args.output.json {
        session.output.json(&view)?;
    } else {
        session.output.line(line(&view))?;
    }
    Ok(Ending::success())
}

fn line(view: &HeartbeatView) -> String {
    let optional = |text: &Option<String>| value(text.as_deref().unwrap_or_default());
    format!(
        "heartbeat lease={} slug={} provider={} state={} idle_timeout={} last_touched={} expires={}",
        value(&view.id),
        optional(&view.slug),
        value(&view.provider),
        value(&view.state),
        optional(&view.idle_timeout),
        optional(&view.last_touched_at),
        optional(&view.expires_at),
    )
}
