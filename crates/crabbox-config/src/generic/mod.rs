//! The sections that belong to no provider.

mod broker;
mod cloud;
mod named;
mod selection;
mod work;

use crabbox_core::section::{Section as _, SectionSchema};

pub use broker::{Broker, BrokerMode, TokenCommand};
pub use cloud::{Actions, Cache, CacheVolume, CacheVolumes, Capacity, Static, Tags, Tailscale};
pub use named::{Job, Preset, Profile, ProofTemplate, StopPolicy};
pub use selection::{Architecture, DesktopEnvironment, Network, Selection};
pub use work::{Forwarding, Port, Ports, Results, Run, Shard, Ssh, SshTransport, Sync, SyncSource};

/// Sections with one place in a file, in the order of the reference page.
pub(crate) const SINGLE: &[&SectionSchema] = &[
    Selection::SCHEMA,
    Broker::SCHEMA,
    Ssh::SCHEMA,
    Sync::SCHEMA,
    Run::SCHEMA,
    Forwarding::SCHEMA,
    Results::SCHEMA,
    Shard::SCHEMA,
    Capacity::SCHEMA,
    Actions::SCHEMA,
    Tailscale::SCHEMA,
    Static::SCHEMA,
    Cache::SCHEMA,
];

/// Sections that repeat under names of the user's choice, with every place they have.
pub(crate) const NAMED: &[(&str, &SectionSchema)] = &[
    ("profiles.*", Profile::SCHEMA),
    ("profiles.*.presets.*", Preset::SCHEMA),
    ("profiles.*.proofTemplates.*", ProofTemplate::SCHEMA),
    ("presets.*", Preset::SCHEMA),
    ("proofTemplates.*", ProofTemplate::SCHEMA),
    ("jobs.*", Job::SCHEMA),
];
