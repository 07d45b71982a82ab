//! What travels to a box, and how it is put there.
//!
//! A [`Source`] is found from a directory, [`Rules`] say what of it travels, and a [`Manifest`] is one look at it. From a
//! manifest come the guardrail and the plan, the fingerprint and the tree hash, an archive, or a directory made equal.
//! Nothing here starts a program, prints, or reads the environment beyond where git's own config lies.

#[cfg(unix)]
pub mod apply;
pub mod archive;
#[cfg(unix)]
mod beneath;
#[cfg(unix)]
pub mod extract;
pub mod fingerprint;
pub mod glob;
pub mod guardrail;
pub mod manifest;
mod paths;
pub mod plan;
pub mod remote_archive;
pub mod rules;
pub mod source;
pub mod stat_cache;
pub mod tree_hash;

pub use fingerprint::{FingerprintHeader, fingerprint};
pub use guardrail::{Guardrail, Limits, Scope};
pub use manifest::{Entry, EntryKind, Manifest};
pub use plan::Plan;
pub use rules::Rules;
pub use source::{Source, SourceKind, SourceOptions};
pub use stat_cache::StatCache;
pub use tree_hash::TreeHash;
