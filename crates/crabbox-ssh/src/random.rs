//! Tokens that nobody can guess.

use crabbox_core::id::hex;
use crabbox_core::{ErrorKind, IntoError as _, Result};

/// Lowercase hexadecimal digits of `N` random bytes.
pub(crate) fn token<const N: usize>() -> Result<String> {
    let mut bytes = [0_u8; N];
    getrandom::fill(&mut bytes)
        .map_err(|cause| std::io::Error::other(cause.to_string()))
        .or_error(ErrorKind::Other, || "read randomness".to_owned())?;
    Ok(hex(&bytes))
}
