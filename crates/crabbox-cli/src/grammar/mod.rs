//! The grammar of arguments: Go's flags on top of clap.
//!
//! Arguments are rewritten into the one spelling that clap is configured for, from tables that are read off the clap
//! commands themselves, so that a new flag needs no second declaration.

mod normalize;
mod shape;
mod usage;

pub(crate) use normalize::{Normalized, normalize};
pub(crate) use shape::boolean;
pub(crate) use shape::{for_display, for_parsing};
pub(crate) use usage::usage_error;

/// Reads a boolean in Go's spellings.
///
/// # Errors
/// Text for a person when it is none of them.
pub(crate) fn go_boolean(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("neither `true` nor `false`".to_owned()),
    }
}
