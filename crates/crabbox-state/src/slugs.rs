//! Choosing the friendly name of a new lease.

use crabbox_core::{Error, LeaseId, Result, Slug};

/// Attempts with a numbered seed before the lease id itself is the seed.
const NUMBERED_ATTEMPTS: usize = 20;

/// Finds a free slug for a lease: the requested or derived one, else the same with a collision suffix.
///
/// `taken` says whether somebody has a slug: the provider's inventory, the claims of this machine. Where certainty
/// matters (a requested slug) it returns an error when it cannot tell; that error ends the search. To keep two
/// processes from choosing the same one, hold [`ClaimStore::lock_named`](crate::ClaimStore::lock_named) with
/// [`ALLOCATION_LOCK`] until the claim is written.
///
/// # Errors
/// `Usage` when every candidate is taken; whatever `taken` returns.
pub fn allocate(
    lease: &LeaseId,
    requested: Option<&Slug>,
    mut taken: impl FnMut(&Slug) -> Result<bool>,
) -> Result<Slug> {
    let base = requested.cloned().unwrap_or_else(|| Slug::for_lease(lease));
    if !taken(&base)? {
        return Ok(base);
    }
    let seeds = (1..=NUMBERED_ATTEMPTS)
        .map(|attempt| format!("{lease}-{attempt}"))
        .chain([lease.to_string()]);
    for seed in seeds {
        let candidate = base.with_suffix(&seed);
        if !taken(&candidate)? {
            return Ok(candidate);
        }
    }
    Err(
        Error::usage(format!("could not allocate a unique lease slug: `{base}`"))
            .with_hint("choose another name with --slug, or stop leases you no longer need"),
    )
}

/// Name of the lock that makes "is it free" and "take it" one step.
pub const ALLOCATION_LOCK: &str = "slug-allocation";

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn lease() -> LeaseId {
        "cbx_abcdef123456".parse().unwrap()
    }

    #[test]
    fn a_free_slug_is_taken_as_it_is() {
        assert_eq!(allocate(&lease(), None, |_| Ok(false)).unwrap().as_str(), "blue-prawn");
        let wish: Slug = "mine".parse().unwrap();
        assert_eq!(allocate(&lease(), Some(&wish), |_| Ok(false)).unwrap(), wish);
    }

    #[test]
    fn the_order_of_a_derived_slug_is_that_of_the_contract() {
        let mut asked = Vec::new();
        let error = allocate(&lease(), None, |slug| {
            asked.push(slug.clone());
            Ok(true)
        })
        .unwrap_err();
        assert_eq!(asked, Slug::candidates(&lease()).collect::<Vec<_>>());
        assert_eq!(asked.last().unwrap().as_str(), "blue-prawn-2195");
        assert_eq!(
            error.to_string(),
            "could not allocate a unique lease slug: `blue-prawn`"
        );
        assert_eq!(error.kind().exit_code(), 2);
    }

    #[test]
    fn a_taken_slug_gets_a_suffix_that_is_free() {
        let wish: Slug = "mine".parse().unwrap();
        let mut have = BTreeSet::from([wish.clone()]);
        for _ in 0..10 {
            let slug = allocate(&lease(), Some(&wish), |slug| Ok(have.contains(slug))).unwrap();
            assert!(slug.as_str().starts_with("mine-"));
            assert!(have.insert(slug));
        }
    }

    #[test]
    fn uncertainty_ends_the_search() {
        let error = allocate(&lease(), None, |_| Err(Error::identity("claims unreadable"))).unwrap_err();
        assert_eq!(error.to_string(), "claims unreadable");
    }
}
