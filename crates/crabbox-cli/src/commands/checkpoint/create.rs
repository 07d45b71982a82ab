//! `crabbox checkpoint create`

use clap::Args;
use crabbox_core::{Error, Result};
use crabbox_engine::api::{CheckpointCreateRequest, CheckpointMode};
use crabbox_state::checkpoints::CheckpointRecord;

use crate::commands::flags::{JsonFlag, LeaseName, TargetFlags};
use crate::ending::Ending;
use crate::output::value;
use crate::render::Renderer;
use crate::session::Session;

/// Takes a checkpoint of a box's workspace.
#[derive(Args, Clone, Debug)]
pub(super) struct CreateArgs {
    #[command(flatten)]
    lease: LeaseName,
    /// Name for people.
    #[arg(long, value_name = "TEXT")]
    name: Option<String>,
    /// The provider's own checkpoint (native), an archive on this machine (archive), or what is better (auto).
    #[arg(long, value_name = "MODE", default_value = "auto")]
    mode: String,
    /// Only write the record.
    #[arg(long)]
    recipe_only: bool,
    /// Workspace on the box, when it is not the usual one.
    #[arg(long, value_name = "DIRECTORY")]
    workdir: Option<String>,
    /// Take over a lease that another checkout has claimed.
    #[arg(long)]
    reclaim: bool,
    #[command(flatten)]
    target: TargetFlags,
    #[command(flatten)]
    output: JsonFlag,
}

/// Runs it.
pub(super) async fn run(args: CreateArgs, session: &Session) -> anyhow::Result<Ending> {
    let id = args.lease.required()?;
    let mode = if args.recipe_only {
        CheckpointMode::Recipe
    } else {
        mode(&args.mode)?
    };
    let engine = session.engine(Renderer::plain(session))?;
    let mut request = CheckpointCreateRequest::default();
    request.id = id;
    request.name = args.name;
    request.mode = mode;
    request.workdir = args.workdir;
    request.reclaim = args.reclaim;
    let record = engine.checkpoint_create(request).await?;
    if args.output.json {
        session.output.json(&record)?;
    } else {
        session.output.line(line(&record))?;
    }
    Ok(Ending::success())
}

fn mode(text: &str) -> Result<CheckpointMode> {
    Ok(match text.trim().to_ascii_lowercase().as_str() {
        "" | "auto" => CheckpointMode::Auto,
        "native" | "provider-native" => CheckpointMode::Native,
        "archive" | "workspace" => CheckpointMode::Archive,
        "recipe" => CheckpointMode::Recipe,
        _ => {
            return Err(
                Error::usage(format!("unknown checkpoint mode: `{}`", text.escape_debug()))
                    .with_hint("choose one of: auto, native, archive, recipe"),
            );
        }
    })
}

fn line(record: &CheckpointRecord) -> String {
    let facts = super::facts(record);
    format!(
        "checkpoint created id={} kind={} {facts} workdir={}",
        value(&record.id),
        value(&record.kind),
        value(&record.workdir)
    )
}
