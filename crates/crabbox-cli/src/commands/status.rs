//! `crabbox status`

use std::time::Duration;

use clap::Args;
use crabbox_core::StatusView;
use crabbox_engine::api::StatusRequest;

use super::flags::{JsonFlag, LeaseName, TargetFlags, heading, positive_duration};
use crate::ending::Ending;
use crate::output::value;
use crate::render::Renderer;
use crate::session::Session;

/// Shows the state of a lease.
#[derive(Args, Clone, Debug)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    name: LeaseName,
    /// Wait until the box is ready.
    #[arg(long, help_heading = heading::LEASE)]
    wait: bool,
    /// Longest wait.
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = positive_duration, help_heading = heading::LEASE)]
    wait_timeout: Duration,
    #[command(flatten)]
    target: TargetFlags,
    #[command(flatten)]
    output: JsonFlag,
}

/// Runs it.
pub(crate) async fn run(args: StatusArgs, session: &Session) -> anyhow::Result<Ending> {
    let id = args.name.required()?;
    let engine = session.engine(Renderer::plain(session))?;
    let mut request = StatusRequest::default();
    request.id = id;
    request.wait = args.wait.then_some(args.wait_timeout);
    let mut last: Option<StatusView> = None;
    let mut written = Ok(());
    let result = engine
        .status(request, |view| {
            // Text shows every look; JSON is one document, whether or not waiting succeeded.
            if args.output.json {
                last = Some(view.clone());
            } else if written.is_ok() {
                written = session.output.line(line(view));
            }
        })
        .await;
    written?;
    if let Some(view) = &last {
        session.output.json(view)?;
    }
    result?;
    Ok(Ending::success())
}

/// One look as `key=value` words.
pub(crate) fn line(view: &StatusView) -> String {
    format!(
        "{} slug={} provider={} target={} windows_mode={} state={} type={} host={} pond={} network={} ready={} \
         has_host={} idle_for={} idle_timeout={} expires={}",
        value(&view.id),
        value(&view.slug),
        value(&view.provider),
        value(&view.target),
        value(&view.windows_mode),
        value(&view.state),
        value(&view.server_type),
        value(&view.host),
        value(&view.pond),
        value(&view.network),
        view.ready,
        view.has_host,
        value(&view.idle_for),
        value(&view.idle_timeout),
        value(&view.expires_at),
    )
}
