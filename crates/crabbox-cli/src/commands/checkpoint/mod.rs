//! `crabbox checkpoint`

mod create;
mod delete;
mod fork;
mod inspect;
mod list;
mod prune;
mod restore;

use clap::{Args, Subcommand};
use crabbox_core::{CheckpointId, Error, Result};
use crabbox_state::checkpoints::CheckpointRecord;

use super::flags::one_of;
use crate::ending::Ending;
use crate::output::value;
use crate::session::Session;

/// Takes checkpoints of boxes, and makes boxes from them.
#[derive(Args, Clone, Debug)]
pub(crate) struct CheckpointArgs {
    #[command(subcommand)]
    command: CheckpointCommand,
}

#[derive(Clone, Debug, Subcommand)]
enum CheckpointCommand {
    Create(create::CreateArgs),
    List(list::ListArgs),
    Inspect(inspect::InspectArgs),
    Restore(restore::RestoreArgs),
    Fork(Box<fork::ForkArgs>),
    Delete(delete::DeleteArgs),
    Prune(prune::PruneArgs),
}

/// Runs it.
pub(crate) async fn run(args: CheckpointArgs, session: &Session) -> anyhow::Result<Ending> {
    match args.command {
        CheckpointCommand::Create(args) => create::run(args, session).await,
        CheckpointCommand::List(args) => list::run(args, session).await,
        CheckpointCommand::Inspect(args) => inspect::run(args, session).await,
        CheckpointCommand::Restore(args) => restore::run(args, session).await,
        CheckpointCommand::Fork(args) => fork::run(*args, session).await,
        CheckpointCommand::Delete(args) => delete::run(args, session).await,
        CheckpointCommand::Prune(args) => prune::run(args, session).await,
    }
}

/// An existing checkpoint, named by flag or as a word.
#[derive(Args, Clone, Debug)]
struct CheckpointName {
    /// Checkpoint id.
    #[arg(value_name = "CHECKPOINT")]
    checkpoint: Option<String>,
    /// Checkpoint id, instead of the word.
    #[arg(long, value_name = "CHECKPOINT")]
    id: Option<String>,
}

impl CheckpointName {
    fn required(&self) -> Result<CheckpointId> {
        one_of("checkpoint", self.id.as_deref(), self.checkpoint.as_deref())?.map_or_else(|| Err(missing()), parsed)
    }
}

fn missing() -> Error {
    Error::usage("missing checkpoint").with_hint("name a checkpoint by its id; `crabbox checkpoint list` shows yours")
}

fn parsed(text: impl AsRef<str>) -> Result<CheckpointId> {
    text.as_ref().parse()
}

/// What holds a checkpoint: the provider's resource, or an archive of so many bytes.
fn facts(record: &CheckpointRecord) -> String {
    if !record.has_native_resource() {
        return format!("bytes={}", record.archive_bytes);
    }
    let native = &record.native;
    format!(
        "resource={} state={} region={}",
        value(&native.image_id),
        value(&native.state),
        value(&native.region)
    )
}
