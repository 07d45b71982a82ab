//! `crabbox version`

use clap::Args;

use crate::ending::Ending;
use crate::session::Session;

/// Prints the version.
#[derive(Args, Clone, Debug)]
pub(crate) struct VersionArgs {}

/// Runs it.
pub(crate) fn run(_args: VersionArgs, session: &Session) -> anyhow::Result<Ending> {
    session.output.line(crate::VERSION)?;
    Ok(Ending::success())
}
