//! `crabbox checkpoint list`

use clap::Args;
use crabbox_core::Result;
use crabbox_engine::{CheckpointAudit, Engine};
use crabbox_evidence::text::quote;
use crabbox_state::checkpoints::CheckpointRecord;

use crate::commands::flags::JsonFlag;
use crate::ending::Ending;
use crate::output::value;
use crate::render::Renderer;
use crate::session::Session;

/// Lists the checkpoints of this machine, newest first.
#[derive(Args, Clone, Debug)]
pub(super) struct ListArgs {
    /// Also ask the providers what is left of them.
    #[arg(long)]
    verify: bool,
    #[command(flatten)]
    output: JsonFlag,
}

/// Runs it.
pub(super) async fn run(args: ListArgs, session: &Session) -> anyhow::Result<Ending> {
    let engine = session.engine(Renderer::plain(session))?;
    let records = engine.checkpoint_list()?;
    if !args.verify {
        if args.output.json {
            session.output.json(&records)?;
            return Ok(Ending::success());
        }
        if records.is_empty() {
            session.output.line("no checkpoints")?;
        }
        for record in &records {
            session.output.line(row(record, None))?;
        }
        return Ok(Ending::success());
    }
    let audits = audits(&engine, records).await?;
    if args.output.json {
        session.output.json(&audits)?;
        return Ok(Ending::success());
    }
    if audits.is_empty() {
        session.output.line("no checkpoints")?;
    }
    for audit in &audits {
        session.output.line(row(&audit.record, Some(audit.next_action)))?;
    }
    Ok(Ending::success())
}

async fn audits(engine: &Engine, records: Vec<CheckpointRecord>) -> Result<Vec<CheckpointAudit>> {
    let mut audits = Vec::with_capacity(records.len());
    for record in records {
        audits.push(engine.checkpoint_audit(record, true).await?);
    }
    Ok(audits)
}

fn row(record: &CheckpointRecord, next: Option<&str>) -> String {
    let facts = super::facts(record);
    format!(
        "{} kind={} name={} repo={} lease={} {facts}{} created={} last_used={}",
        value(&record.id),
        value(&record.kind),
        quote(&record.name),
        value(&record.repo.name),
        value(&record.lease_id),
        next.map(|next| format!(" next={next}")).unwrap_or_default(),
        value(&record.created_at),
        value(&record.last_used_at),
    )
}
