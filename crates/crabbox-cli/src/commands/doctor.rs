//! `crabbox doctor`

use clap::Args;
use crabbox_core::Error;
use crabbox_core::request::CheckStatus;
use crabbox_engine::api::{DoctorOutcome, DoctorRequest};
use serde_json::json;

use super::flags::{JsonFlag, TargetFlags};
use crate::ending::Ending;
use crate::output::escape;
use crate::render::Renderer;
use crate::session::Session;

/// Checks this machine and the selected provider.
#[derive(Args, Clone, Debug)]
pub(crate) struct DoctorArgs {
    /// Profile of the config whose demands are checked.
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,
    /// Every provider of this build.
    #[arg(long)]
    all: bool,
    /// Also check what takes time.
    #[arg(long)]
    deep: bool,
    #[command(flatten)]
    target: TargetFlags,
    #[command(flatten)]
    output: JsonFlag,
}

/// Runs it.
pub(crate) async fn run(args: DoctorArgs, session: &Session) -> anyhow::Result<Ending> {
    let engine = session.engine(Renderer::plain(session))?;
    let mut request = DoctorRequest::default();
    request.all = args.all;
    request.deep = args.deep;
    let outcomes = engine.doctor(request).await;
    let healthy = outcomes.iter().all(|outcome| outcome.ok);
    if args.output.json {
        match (args.all, outcomes.first()) {
            (false, Some(single)) => session.output.json(single)?,
            _ => session.output.json(&json!({ "ok": healthy, "providers": outcomes }))?,
        }
    } else {
        for outcome in &outcomes {
            print(outcome, args.all, session)?;
        }
    }
    if healthy {
        return Ok(Ending::success());
    }
    Err(Error::other("doctor found problems")
        .with_hint("each line marked `failed` or `missing` says what to do")
        .into())
}

fn print(outcome: &DoctorOutcome, heading: bool, session: &Session) -> anyhow::Result<()> {
    if heading {
        session.output.line(format!("provider={}", outcome.provider))?;
    }
    for check in &outcome.checks {
        let status = match check.status {
            CheckStatus::Ok => "ok",
            CheckStatus::Warning => "warning",
            CheckStatus::Missing => "missing",
            CheckStatus::Failed => "failed",
        };
        session
            .output
            .line(format!("{status:<7} {:<8} {}", check.check, escape(&check.message)))?;
    }
    Ok(())
}
