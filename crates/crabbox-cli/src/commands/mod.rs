//! The commands, one file each. This one only dispatches.

mod checkpoint;
mod claims;
mod cleanup;
mod completion;
mod config;
mod cp;
mod doctor;
mod events;
pub(crate) mod flags;
mod heartbeat;
mod history;
mod init;
mod inspect;
mod job;
mod list;
mod logs;
mod man;
mod pause;
pub(crate) mod provider_flags;
mod providers;
mod results;
mod resume;
mod run;
mod status;
mod stop;
mod sync_plan;
mod version;
mod warmup;

use clap::{Args, Subcommand};

use crate::ending::Ending;
use crate::session::Session;

/// Every command, in the order of the help.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Commands {
    Run(Box<run::RunArgs>),
    Warmup(warmup::WarmupArgs),
    List(list::ListArgs),
    Status(status::StatusArgs),
    Inspect(inspect::InspectArgs),
    #[command(visible_alias = "release")]
    Stop(stop::StopArgs),
    Pause(pause::PauseArgs),
    Resume(resume::ResumeArgs),
    Heartbeat(heartbeat::HeartbeatArgs),
    Cleanup(cleanup::CleanupArgs),
    Cp(cp::CpArgs),
    Checkpoint(checkpoint::CheckpointArgs),
    Job(job::JobArgs),
    History(history::HistoryArgs),
    Logs(logs::LogsArgs),
    Events(events::EventsArgs),
    Results(results::ResultsArgs),
    Claims(claims::ClaimsArgs),
    SyncPlan(sync_plan::SyncPlanArgs),
    Doctor(doctor::DoctorArgs),
    Providers(providers::ProvidersArgs),
    Init(init::InitArgs),
    Config(config::ConfigArgs),
    Completion(completion::CompletionArgs),
    Man(man::ManArgs),
    Version(version::VersionArgs),
    #[command(hide = true)]
    Machine(MachineArgs),
}

/// Other names of commands about machines.
#[derive(Args, Clone, Debug)]
pub(crate) struct MachineArgs {
    #[command(subcommand)]
    command: MachineCommand,
}

#[derive(Clone, Debug, Subcommand)]
enum MachineCommand {
    Cleanup(cleanup::CleanupArgs),
}

/// Runs a command. Those that only look at this machine need no runtime and no signal handling.
pub(crate) fn dispatch(command: Commands, session: &Session) -> anyhow::Result<Ending> {
    match command {
        Commands::Run(args) => session.wait(run::run(*args, session)),
        Commands::Warmup(args) => session.wait(warmup::run(args, session)),
        Commands::List(args) => session.wait(list::run(args, session)),
        Commands::Status(args) => session.wait(status::run(args, session)),
        Commands::Inspect(args) => session.wait(inspect::run(args, session)),
        Commands::Stop(args) => session.wait(stop::run(args, session)),
        Commands::Pause(args) => session.wait(pause::run(args, session)),
        Commands::Resume(args) => session.wait(resume::run(args, session)),
        Commands::Heartbeat(args) => session.wait(heartbeat::run(args, session)),
        Commands::Cleanup(args)
        | Commands::Machine(MachineArgs {
            command: MachineCommand::Cleanup(args),
        }) => session.wait(cleanup::run(args, session)),
        Commands::Cp(args) => session.wait(cp::run(args, session)),
        Commands::Checkpoint(args) => session.wait(checkpoint::run(args, session)),
        Commands::Job(args) => session.wait(job::run(args, session)),
        Commands::History(args) => history::run(args, session),
        Commands::Logs(args) => logs::run(args, session),
        Commands::Events(args) => events::run(args, session),
        Commands::Results(args) => results::run(args, session),
        Commands::Claims(args) => claims::run(args, session),
        Commands::SyncPlan(args) => session.wait(sync_plan::run(args, session)),
        Commands::Doctor(args) => session.wait(doctor::run(args, session)),
        Commands::Providers(args) => providers::run(args, session),
        Commands::Init(args) => init::run(&args, session),
        Commands::Config(args) => config::run(args, session),
        Commands::Completion(args) => completion::run(args, session),
        Commands::Man(args) => man::run(args, session),
        Commands::Version(args) => version::run(args, session),
    }
}
