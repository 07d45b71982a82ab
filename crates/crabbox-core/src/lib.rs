//! The contract between Crabbox's engine and its providers.
//!
//! A provider crate implements [`Provider`] and [`Backend`] and one of the two shapes, [`SshLeaseBackend`] or
//! [`DelegatedRunBackend`]. It says what it can do and offers a few primitives; the engine owns every workflow.

pub mod authority;
pub mod backend;
pub mod duration;
pub mod error;
pub mod id;
pub mod labels;
pub mod machine;
pub mod options;
pub mod remote;
pub mod request;
pub mod runtime;
pub mod secret;
pub mod section;
pub mod settings;
pub mod spec;
pub mod view;

// The derive names this crate by its public name, also in the tests here.
extern crate self as crabbox_core;

pub use authority::VerifiedBinding;
pub use backend::{Backend, Capabilities, DelegatedRunBackend, Lifecycle, Provider, SshLeaseBackend};
pub use crabbox_derive::Section;
pub use error::{Error, ErrorKind, Facts, IntoError, Result, ResultExt};
pub use id::{CheckpointId, LeaseId, RunId, Slug};
pub use labels::Labels;
pub use machine::{Binding, Inventory, Machine, MachineState, Observed, Outcome, ResourceId, Scope};
pub use remote::Remote;
pub use request::{CreateLease, Journal};
pub use runtime::Runtime;
pub use section::Section;
pub use settings::Settings;
pub use spec::{Feature, ProviderKind, ProviderSpec, Target};
pub use view::{LeaseView, StatusView};
