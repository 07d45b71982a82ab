//! `crabbox claims`

use clap::{Args, Subcommand};
use crabbox_state::{ClaimStore, Disk};

use super::flags::JsonFlag;
use crate::ending::Ending;
use crate::session::Session;

/// Shows which checkouts of this machine use which leases.
#[derive(Args, Clone, Debug)]
pub(crate) struct ClaimsArgs {
    #[command(subcommand)]
    command: ClaimsCommand,
}

#[derive(Clone, Debug, Subcommand)]
enum ClaimsCommand {
    /// Lists the claim files of this machine without asking any provider.
    List(JsonFlag),
}

/// Runs it.
pub(crate) fn run(args: ClaimsArgs, session: &Session) -> anyhow::Result<Ending> {
    let ClaimsCommand::List(output) = args.command;
    let listing = ClaimStore::new(&session.dirs()?, Disk::new()).listing()?;
    let text = if output.json {
        listing.to_json()?
    } else {
        listing.to_text()
    };
    session.output.data(text.as_bytes())?;
    Ok(if listing.has_problems() {
        Ending::explained(2)
    } else {
        Ending::success()
    })
}
