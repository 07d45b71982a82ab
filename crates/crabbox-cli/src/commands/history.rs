//! `crabbox history`

use clap::Args;
use crabbox_core::duration;
use crabbox_state::runs::{RunFilter, RunRecord};

use super::flags::{JsonFlag, count};
use crate::ending::Ending;
use crate::output::{escape, value};
use crate::session::Session;

/// Lists recorded runs, newest first.
#[derive(Args, Clone, Debug)]
pub(crate) struct HistoryArgs {
    /// Only runs on this lease: id or slug.
    #[arg(long, value_name = "LEASE")]
    lease: Option<String>,
    /// Only runs of this person.
    #[arg(long, value_name = "NAME")]
    owner: Option<String>,
    /// Only runs of this organisation.
    #[arg(long, value_name = "NAME")]
    org: Option<String>,
    /// Only runs in this state: running, succeeded or failed.
    #[arg(long, value_name = "STATE", value_parser = ["running", "succeeded", "failed"], hide_possible_values = true)]
    state: Option<String>,
    /// At most this many.
    #[arg(long, value_name = "COUNT", default_value_t = 50, value_parser = count)]
    limit: usize,
    #[command(flatten)]
    output: JsonFlag,
}

/// Runs it.
pub(crate) fn run(args: HistoryArgs, session: &Session) -> anyhow::Result<Ending> {
    let filter = RunFilter {
        lease: args.lease,
        owner: args.owner,
        org: args.org,
        state: args.state,
        limit: Some(args.limit),
    };
    let (runs, problems) = session.runs()?.list(&filter)?;
    for problem in problems {
        session.output.warning(&format!(
            "run record {} is not usable: {}",
            problem.file, problem.message
        ));
    }
    if args.output.json {
        session.output.json(&runs)?;
    } else {
        for run in &runs {
            session.output.line(row(run))?;
        }
    }
    Ok(Ending::success())
}

fn row(run: &RunRecord) -> String {
    let elapsed = run.duration_ms.map_or_else(
        || "-".to_owned(),
        |milliseconds| duration::format(std::time::Duration::from_millis(milliseconds)),
    );
    format!(
        "{:<16} {:<16} {:<16} {:<9} phase={} exit={} duration={elapsed} started={} command={}",
        run.id,
        value(&run.lease_id),
        value(&run.slug),
        run.state.as_str(),
        value(&run.phase),
        run.exit_code.map_or_else(|| "-".to_owned(), |code| code.to_string()),
        run.started_at,
        escape(&run.command.join(" ")),
    )
}
