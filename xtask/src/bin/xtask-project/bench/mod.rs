//! Benchmarks: this program and its peer, in one run on one machine, compared as ratios.

pub(crate) mod archive;
mod fixtures;
mod measure;
mod scenarios;
mod table;

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use xtask::files::{self, Region};
use xtask::process::{self, say};
use xtask::workspace::Workspace;

use scenarios::SCENARIOS;

/// Arguments of the benchmark runner.
#[derive(Args, Debug)]
pub(crate) struct BenchArguments {
    /// Benchmarks to run; none means all. `--list` names them.
    names: Vec<String>,
    /// Name the benchmarks and what each measures.
    #[arg(long)]
    list: bool,
    /// Repetitions whose median counts, after one warm-up. Each benchmark has its own default.
    #[arg(long)]
    repeat: Option<usize>,
    /// Print only; leave `docs/reference/performance.md` as it is.
    #[arg(long)]
    dry_run: bool,
    /// Fail when a figure misses its target.
    #[arg(long)]
    strict: bool,
}

/// What every scenario needs.
#[derive(Debug)]
pub(crate) struct Bench {
    /// Release build of `crabbox`.
    crabbox: PathBuf,
    /// Directory of fixtures, kept between runs.
    fixtures: PathBuf,
    /// Home, config and state of the measured program, emptied before every scenario.
    home: PathBuf,
    /// Repetitions asked for.
    repeat: Option<usize>,
}

/// Runs the chosen benchmarks, prints their tables and keeps them in the reference.
pub(crate) fn run(workspace: &Workspace, arguments: &BenchArguments) -> Result<()> {
    if arguments.list {
        for scenario in SCENARIOS {
            say(&format!("{:<10} {}", scenario.name, scenario.title));
        }
        return Ok(());
    }
    if let Some(name) = arguments
        .names
        .iter()
        .find(|name| !SCENARIOS.iter().any(|known| known.name == name.as_str()))
    {
        bail!("no such benchmark; `cargo xtask bench --list` names them: `{name}`");
    }
    let directory = process::target_directory()?;
    let base = directory.join("bench");
    let bench = Bench {
        crabbox: directory.join("release/crabbox"),
        fixtures: base.join("fixtures"),
        home: base.join("home"),
        repeat: arguments.repeat,
    };
    let page = workspace.root.join("docs/reference/performance.md");
    let mut missed = Vec::new();
    for scenario in SCENARIOS {
        let chosen = arguments.names.is_empty() || arguments.names.iter().any(|name| name == scenario.name);
        if !chosen {
            continue;
        }
        bench.reset_home()?;
        let rows = (scenario.run)(&bench).with_context(|| format!("benchmark {}", scenario.name))?;
        let text = table::render(&rows);
        say(&format!("\n{}\n\n{text}", scenario.title));
        missed.extend(
            rows.iter()
                .filter(|row| row.misses_target())
                .map(|row| row.what.clone()),
        );
        if !arguments.dry_run {
            let region = Region {
                name: &format!("bench {}", scenario.name),
            };
            let wanted = region.replace(&files::read(&page)?, &format!("\n{text}\n"))?;
            files::write(&page, &wanted)?;
        }
    }
    if !arguments.dry_run {
        let region = Region { name: "bench machine" };
        let wanted = region.replace(&files::read(&page)?, &format!("\n{}\n\n", table::machine()))?;
        files::write(&page, &wanted)?;
    }
    for what in &missed {
        say(&format!("misses its target: {what}"));
    }
    if arguments.strict && !missed.is_empty() {
        bail!("{} figures miss their target", missed.len());
    }
    Ok(())
}
