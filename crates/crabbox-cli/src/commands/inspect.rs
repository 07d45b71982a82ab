//! `crabbox inspect`

use clap::Args;
use crabbox_core::StatusView;

use super::flags::{JsonFlag, LeaseName, TargetFlags};
use crate::ending::Ending;
use crate::output::{escape, value};
use crate::render::Renderer;
use crate::session::Session;

/// Shows everything known about a lease.
#[derive(Args, Clone, Debug)]
pub(crate) struct InspectArgs {
    #[command(flatten)]
    name: LeaseName,
    #[command(flatten)]
    target: TargetFlags,
    #[command(flatten)]
    output: JsonFlag,
}

/// Runs it.
pub(crate) async fn run(args: InspectArgs, session: &Session) -> anyhow::Result<Ending> {
    let id = args.name.required()?;
    let engine = session.engine(Renderer::plain(session))?;
    let view = engine.inspect(&id).await?;
    if args.output.json {
        session.output.json(&view)?;
    } else {
        session.output.data(text(&view).as_bytes())?;
    }
    Ok(Ending::success())
}

fn text(view: &StatusView) -> String {
    let ssh = if view.ssh_host.is_empty() {
        String::new()
    } else {
        format!(
            "{} -p {} {}@{}",
            view.ssh_key, view.ssh_port, view.ssh_user, view.ssh_host
        )
    };
    let fallback_ports = view.ssh_fallback_ports.join(",");
    let pairs = [
        ("id", &view.id),
        ("slug", &view.slug),
        ("provider", &view.provider),
        ("target", &view.target),
        ("windows_mode", &view.windows_mode),
        ("state", &view.state),
        ("server", &view.server_id),
        ("host", &view.host),
        ("network", &view.network),
        ("ssh", &ssh),
        ("ssh_fallback_ports", &fallback_ports),
        ("idle_for", &view.idle_for),
        ("idle_timeout", &view.idle_timeout),
        ("last_touched", &view.last_touched_at),
        ("expires", &view.expires_at),
        ("isolation", &view.isolation),
    ];
    let mut text: String = pairs
        .iter()
        .map(|(key, text)| format!("{key}={}\n", value(text)))
        .collect();
    for (key, label) in &view.labels {
        text.push_str(&format!("label.{}={}\n", escape(key), escape(label)));
    }
    text
}
