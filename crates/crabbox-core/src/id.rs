//! Identifiers that validate when they are parsed.
//!
//! Formats and hash vectors are those of the Go implementation, so both can share one state directory.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

const ADJECTIVES: [&str; 14] = [
    "amber", "blue", "brisk", "coral", "crimson", "golden", "harbor", "jade", "pearl", "quick", "silver", "swift",
    "tidal", "violet",
];
const NOUNS: [&str; 8] = [
    "barnacle", "crab", "crayfish", "hermit", "krill", "lobster", "prawn", "shrimp",
];

/// Longest slug, in characters, so that every provider can use it in a resource name.
pub const MAX_SLUG_LENGTH: usize = 41;

/// FNV-1a, 32 bits.
pub fn fnv1a_32(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    })
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

text_id! {
    /// Identity of a lease: `cbx_` and 12 hex digits for those made here, a provider's own prefix for others.
    ///
    /// Every lease id is also a safe file name; see [`LeaseId::from_str`].
    LeaseId
}

impl LeaseId {
    /// Makes a canonical id from 6 random bytes.
    pub fn from_random(bytes: [u8; 6]) -> Self {
        Self(format!("cbx_{}", hex(&bytes)))
    }

    /// Whether the id is `cbx_` and 12 lower-case hex digits. Such an id is never tried as a slug.
    pub fn is_canonical(&self) -> bool {
        Self::looks_canonical(&self.0)
    }

    /// Whether a text is a canonical id.
    pub fn looks_canonical(text: &str) -> bool {
        text.strip_prefix("cbx_")
            .is_some_and(|rest| rest.len() == 12 && is_lower_hex(rest))
    }

    /// Name of the lease's key at a provider: `crabbox-cbx-<12 hex>`.
    pub fn provider_key_name(&self) -> String {
        format!("crabbox-{}", self.0.replace('_', "-"))
    }

    /// Name of the lease's resource at a provider: `crabbox-<slug>-<8 hex>`.
    pub fn resource_name(&self, slug: Option<&Slug>) -> String {
        match slug {
            Some(slug) => format!("crabbox-{slug}-{:08x}", fnv1a_32(self.0.as_bytes())),
            None => self.provider_key_name(),
        }
    }
}

/// Accepts any text that is safe as a file name on every platform.
///
/// # Errors
/// `Usage` for an empty text, surrounding space, `.`, `..`, a separator, a control character, a trailing dot or a name
/// that Windows reserves.
impl FromStr for LeaseId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if is_safe_file_name(text) {
            Ok(Self(text.to_owned()))
        } else {
            Err(Error::usage(format!("invalid lease id: `{}`", text.escape_debug()))
                .with_hint("a lease id looks like cbx_0123456789ab; `crabbox list` shows yours"))
        }
    }
}

fn is_safe_file_name(text: &str) -> bool {
    let stem = text.split('.').next().unwrap_or_default().to_ascii_uppercase();
    let reserved = matches!(stem.as_str(), "CON" | "PRN" | "AUX" | "NUL")
        || (stem.len() == 4
            && (stem.starts_with("COM") || stem.starts_with("LPT"))
            && matches!(stem.as_bytes()[3], b'1'..=b'9'));
    !text.is_empty()
        && text.len() <= 200
        && text.trim() == text
        && text != "."
        && text != ".."
        && !text.ends_with('.')
        && !text.starts_with('-')
        && !reserved
        && !text.chars().any(|c| c.is_control() || "<>:\"/\\|?*".contains(c))
}

text_id! {
    /// Friendly name of a lease, such as `blue-prawn`: lower-case letters, digits and single dashes, at most 41.
    Slug
}

impl Slug {
    /// Derives the slug of a lease id. Only 112 exist, so uniqueness comes from a check, never from chance.
    pub fn for_lease(lease: &LeaseId) -> Self {
        let hash = fnv1a_32(lease.as_str().as_bytes()) as usize;
        let adjective = ADJECTIVES[hash % ADJECTIVES.len()];
        let noun = NOUNS[(hash / ADJECTIVES.len()) % NOUNS.len()];
        Self(format!("{adjective}-{noun}"))
    }

    /// Appends the collision suffix of a seed: `-%04x` of its hash.
    #[must_use]
    pub fn with_suffix(&self, seed: &str) -> Self {
        let base: String = self.0.chars().take(MAX_SLUG_LENGTH).collect();
        Self(format!("{base}-{:04x}", fnv1a_32(seed.as_bytes()) & 0xffff))
    }

    /// Names the `index`-th (1-based) of `count` leases: zero padded, the base shortened to fit.
    #[must_use]
    pub fn numbered(&self, index: usize, count: usize) -> Self {
        let suffix = format!("-{index:0width$}", width = count.to_string().len());
        let base: String = self.0.chars().take(MAX_SLUG_LENGTH - suffix.len()).collect();
        Self(format!("{}{suffix}", base.trim_end_matches('-')))
    }

    /// Every slug to try for a lease, first choice first: its own, then 21 with a suffix.
    pub fn candidates(lease: &LeaseId) -> impl Iterator<Item = Self> {
        let base = Self::for_lease(lease);
        let seeds = (1..=20).map({
            let lease = lease.clone();
            move |attempt| format!("{lease}-{attempt}")
        });
        let last = lease.to_string();
        let suffixed = base.clone();
        std::iter::once(base).chain(
            seeds
                .chain(std::iter::once(last))
                .map(move |seed| suffixed.with_suffix(&seed)),
        )
    }
}

/// Normalises what a person typed: lower case, every run of other characters becomes one dash.
///
/// # Errors
/// `Usage` when no letter or digit is left or the result is longer than 41 characters.
impl FromStr for Slug {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let slug = normalize(text);
        if slug.is_empty() {
            return Err(Error::usage(format!("invalid slug: `{}`", text.escape_debug()))
                .with_hint("a slug needs at least one letter or digit"));
        }
        if slug.len() > MAX_SLUG_LENGTH {
            return Err(
                Error::usage(format!("slug longer than {MAX_SLUG_LENGTH} characters: `{slug}`"))
                    .with_hint("choose a shorter --slug"),
            );
        }
        Ok(Self(slug))
    }
}

/// Lower-cases a text and turns every run of characters outside `[a-z0-9]` into one dash, without dashes at its ends.
pub fn normalize(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars().flat_map(char::to_lowercase) {
        if character.is_ascii_alphanumeric() {
            out.push(character);
        } else if !out.is_empty() && !out.ends_with('-') {
            out.push('-');
        }
    }
    out.truncate(out.trim_end_matches('-').len());
    out
}

macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal, $bytes:literal, $what:literal) => {
        text_id! { $(#[$doc])* $name }

        impl $name {
            /// Makes an id from random bytes.
            pub fn from_random(bytes: [u8; $bytes]) -> Self {
                Self(format!(concat!($prefix, "{}"), hex(&bytes)))
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self> {
                let valid = text
                    .strip_prefix($prefix)
                    .is_some_and(|rest| !rest.is_empty() && rest.len() <= 100 && Self::accepts(rest));
                if valid {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(Error::usage(format!(concat!("invalid ", $what, ": `{}`"), text.escape_debug())).with_hint(concat!(
                        "a ", $what, " starts with ", $prefix
                    )))
                }
            }
        }
    };
}

hex_id! {
    /// Identity of one recorded run: `run_` and 12 hex digits.
    RunId, "run_", 6, "run id"
}

impl RunId {
    fn accepts(rest: &str) -> bool {
        rest.bytes().all(|byte| byte.is_ascii_alphanumeric())
    }
}

hex_id! {
    /// Identity of a checkpoint: `chk_` and 16 hex digits when made here; `[A-Za-z0-9_-]` is accepted.
    CheckpointId, "chk_", 8, "checkpoint id"
}

impl CheckpointId {
    fn accepts(rest: &str) -> bool {
        rest.bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
    }
}

/// Lower-case hex of bytes.
pub fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

fn is_lower_hex(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(text: &str) -> LeaseId {
        text.parse().unwrap()
    }

    #[test]
    fn slugs_follow_the_published_vectors() {
        for (id, slug) in [
            ("cbx_000000000001", "tidal-lobster"),
            ("cbx_abcdef123456", "blue-prawn"),
            ("cbx_deadbeefcafe", "silver-crab"),
        ] {
            assert_eq!(Slug::for_lease(&lease(id)).as_str(), slug);
        }
        let slug: Slug = "blue-prawn".parse().unwrap();
        assert_eq!(slug.with_suffix("cbx_abcdef123456").as_str(), "blue-prawn-2195");
        assert_eq!(Slug::candidates(&lease("cbx_abcdef123456")).count(), 22);
    }

    #[test]
    fn requested_slugs_are_normalised_or_refused() {
        assert_eq!("  My Box__42! ".parse::<Slug>().unwrap().as_str(), "my-box-42");
        assert!("--".parse::<Slug>().is_err());
        assert!("a".repeat(42).parse::<Slug>().is_err());
    }

    #[test]
    fn numbered_slugs_are_padded_and_fit() {
        let slug: Slug = "a".repeat(41).parse().unwrap();
        assert_eq!(slug.numbered(3, 10).as_str(), format!("{}-03", "a".repeat(38)));
    }

    #[test]
    fn lease_ids_are_safe_file_names() {
        for bad in [
            "", " a", ".", "..", "a/b", "a\\b", "nul", "COM1.txt", "a.", "a\u{0}", "a:b", "-rf",
        ] {
            assert!(bad.parse::<LeaseId>().is_err(), "{bad:?}");
        }
        assert!(lease("static_host-1").as_str().starts_with("static_"));
        assert!(lease("cbx_abcdef123456").is_canonical());
        assert!(!lease("cbx_ABCDEF123456").is_canonical());
    }

    #[test]
    fn names_at_the_provider() {
        let id = lease("cbx_abcdef123456");
        assert_eq!(id.provider_key_name(), "crabbox-cbx-abcdef123456");
        let slug = Slug::for_lease(&id);
        assert_eq!(
            id.resource_name(Some(&slug)),
            format!("crabbox-blue-prawn-{:08x}", fnv1a_32(b"cbx_abcdef123456"))
        );
    }
}
