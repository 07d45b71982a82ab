//! What `crabbox init` writes.

mod detect;
mod template;

pub(crate) use detect::{Detected, detect};
pub(crate) use template::render;
