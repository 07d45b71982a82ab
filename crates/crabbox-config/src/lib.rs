//! Settings: files, variables and flags become typed values that know where they came from.
//!
//! Layers, weakest first: the declarations' defaults, the user's own file, repository files from the root of the repository
//! down to the working directory, variables, flags. [`Loader`] reads and merges them into a [`Config`]. Each key is declared
//! once, in a struct with `#[derive(Section)]`; everything here works from those declarations.
//!
//! A repository file is trusted to choose commands, not to choose local programs or where an operator's credentials go:
//! keys of such a kind are left out with a [`Warning`], and [`Config::broker`] and `Settings::section` refuse to combine a
//! repository's destination with an operator's secret.

mod class;
mod config;
mod edit;
mod file;
mod generic;
mod known;
mod layer;
mod load;
mod locate;
mod preset;
mod reference;
mod registry;
mod show;
mod template;
mod trust;
mod write;
mod yaml;

pub use class::{CLASSES, machine_types};
pub use config::{Config, ProviderSelection, ProviderSource};
pub use generic::{
    Actions, Architecture, Broker, BrokerMode, Cache, CacheVolume, CacheVolumes, Capacity, DesktopEnvironment,
    Forwarding, Job, Network, Port, Ports, Preset, Profile, ProofTemplate, Results, Run, Selection, Shard, Ssh,
    SshTransport, Static, StopPolicy, Sync, SyncSource, Tags, Tailscale, TokenCommand,
};
pub use layer::{FlagValue, Warning};
pub use load::{Loaded, Loader, SourceFile};
pub use locate::{Platform, repository_root, user_file, writable_file};
pub use preset::{ExpandedPreset, PresetCommand, Word, preset_variables};
pub use reference::{flag_keys, reference};
pub use show::ShowContext;
pub use template::Template;
pub use write::{BrokerChange, BrokerWritten, ConfigFile, permissions_problem, remove_broker_token};
