//! Identities from the operating system's randomness. When there is none, that is an error, never a weaker identity.

use crabbox_core::id::hex;
use crabbox_core::{CheckpointId, Error, LeaseId, Result, RunId};

/// Reads random bytes.
///
/// # Errors
/// `Other` when the operating system has none to give.
pub fn bytes<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|cause| {
        Error::other("read random bytes from the operating system")
            .with_source(cause.to_string())
            .with_hint("identities and keys need randomness; on Linux check that getrandom(2) is permitted")
    })?;
    Ok(bytes)
}

/// Makes a lease id: `cbx_` and 12 hex digits.
///
/// # Errors
/// `Other`, as [`bytes`].
pub fn lease_id() -> Result<LeaseId> {
    Ok(LeaseId::from_random(bytes()?))
}

/// Makes a run id: `run_` and 12 hex digits.
///
/// # Errors
/// `Other`, as [`bytes`].
pub fn run_id() -> Result<RunId> {
    Ok(RunId::from_random(bytes()?))
}

/// Makes a checkpoint id: `chk_` and 16 hex digits.
///
/// # Errors
/// `Other`, as [`bytes`].
pub fn checkpoint_id() -> Result<CheckpointId> {
    Ok(CheckpointId::from_random(bytes()?))
}

/// Makes the token of one create attempt: `cat_` and 32 hex digits.
///
/// # Errors
/// `Other`, as [`bytes`].
pub fn attempt_token() -> Result<String> {
    Ok(format!("cat_{}", hex(&bytes::<16>()?)))
}

/// Makes a record revision: 32 hex digits, new for every write, so that equal content written twice still differs.
///
/// # Errors
/// `Other`, as [`bytes`].
pub fn revision() -> Result<String> {
    Ok(hex(&bytes::<16>()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_have_their_published_shape() {
        assert!(lease_id().unwrap().is_canonical());
        assert_eq!(run_id().unwrap().as_str().len(), 16);
        assert_eq!(checkpoint_id().unwrap().as_str().len(), 20);
        assert_eq!(attempt_token().unwrap().len(), 36);
        assert_ne!(revision().unwrap(), revision().unwrap());
    }
}
