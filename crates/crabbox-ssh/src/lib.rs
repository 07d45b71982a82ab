//! How Crabbox reaches a box over SSH.
//!
//! [`Session`] is an authenticated way to one box, shared by any number of commands; [`SshRemote`] makes it a
//! [`Remote`](crabbox_core::Remote). The protocol is spoken in this process; [`OpenSsh`] runs the system's client
//! instead, for configurations that need it, with the same behaviour. On the box a POSIX shell suffices.
//!
//! - [`Destination`] says where and how; [`SshConfig`] fills one from the user's own `ssh_config`.
//! - [`HostKeyPolicy`] says which host keys are trusted, and [`ConnectFailure`] in which phase a connection failed.
//! - [`readiness`] waits for a box that is still starting.
//! - [`workspace_lock`] lets one client at a time change a workspace, even when a client is lost.
//! - [`target`] quotes and wraps commands for the shells of each operating system.

mod bootstrap;
mod channel;
mod client_command;
mod connection;
mod destination;
mod dial;
mod exec;
mod failure;
mod files;
mod forward;
mod host_key;
mod identity;
mod interactive;
mod known_hosts;
mod marker;
mod openssh;
mod random;
pub mod readiness;
mod remote;
mod session;
mod ssh_config;
pub mod target;
mod terminate;
pub mod workspace_lock;

pub use destination::{ChildEnvironment, Destination, HostKeyPolicy, Proxy};
pub use failure::{ConnectFailure, Phase};
pub use forward::{ForwardListener, ForwardTarget, LocalForward};
pub use interactive::{Pty, PtyEvent, TerminalSize, attach};
pub use openssh::{OpenSsh, OpenSshOptions};
pub use remote::SshRemote;
pub use session::Session;
pub use ssh_config::{HostConfig, SshConfig};
