//! What a repository file may not set.

use crabbox_core::section::{KeySchema, SettingValue, Trust};

use crate::known::CREDENTIAL_VARIABLES;

/// What becomes of a value from a repository file.
pub(crate) enum Verdict {
    /// It counts.
    Accept(SettingValue),
    /// A part of it counts; the rest is named.
    Trim(SettingValue, Vec<String>),
    /// It does not count.
    Refuse,
}

/// Judges a value from a repository file. `credentials` are the secret variables of the providers of this build.
pub(crate) fn judge(path: &[String], key: &KeySchema, value: SettingValue, credentials: &[&str]) -> Verdict {
    match (key.trust, &value) {
        (Trust::Operator, _)
        | (Trust::OnlyTrue, SettingValue::Boolean(false))
        | (Trust::OnlyFalse, SettingValue::Boolean(true)) => Verdict::Refuse,
        _ => match value {
            SettingValue::List(names) if is_allowlist(path) => {
                let (refused, kept): (Vec<_>, Vec<_>) = names
                    .into_iter()
                    .partition(|name| forwards_credential(name, credentials));
                if refused.is_empty() {
                    Verdict::Accept(SettingValue::List(kept))
                } else {
                    Verdict::Trim(SettingValue::List(kept), refused)
                }
            }
            value => Verdict::Accept(value),
        },
    }
}

fn is_allowlist(path: &[String]) -> bool {
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    matches!(path[..], ["env", "allow"] | ["profiles", _, "envAllow"])
}

/// Whether an allowlist entry names, or as a prefix matches, a variable that holds a credential.
pub(crate) fn forwards_credential(entry: &str, credentials: &[&str]) -> bool {
    let mut known = CREDENTIAL_VARIABLES.iter().chain(credentials);
    match entry.trim().strip_suffix('*') {
        // A bare star never matches anything; see `Config::environment_allow`.
        Some("") => false,
        Some(prefix) => known.any(|name| name.starts_with(prefix)),
        None => known.any(|name| *name == entry.trim()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_recognised_by_name_and_prefix() {
        for entry in [
            "HCLOUD_TOKEN",
            "AWS_*",
            "CRABBOX_*",
            "CRABBOX_COORDINATOR_TOKEN",
            " GITHUB_TOKEN ",
            "G*",
            "ACME_KEY",
        ] {
            assert!(forwards_credential(entry, &["ACME_KEY"]), "{entry}");
        }
        for entry in ["CI", "NODE_*", "AWS_REGION", "RUST_LOG", "*", "hcloud_token", "ACME_KE"] {
            assert!(!forwards_credential(entry, &["ACME_KEY"]), "{entry}");
        }
    }
}
