//! What differs from run to run, replaced by words.

use std::path::Path;

use regex::Regex;

/// Replaces ids, paths, times, durations, ports and process ids in output, so that it can be a snapshot.
#[derive(Clone, Debug)]
pub struct Normaliser {
    rules: Vec<(Regex, String)>,
}

/// In this order: what is longer and more special comes first.
const RULES: &[(&str, &str)] = &[
    (r"\bcbx_[0-9a-f]{12}\b", "[LEASE]"),
    (r"\bcbx-[0-9a-f]{12}\b", "[LEASE-KEY]"),
    (r"\brun_[0-9a-f]{12}\b", "[RUN]"),
    (r"\b(chk|ckpt|cp)_[0-9a-zA-Z-]{8,}", "[CHECKPOINT]"),
    (r"\bcat_[0-9a-f]{32}\b", "[ATTEMPT]"),
    (r"\bcrabbox-[a-z0-9-]+-[0-9a-f]{8}\b", "[NAME]"),
    (
        r"\b(amber|blue|brisk|coral|crimson|golden|harbor|jade|pearl|quick|silver|swift|tidal|violet)-(barnacle|crab|crayfish|hermit|krill|lobster|prawn|shrimp)(-[0-9a-f]{4})?\b",
        "[SLUG]",
    ),
    (r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", "[TIME]"),
    (r"\b(127\.0\.0\.1|localhost|\[::1\]):\d+\b", "$1:[PORT]"),
    (r"\bpid[ =:]+\d+\b", "pid [PID]"),
    (r#"("[a-zA-Z]*Ms": ?)\d+"#, "${1}0"),
    (r"\b(\d+h)?(\d+m)?\d+(\.\d+)?(ns|µs|us|ms|s)\b", "[DURATION]"),
    (r"\b[0-9a-f]{64}\b", "[SHA256]"),
    (r"\b[0-9a-f]{40}\b", "[SHA1]"),
    (r"\b[0-9a-f]{32}\b", "[HEX32]"),
];

impl Normaliser {
    /// The rules that every test needs.
    ///
    /// # Panics
    /// Never: the rules are tested.
    pub fn new() -> Self {
        let compile =
            |(pattern, word): &(&str, &str)| (Regex::new(pattern).expect("the rules are valid"), (*word).to_owned());
        Self {
            rules: RULES.iter().map(compile).collect(),
        }
    }

    /// Replaces a path before everything else.
    ///
    /// # Panics
    /// Never: the text is escaped.
    #[must_use]
    pub fn path(mut self, path: &Path, word: &str) -> Self {
        let pattern = regex::escape(&path.to_string_lossy());
        self.rules.insert(
            0,
            (Regex::new(&pattern).expect("an escaped text is valid"), word.to_owned()),
        );
        self
    }

    /// Replaces what a pattern matches, after everything else.
    ///
    /// # Panics
    /// When the pattern is not a regular expression.
    #[must_use]
    pub fn rule(mut self, pattern: &str, word: &str) -> Self {
        self.rules.push((
            Regex::new(pattern).expect("the pattern is a regular expression"),
            word.to_owned(),
        ));
        self
    }

    /// Replaces.
    pub fn apply(&self, text: &str) -> String {
        self.rules.iter().fold(text.to_owned(), |text, (pattern, word)| {
            pattern.replace_all(&text, word).into_owned()
        })
    }
}

impl Default for Normaliser {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_becomes_words() {
        let normaliser = Normaliser::new().path(Path::new("/tmp/cbx-Ab12"), "[HOME]");
        for (text, normal) in [
            (
                "leased cbx_0123456789ab slug=blue-prawn-2195 in 1m3.2s",
                "leased [LEASE] slug=[SLUG] in [DURATION]",
            ),
            ("/tmp/cbx-Ab12/repo at 2026-01-02T03:04:05.6Z", "[HOME]/repo at [TIME]"),
            (
                "crabbox-blue-prawn-01234567 on 127.0.0.1:4022",
                "[NAME] on 127.0.0.1:[PORT]",
            ),
            (r#"{"syncMs":12,"exitCode":3}"#, r#"{"syncMs":0,"exitCode":3}"#),
            ("3 files, 12 bytes, exit 7", "3 files, 12 bytes, exit 7"),
        ] {
            assert_eq!(normaliser.apply(text), normal);
        }
    }
}
