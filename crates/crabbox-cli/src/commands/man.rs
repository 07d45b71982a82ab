//! `crabbox man`

use clap::Args;
use clap_mangen::Man;
use crabbox_core::Error;

use crate::ending::Ending;
use crate::session::Session;

/// Prints the manual page of a command, in roff.
#[derive(Args, Clone, Debug)]
pub(crate) struct ManArgs {
    /// The command, such as `checkpoint fork`; the program itself without one.
    #[arg(value_name = "COMMAND", num_args = 0..)]
    command: Vec<String>,
}

/// Runs it.
pub(crate) fn run(args: ManArgs, session: &Session) -> anyhow::Result<Ending> {
    let mut root = crate::command();
    root.build();
    let mut found = &root;
    for name in &args.command {
        found = found.find_subcommand(name).ok_or_else(|| {
            Error::usage(format!("unknown command: `{}`", name.escape_debug()))
                .with_hint("`crabbox help` lists the commands")
        })?;
    }
    let title = found.get_display_name().unwrap_or_else(|| found.get_name()).to_owned();
    let mut page = Vec::new();
    Man::new(found.clone().name(title)).render(&mut page)?;
    session.output.data(&page)?;
    Ok(Ending::success())
}
