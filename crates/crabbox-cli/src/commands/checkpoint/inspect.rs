//! `crabbox checkpoint inspect`

use clap::Args;
use crabbox_state::checkpoints::CheckpointRecord;

use super::CheckpointName;
use crate::commands::flags::JsonFlag;
use crate::ending::Ending;
use crate::output::value;
use crate::render::Renderer;
use crate::session::Session;

/// Shows one checkpoint.
#[derive(Args, Clone, Debug)]
pub(super) struct InspectArgs {
    #[command(flatten)]
    name: CheckpointName,
    /// Also ask the provider what is left of it.
    #[arg(long)]
    verify: bool,
    #[command(flatten)]
    output: JsonFlag,
}

/// Runs it.
pub(super) async fn run(args: InspectArgs, session: &Session) -> anyhow::Result<Ending> {
    let id = args.name.required()?;
    let engine = session.engine(Renderer::plain(session))?;
    let audit = engine.checkpoint_inspect(&id, args.verify).await?;
    if args.output.json {
        if args.verify {
            session.output.json(&audit)?;
        } else {
            session.output.json(&audit.record)?;
        }
        return Ok(Ending::success());
    }
    session.output.data(text(&audit.record).as_bytes())?;
    if args.verify {
        session.output.line(format!("local_state={}", audit.local_state))?;
        session
            .output
            .line(format!("provider_state={}", value(&audit.provider_state)))?;
        session.output.line(format!("next_action={}", audit.next_action))?;
        session.output.line(format!("verify_error={}", value(&audit.error)))?;
    }
    Ok(Ending::success())
}

fn text(record: &CheckpointRecord) -> String {
    let bytes = record.archive_bytes.to_string();
    let pairs = [
        ("id", &record.id),
        ("name", &record.name),
        ("kind", &record.kind),
        ("provider", &record.provider),
        ("lease", &record.lease_id),
        ("slug", &record.slug),
        ("target", &record.target_os),
        ("workdir", &record.workdir),
        ("archive", &record.archive_path),
        ("bytes", &bytes),
        ("resource", &record.native.image_id),
        ("state", &record.native.state),
        ("repo", &record.repo.name),
        ("repo_root", &record.repo.root),
        ("repo_head", &record.repo.head),
        ("created", &record.created_at),
        ("last_used", &record.last_used_at),
    ];
    pairs
        .iter()
        .map(|(key, text)| format!("{key}={}\n", value(text)))
        .collect()
}
