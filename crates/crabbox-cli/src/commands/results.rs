//! `crabbox results`

use anyhow::Context as _;
use clap::Args;
use crabbox_core::Error;
use crabbox_evidence::text::{field, hostile};
use serde::Deserialize;
use serde_json::Value;

use super::flags::{JsonFlag, RunName};
use crate::ending::Ending;
use crate::output::value;
use crate::session::Session;

/// Shows the test results of a recorded run.
#[derive(Args, Clone, Debug)]
pub(crate) struct ResultsArgs {
    #[command(flatten)]
    name: RunName,
    /// Only the tests that failed.
    #[arg(long)]
    failed_only: bool,
    #[command(flatten)]
    output: JsonFlag,
}

/// The recorded summary, as far as it is shown to people.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Summary {
    format: String,
    files: Vec<String>,
    suites: u64,
    tests: u64,
    failures: u64,
    errors: u64,
    skipped: u64,
    time_seconds: f64,
    failed: Vec<Failed>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Failed {
    suite: String,
    name: String,
    classname: String,
    file: String,
    message: String,
    kind: String,
}

/// Runs it.
pub(crate) fn run(args: ResultsArgs, session: &Session) -> anyhow::Result<Ending> {
    let id = args.name.required()?;
    let record = session.runs()?.read(&id)?.ok_or_else(|| {
        Error::identity(format!("no such run: `{id}`")).with_hint("`crabbox history` shows recorded runs")
    })?;
    let results = record.results.unwrap_or(Value::Null);
    if args.output.json {
        let failed = || {
            results
                .get("failed")
                .cloned()
                .unwrap_or_else(|| Value::Array(Vec::new()))
        };
        session
            .output
            .json(&if args.failed_only { failed() } else { results })?;
        return Ok(Ending::success());
    }
    if results.is_null() {
        session.output.line(format!("no test results recorded for {id}"))?;
        return Ok(Ending::success());
    }
    let summary: Summary = serde_json::from_value(results).context("recorded test results are damaged")?;
    if !args.failed_only {
        session.output.line(format!(
            "results format={} files={} suites={} tests={} failures={} errors={} skipped={} time={:.3}s",
            value(&summary.format),
            summary.files.len(),
            summary.suites,
            summary.tests,
            summary.failures,
            summary.errors,
            summary.skipped,
            summary.time_seconds,
        ))?;
    }
    if summary.failed.is_empty() {
        if args.failed_only {
            session.output.line("no failed test cases recorded")?;
        }
        return Ok(Ending::success());
    }
    if !args.failed_only {
        session.output.line("failed:")?;
    }
    for failed in &summary.failed {
        session.output.line(row(failed))?;
    }
    Ok(Ending::success())
}

fn row(failed: &Failed) -> String {
    let location = if failed.file.is_empty() {
        &failed.suite
    } else {
        &failed.file
    };
    let name = if failed.classname.is_empty() {
        failed.name.clone()
    } else {
        format!("{}.{}", failed.classname, failed.name)
    };
    let mut row = format!("  {} {:<8} {}", field(location), field(&failed.kind), hostile(&name));
    if let Some(line) = failed.message.lines().next().filter(|line| !line.is_empty()) {
        row.push_str(" — ");
        row.push_str(&hostile(line));
    }
    row
}
