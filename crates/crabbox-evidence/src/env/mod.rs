//! Which variables travel to the box, with which values, and what may be said about them.

mod profile;
mod select;

pub use profile::{
    MAX_PROFILE_BYTES, Profile, Skipped, parse_probe, probe_script, remote_path, remove_script, upload_script,
};
pub use select::{Forwarding, Reserved, Selection};

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use crate::command::quote;

/// Parts of a name that mark its value as secret.
const SECRET_MARKERS: [&str; 7] = ["KEY", "TOKEN", "SECRET", "PASSWORD", "PASS", "CREDENTIAL", "AUTH"];

/// Shortest value that [`secret_values`] takes for a secret by value alone.
const MIN_SECRET_BYTES: usize = 4;

/// Patterns that are allowed when nobody says otherwise.
pub const DEFAULT_ALLOW: [&str; 2] = ["CI", "NODE_OPTIONS"];

/// Whether a shell can assign to this name: a letter or `_`, then letters, digits and `_`.
pub fn is_valid_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes
        .next()
        .is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// Whether the name says that its value is secret.
pub fn is_secret_name(name: &str) -> bool {
    let upper = name.to_ascii_uppercase();
    SECRET_MARKERS.iter().any(|marker| upper.contains(marker))
}

/// What the redactor must know about forwarded variables: every value of at least four bytes, and every non-empty value
/// whose name marks it as secret.
pub fn secret_values(env: &BTreeMap<String, String>) -> Vec<String> {
    env.iter()
        .filter(|(name, value)| value.len() >= MIN_SECRET_BYTES || (is_secret_name(name) && !value.is_empty()))
        .map(|(_, value)| value.clone())
        .collect()
}

/// Who wrote a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Author {
    /// A file of the repository: whoever can open a pull request.
    Repository,
    /// The person at this machine: user config, environment, flag, or the default.
    Operator,
}

/// What the allowlist says about a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It travels.
    Allowed,
    /// Only a repository file asks for it, and it names a credential.
    Refused,
    /// Nobody asks for it.
    Unlisted,
}

/// Which local variables may travel.
///
/// A pattern is an exact, case-sensitive name, or a prefix when it ends in `*`. A bare `*` is ignored.
#[derive(Clone, Debug, Default)]
pub struct Allowlist {
    patterns: Vec<(String, Author)>,
    credentials: BTreeSet<String>,
}

impl Allowlist {
    /// Allows nothing. The names hold credentials of providers or of the coordinator: no pattern of a repository file
    /// reaches them, exact or by prefix.
    pub fn new<S: AsRef<str>>(credential_names: impl IntoIterator<Item = S>) -> Self {
        // Compared without case, since Windows and careless scripts do too.
        let credentials = credential_names
            .into_iter()
            .map(|name| name.as_ref().to_ascii_uppercase())
            .collect();
        Self {
            patterns: Vec::new(),
            credentials,
        }
    }

    /// Adds patterns. Empty ones and a bare `*` are ignored; so are repetitions.
    pub fn allow<S: AsRef<str>>(&mut self, patterns: impl IntoIterator<Item = S>, author: Author) -> &mut Self {
        for pattern in patterns {
            let pattern = pattern.as_ref().trim();
            if pattern.trim_end_matches('*').is_empty() {
                continue;
            }
            match self.patterns.iter_mut().find(|(known, _)| known == pattern) {
                Some((_, known)) => *known = author.max(*known),
                None => self.patterns.push((pattern.to_owned(), author)),
            }
        }
        self
    }

    /// What the list says about a name.
    pub fn decide(&self, name: &str) -> Decision {
        let authors = self
            .patterns
            .iter()
            .filter(|(pattern, _)| matches(pattern, name))
            .map(|(_, author)| *author);
        match authors.max() {
            None => Decision::Unlisted,
            Some(Author::Repository) if self.credentials.contains(&name.to_ascii_uppercase()) => Decision::Refused,
            Some(_) => Decision::Allowed,
        }
    }

    /// Whether a name may travel.
    pub fn allows(&self, name: &str) -> bool {
        self.decide(name) == Decision::Allowed
    }

    /// The patterns in the order in which they were added.
    pub fn patterns(&self) -> impl Iterator<Item = &str> {
        self.patterns.iter().map(|(pattern, _)| pattern.as_str())
    }

    /// Names without `*`, in order: what a report can speak of even when they are not set.
    pub fn exact_names(&self) -> impl Iterator<Item = &str> {
        self.patterns().filter(|pattern| !pattern.ends_with('*'))
    }
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => pattern == name,
    }
}

/// Splits a comma list of patterns, as `CRABBOX_ENV_ALLOW` and `--allow-env` write it.
pub fn parse_names(list: &str) -> Vec<String> {
    list.split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

/// What may be said about one variable: `NAME=set`, `NAME=empty`, or `NAME=set len=12 secret=true`. Never its value.
pub fn describe(name: &str, value: &str) -> String {
    if value.is_empty() {
        return format!("{name}=empty");
    }
    if is_secret_name(name) {
        return format!("{name}=set len={} secret=true", value.len());
    }
    format!("{name}=set")
}

/// The line that tells which variables travel.
///
/// `behavior` is what the provider does with them, usually `forwarded`. Without any variable the line names the patterns
/// that found none.
pub fn summary_line(provider: &str, behavior: &str, env: &BTreeMap<String, String>, allowlist: &Allowlist) -> String {
    let head = format!("env forwarding provider={provider} behavior={behavior}");
    if env.is_empty() {
        let patterns: Vec<&str> = allowlist.patterns().collect();
        let patterns = if patterns.is_empty() {
            "none".to_owned()
        } else {
            patterns.join(",")
        };
        return format!("{head} matched=none allow={patterns}");
    }
    let vars: Vec<String> = env.iter().map(|(name, value)| describe(name, value)).collect();
    format!("{head} vars={}", vars.join(","))
}

/// Lines of `export NAME='value'` in the order of their names, for a file that a POSIX shell sources.
pub fn export_lines(env: &BTreeMap<String, String>) -> String {
    env.iter()
        .filter(|(name, _)| is_valid_name(name))
        .fold(String::new(), |mut lines, (name, value)| {
            // Writing to a string cannot fail.
            let _ = writeln!(lines, "export {name}={}", quote(value));
            lines
        })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{
        Allowlist, Author, Decision, describe, export_lines, is_secret_name, is_valid_name, parse_names, secret_values,
        summary_line,
    };

    fn env(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn patterns_are_exact_or_prefixes() {
        let mut list = Allowlist::new::<&str>([]);
        list.allow(["CI", "NPM_*", "*", "", " "], Author::Operator);
        assert!(list.allows("CI") && list.allows("NPM_TOKEN") && list.allows("NPM_"));
        assert!(!list.allows("ci") && !list.allows("CIX") && !list.allows("HOME"));
        assert_eq!(list.patterns().collect::<Vec<_>>(), ["CI", "NPM_*"]);
        assert_eq!(list.exact_names().collect::<Vec<_>>(), ["CI"]);
    }

    #[test]
    fn a_repository_cannot_reach_a_credential() {
        let mut list = Allowlist::new(["HCLOUD_TOKEN", "CRABBOX_COORDINATOR_TOKEN"]);
        list.allow(
            ["HCLOUD_TOKEN", "CRABBOX_*", "hcloud_token", "APP_TOKEN"],
            Author::Repository,
        );
        assert_eq!(list.decide("HCLOUD_TOKEN"), Decision::Refused);
        assert_eq!(list.decide("hcloud_token"), Decision::Refused);
        assert_eq!(list.decide("CRABBOX_COORDINATOR_TOKEN"), Decision::Refused);
        assert_eq!(list.decide("APP_TOKEN"), Decision::Allowed);
        assert_eq!(list.decide("OTHER"), Decision::Unlisted);
        list.allow(["HCLOUD_TOKEN"], Author::Operator);
        assert_eq!(list.decide("HCLOUD_TOKEN"), Decision::Allowed);
        list.allow(["HCLOUD_TOKEN"], Author::Repository);
        assert_eq!(list.decide("HCLOUD_TOKEN"), Decision::Allowed);
    }

    #[test]
    fn names_are_judged() {
        assert!(is_valid_name("_A1") && !is_valid_name("1A") && !is_valid_name("") && !is_valid_name("A-B"));
        assert!(is_secret_name("npm_auth") && is_secret_name("MyKey") && !is_secret_name("CI"));
        assert_eq!(parse_names(" A, ,B*,"), ["A", "B*"]);
        assert_eq!(
            secret_values(&env(&[("CI", "1"), ("PASS", "x"), ("LONG", "abcd"), ("KEY", "")])),
            ["abcd", "x"]
        );
    }

    #[test]
    fn summaries_never_show_values() {
        let vars = env(&[("API_KEY", "abc"), ("CI", "1"), ("EMPTY_TOKEN", "")]);
        let mut list = Allowlist::new::<&str>([]);
        list.allow(["CI", "X_*"], Author::Operator);
        assert_eq!(
            summary_line("local", "forwarded", &vars, &list),
            "env forwarding provider=local behavior=forwarded vars=API_KEY=set len=3 secret=true,CI=set,EMPTY_TOKEN=empty"
        );
        assert_eq!(
            summary_line("local", "forwarded", &env(&[]), &list),
            "env forwarding provider=local behavior=forwarded matched=none allow=CI,X_*"
        );
        assert_eq!(describe("A", "b"), "A=set");
    }

    #[test]
    fn exported_lines_are_sorted_and_quoted() {
        assert_eq!(
            export_lines(&env(&[("B", "it's"), ("A", ""), ("a-b", "x")])),
            "export A=''\nexport B='it'\\''s'\n"
        );
    }
}
