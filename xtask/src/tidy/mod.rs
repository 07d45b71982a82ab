//! What lints cannot see: module sizes, dependency arrows, provider wiring, leftovers.

mod manifests;
mod text;
mod wiring;

use std::fmt;

use anyhow::{Result, bail};

use crate::process::say;
use crate::workspace::Workspace;
use crate::{files, generate};

/// Where a rule is broken, and how.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// File relative to the root, with its line where one is to blame.
    pub place: String,
    /// What is wrong and what cures it.
    pub message: String,
}

impl Finding {
    fn new(place: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            place: place.into(),
            message: message.into(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.place, self.message)
    }
}

/// Outcome of all rules.
#[derive(Debug, Default)]
pub struct Report {
    /// What fails the check.
    pub errors: Vec<Finding>,
    /// What should be looked at.
    pub warnings: Vec<Finding>,
}

/// Applies every rule.
///
/// # Errors
/// When a file cannot be read.
pub fn check(workspace: &Workspace) -> Result<Report> {
    let mut report = Report::default();
    let tracked = files::tracked(&workspace.root)?;
    text::check(workspace, &tracked, &mut report)?;
    manifests::check(workspace, &mut report);
    manifests::check_versions(workspace, &mut report)?;
    wiring::check(workspace, &tracked, &mut report)?;
    if let Err(error) = generate::wiring::run(workspace, true) {
        report
            .errors
            .push(Finding::new("crates/crabbox-cli", format!("{error:#}")));
    }
    report.errors.sort();
    report.warnings.sort();
    Ok(report)
}

/// Applies every rule and prints what it found.
///
/// # Errors
/// When a rule is broken or a file cannot be read.
pub fn run(workspace: &Workspace) -> Result<()> {
    let report = check(workspace)?;
    for warning in &report.warnings {
        say(&format!("warning: {warning}"));
    }
    for error in &report.errors {
        say(&format!("error: {error}"));
    }
    match report.errors.len() {
        0 => Ok(()),
        count => bail!("tidy found {count} broken rules"),
    }
}
