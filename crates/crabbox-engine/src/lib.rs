//! The workflows: everything `crabbox` does, as a library.
//!
//! The command line calls nothing else. An [`Engine`] has a registry of providers, a config, a state directory and a
//! place for events; its methods are the workflows:
//!
//! - [`Engine::run`], [`Engine::warmup`], [`Engine::stop`], [`Engine::cleanup`]
//! - [`Engine::list`], [`Engine::status`], [`Engine::inspect`], [`Engine::heartbeat`], [`Engine::pause`],
//!   [`Engine::resume`]
//! - [`Engine::checkpoint_create`], [`Engine::checkpoint_fork`] and their siblings
//! - [`Engine::copy`], [`Engine::sync_plan`], [`Engine::doctor`]
//!
//! An `Err` from a workflow means that nothing was left behind; whatever fails later is part of its outcome.

mod acquire;
pub mod api;
mod checkout;
mod checkpoint;
mod cleanup;
mod copy;
mod doctor;
mod engine;
pub mod event;
mod keepalive;
mod known;
mod lease;
mod ledger;
mod manage;
mod open;
pub mod registry;
mod release;
mod remote;
mod resolve;
mod run;
mod settings;
pub mod step;
mod workspace;

pub use checkpoint::{CheckpointAudit, ForkOutput, Prune};
pub use engine::{Engine, EngineBuilder};
pub use event::{Event, EventSink};
pub use open::process_environment;
pub use registry::Registry;
pub use step::Step;
