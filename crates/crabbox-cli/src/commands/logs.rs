//! `crabbox logs`

use clap::Args;
use serde_json::json;

use super::flags::{JsonFlag, RunName, number};
use crate::ending::Ending;
use crate::session::Session;

/// Prints the output of a recorded run.
#[derive(Args, Clone, Debug)]
pub(crate) struct LogsArgs {
    #[command(flatten)]
    name: RunName,
    /// Only this many lines at the end; 0 is all of them.
    #[arg(long, value_name = "LINES", default_value_t = 0, value_parser = number)]
    tail: u64,
    #[command(flatten)]
    output: JsonFlag,
}

/// Runs it.
pub(crate) fn run(args: LogsArgs, session: &Session) -> anyhow::Result<Ending> {
    let id = args.name.required()?;
    let store = session.runs()?;
    let log = store.log(
        &id,
        (args.tail > 0).then(|| usize::try_from(args.tail).unwrap_or(usize::MAX)),
    )?;
    if args.output.json {
        let run = store.read(&id)?;
        session
            .output
            .json(&json!({ "run": run, "log": String::from_utf8_lossy(&log.content) }))?;
        return Ok(Ending::success());
    }
    if log.truncated {
        session.output.info("the beginning of this log was not kept");
    }
    session.output.data(&log.content)?;
    Ok(Ending::success())
}
