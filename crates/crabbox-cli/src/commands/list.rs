//! `crabbox list`

use clap::Args;
use crabbox_core::LeaseView;
use crabbox_engine::api::ListRequest;

use super::flags::{JsonFlag, TargetFlags, heading};
use crate::ending::Ending;
use crate::output::value;
use crate::render::Renderer;
use crate::session::Session;

/// Lists the boxes of the selected provider.
#[derive(Args, Clone, Debug)]
pub(crate) struct ListArgs {
    /// Also boxes that Crabbox did not make.
    #[arg(long, help_heading = heading::LEASE)]
    all: bool,
    /// Ask the provider, past every cache.
    #[arg(long, help_heading = heading::LEASE)]
    refresh: bool,
    /// Only boxes of this peer group.
    #[arg(long, value_name = "NAME", help_heading = heading::LEASE)]
    pond: Option<String>,
    #[command(flatten)]
    target: TargetFlags,
    #[command(flatten)]
    output: JsonFlag,
}

/// Runs it.
pub(crate) async fn run(args: ListArgs, session: &Session) -> anyhow::Result<Ending> {
    let engine = session.engine(Renderer::plain(session))?;
    let mut request = ListRequest::default();
    request.all = args.all;
    request.refresh = args.refresh;
    request.pond = args.pond;
    let outcome = engine.list(request).await?;
    if args.output.json {
        session.output.json(&outcome.leases)?;
    } else {
        for view in &outcome.leases {
            session.output.line(row(view))?;
        }
    }
    Ok(Ending::success())
}

fn row(view: &LeaseView) -> String {
    let machine = &view.machine;
    let label = |name: &str| value(machine.labels.get(name).unwrap_or_default());
    let mut line = format!(
        "{:<20} {:<28} {:<12} {:<14} {:<15} lease={} slug={} keep={} target={}",
        value(&machine.resource.id),
        value(&machine.name),
        machine.state.as_str(),
        value(&machine.server_type),
        value(machine.host.as_deref().unwrap_or_default()),
        label("lease"),
        label("slug"),
        label("keep"),
        machine.target,
    );
    if let Some(orphan) = view.orphan {
        line.push_str(" orphan=");
        line.push_str(orphan);
    }
    line
}
