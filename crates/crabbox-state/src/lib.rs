//! What Crabbox keeps on this machine: claims, the crash journal, keys, known hosts, run records and checkpoints.
//!
//! Everything here is synchronous and takes what it needs as arguments: directories ([`Dirs`]), the disk ([`Disk`]),
//! the time. Nothing reads the environment. Every file is written through [`Disk`], so that tests can stop a process
//! or fill the disk before any single effect.
//!
//! | Module | Holds |
//! |---|---|
//! | [`dirs`] | where things are |
//! | [`disk`] | durable, atomic writes |
//! | [`lock`] | advisory locks between processes |
//! | [`claims`] | which checkout uses which lease, interoperable with the Go implementation |
//! | [`journal`] | what was asked of a provider and not yet given back |
//! | [`keys`], [`known_hosts`] | SSH material of one lease |
//! | [`runs`] | records, events and logs of runs |
//! | [`checkpoints`] | checkpoint records and archives |
//! | [`process`] | whether the process that wrote a record still lives |
//! | [`random`], [`slugs`] | new identities |

pub mod checkpoints;
pub mod claims;
pub mod dirs;
pub mod disk;
mod guard;
pub mod journal;
mod json;
pub mod keys;
pub mod known_hosts;
pub mod lock;
pub mod problem;
pub mod process;
pub mod random;
mod read;
pub mod runs;
pub mod slugs;
mod time;

pub use checkpoints::CheckpointStore;
pub use claims::ClaimStore;
pub use dirs::Dirs;
pub use disk::Disk;
pub use journal::Journal;
pub use keys::KeyStore;
pub use problem::{Problem, ProblemCode};
pub use runs::RunStore;
