//! `crabbox events`

use clap::Args;
use crabbox_state::runs::{EventQuery, RunEvent};

use super::flags::{JsonFlag, RunName, count, number};
use crate::ending::Ending;
use crate::output::{escape, value};
use crate::session::Session;

/// Lists the events of a recorded run.
#[derive(Args, Clone, Debug)]
pub(crate) struct EventsArgs {
    #[command(flatten)]
    name: RunName,
    /// Only events after this number.
    #[arg(long, value_name = "NUMBER", default_value_t = 0, value_parser = number)]
    after: u64,
    /// At most this many.
    #[arg(long, value_name = "COUNT", default_value = "500", value_parser = count)]
    limit: usize,
    /// Only events of this type, such as sync.started.
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// Only events of this phase.
    #[arg(long, value_name = "PHASE")]
    phase: Option<String>,
    #[command(flatten)]
    output: JsonFlag,
}

/// Runs it.
pub(crate) fn run(args: EventsArgs, session: &Session) -> anyhow::Result<Ending> {
    let id = args.name.required()?;
    let query = EventQuery {
        after: args.after,
        limit: Some(args.limit),
        kind: args.kind,
        phase: args.phase,
    };
    let events = session.runs()?.events(&id, &query)?;
    if args.output.json {
        session.output.json(&events)?;
    } else {
        for event in &events {
            session.output.line(row(event))?;
        }
    }
    Ok(Ending::success())
}

fn row(event: &RunEvent) -> String {
    let input = &event.input;
    let text = if input.message.is_empty() {
        &input.data
    } else {
        &input.message
    };
    format!(
        "{:04} {:<18} phase={} stream={} at={} {}",
        event.seq,
        value(&input.kind),
        value(&input.phase),
        value(&input.stream),
        event.created_at,
        escape(text.trim_end()),
    )
    .trim_end()
    .to_owned()
}
