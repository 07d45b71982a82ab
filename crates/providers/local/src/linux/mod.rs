//! Boxes made of Linux namespaces.
//!
//! Three kinds of processes take part. The *client* is Crabbox itself. The *supervisor* is a detached process of the
//! same executable that builds one box and holds it. The *first process* runs inside the box, as the box, and starts
//! commands there. Clients speak to the two others through sockets in the box directory, and hand over the descriptors
//! of a command's streams, so that output goes straight from the command to the client.

mod agent;
mod cgroup;
mod command;
mod confine;
mod files;
mod probe;
mod process;
mod stage;
mod supervisor;
mod sys;
mod wire;

pub(crate) mod client;

pub(crate) use cgroup::describe as describe_groups;
pub(crate) use probe::{HostFacts, NAMESPACE_CURE, is_privileged};
pub(crate) use process::is_alive;
pub(crate) use supervisor::main as helper_main;
