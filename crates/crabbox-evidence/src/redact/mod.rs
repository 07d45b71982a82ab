//! Removes secrets from text that people will read or share.
//!
//! Two sources: the exact secrets that the caller knows, and shapes that only secrets have (authorization headers, values
//! under sensitive names, URL userinfo, bearer tokens, private keys). Everything found in one look is replaced at once;
//! the look is repeated until nothing is found, so the result of redacting twice is that of redacting once.

mod shapes;

use std::ops::Range;
use std::sync::LazyLock;

use aho_corasick::{AhoCorasick, MatchKind};
use regex::Regex;

use crate::text::compile;

/// Stands where a secret stood.
pub const MARKER: &str = "[redacted]";

/// Stands where somebody else's redactor found a secret.
const OTHER_MARKER: &str = "<redacted>";

/// Looks before the whole text is given up.
const MAX_PASSES: usize = 64;

static MARKERS: LazyLock<Regex> = LazyLock::new(|| compile(r"\[redacted\]|<redacted>"));

/// What is replaced, and whether the string it stood in needs its closing quote.
#[derive(Clone, Debug)]
struct Span {
    range: Range<usize>,
    close: bool,
}

impl Span {
    fn plain(range: Range<usize>) -> Self {
        Self { range, close: false }
    }
}

/// Replaces secrets with [`MARKER`].
#[derive(Clone, Debug, Default)]
pub struct Redactor {
    exact: Option<AhoCorasick>,
}

impl Redactor {
    /// Knows these secrets besides the shapes that every redactor knows. Surrounding whitespace is not part of a secret;
    /// empty ones are ignored.
    pub fn new<S: AsRef<str>>(secrets: impl IntoIterator<Item = S>) -> Self {
        let mut secrets: Vec<String> = secrets
            .into_iter()
            .map(|secret| secret.as_ref().trim().to_owned())
            .filter(|secret| !secret.is_empty())
            .collect();
        secrets.sort_by(|left, right| right.len().cmp(&left.len()).then_with(|| left.cmp(right)));
        secrets.dedup();
        if secrets.is_empty() {
            return Self::default();
        }
        // Overlapping secrets are all found; their spans are merged later.
        let exact = AhoCorasick::builder().match_kind(MatchKind::Standard).build(&secrets);
        #[expect(
            clippy::expect_used,
            reason = "fails only beyond four billion patterns or two gigabytes of them"
        )]
        let exact = exact.expect("secrets fit an automaton");
        Self { exact: Some(exact) }
    }

    /// The text without secrets. A text that keeps revealing secrets becomes [`MARKER`] as a whole.
    pub fn redact(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for _ in 0..MAX_PASSES {
            match self.pass(&text) {
                None => return text,
                Some(next) => text = next,
            }
        }
        if self.pass(&text).is_none() {
            text
        } else {
            MARKER.to_owned()
        }
    }

    /// Looks once. `None` when nothing changes.
    fn pass(&self, text: &str) -> Option<String> {
        let mut spans = Vec::new();
        if let Some(exact) = &self.exact {
            spans.extend(
                exact
                    .find_overlapping_iter(text)
                    .map(|found| Span::plain(found.range())),
            );
        }
        shapes::find(text, &mut spans);
        let spans = merge(text, spans);
        if spans.is_empty() {
            return None;
        }
        let mut redacted = String::with_capacity(text.len());
        let mut position = 0;
        for span in spans {
            redacted.push_str(&text[position..span.range.start]);
            redacted.push_str(MARKER);
            if span.close {
                redacted.push('"');
            }
            position = span.range.end;
        }
        redacted.push_str(&text[position..]);
        Some(redacted)
    }
}

/// Joins what overlaps or touches, swallows markers that are cut, and leaves whole markers alone.
fn merge(text: &str, spans: Vec<Span>) -> Vec<Span> {
    let markers: Vec<Range<usize>> = MARKERS.find_iter(text).map(|found| found.range()).collect();
    let mut kept: Vec<Span> = Vec::with_capacity(spans.len());
    for mut span in spans {
        if span.range.is_empty() {
            continue;
        }
        let first = markers.partition_point(|marker| marker.end <= span.range.start);
        let touched = markers[first..]
            .iter()
            .take_while(|marker| marker.start < span.range.end);
        let mut inside = false;
        let mut range = span.range.clone();
        for marker in touched {
            inside |= marker.start <= span.range.start && marker.end >= span.range.end;
            range = range.start.min(marker.start)..range.end.max(marker.end);
        }
        if inside && !span.close {
            continue;
        }
        span.range = range;
        kept.push(span);
    }
    kept.sort_by_key(|span| (span.range.start, span.range.end));
    let mut merged: Vec<Span> = Vec::with_capacity(kept.len());
    for span in kept {
        match merged.last_mut() {
            Some(last) if span.range.start <= last.range.end => {
                // The quote is owed only when the string opens right before the marker.
                let opens = text.as_bytes().get(last.range.start.wrapping_sub(1)) == Some(&b'"');
                last.close = last.close || (span.close && opens && span.range.start == last.range.start);
                last.range.end = last.range.end.max(span.range.end);
            }
            _ => merged.push(span),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{ProptestConfig, prop, prop_oneof, proptest};
    use proptest::strategy::{Just, Strategy as _};

    use super::{MARKER, Redactor};

    fn redact(text: &str) -> String {
        Redactor::default().redact(text)
    }

    #[test]
    fn vectors_hold() {
        let vectors = [
            (
                "Authorization: Bearer prefix;secret-suffix route=iad",
                "Authorization: [redacted] route=iad",
            ),
            (
                "upstream Bearer prefix}secret-suffix request=retry",
                "upstream Bearer [redacted] request=retry",
            ),
            (r#"{"refresh_token":"unterminated"#, r#"{"refresh_token":"[redacted]""#),
            (
                r#"{"nextToken":"page-2","token_type":"Bearer"}"#,
                r#"{"nextToken":"page-2","token_type":"Bearer"}"#,
            ),
            ("https://h.test?email=a@b.test", "https://h.test?email=a@b.test"),
            ("https://first@second@h.test/", "https://[redacted]@h.test/"),
        ];
        for (text, expected) in vectors {
            assert_eq!(redact(text), expected);
        }
    }

    #[test]
    fn shapes_are_found() {
        let cases = [
            (
                "Authorization: Digest username=\"a\", response=\"b\"\r\n  nc=1\r\nHost: h",
                "Authorization: [redacted]\r\nHost: h",
            ),
            ("proxy-authorization=NTLM abc", "proxy-authorization=[redacted]"),
            ("Authorization: Basic dTpw next", "Authorization: [redacted] next"),
            ("Authorization: Bearer: abc next", "Authorization: [redacted] next"),
            (
                "Authorization:\r\n Bearer\r\n\tabc\r\nHost: h",
                "Authorization:\r\n [redacted]\r\nHost: h",
            ),
            (
                "X-Api-Key: abc\napi key = def ghi",
                "X-Api-Key: [redacted]\napi key = [redacted] ghi",
            ),
            (
                "client_secret=abc session-token=def idToken=ghi",
                "client_secret=[redacted] session-token=[redacted] idToken=[redacted]",
            ),
            (
                "password=\"a b\" token='c d' x",
                "password=\"[redacted]\" token='[redacted]' x",
            ),
            (
                "nextToken=a token_type=b my_token=c page-token=d",
                "nextToken=a token_type=b my_token=c page-token=d",
            ),
            (
                r#"{"privateKey" : "a\"b", "credentials":"c", "Secret":"d", "n": 1}"#,
                r#"{"privateKey" : "[redacted]", "credentials":"[redacted]", "Secret":"[redacted]", "n": 1}"#,
            ),
            (
                "https://h/p?a=1&X-Amz-Signature=abc#f",
                "https://h/p?a=1&X-Amz-Signature=[redacted]#f",
            ),
            ("grant=x&access_token=abc&y=1", "grant=x&access_token=[redacted]&y=1"),
            (
                r#"{"url":"https://h/?sig=abc"}"#,
                r#"{"url":"https://h/?sig=[redacted]"}"#,
            ),
            (
                "postgres://u:p@db/x ssh://git@host/y",
                "postgres://[redacted]@db/x ssh://git@host/y",
            ),
            ("Bearer\n  abc", "Bearer\n  [redacted]"),
            (
                "a -----BEGIN RSA PRIVATE KEY-----\nx\n-----END RSA PRIVATE KEY----- b",
                "a [redacted] b",
            ),
            ("a -----BEGIN PRIVATE KEY-----\nx", "a [redacted]"),
            (
                "token=<redacted> password: [redacted]",
                "token=<redacted> password: [redacted]",
            ),
            ("token=[redacted]abc", "token=[redacted]"),
            (
                "nothing to see, tokens: none of them",
                "nothing to see, tokens: none of them",
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(redact(text), expected, "{text}");
        }
    }

    #[test]
    fn exact_secrets_are_trimmed_and_may_overlap() {
        let redactor = Redactor::new([" abcd ", "cdef", "", "abcd"]);
        assert_eq!(redactor.redact("x abcdef y abcd"), "x [redacted] y [redacted]");
    }

    #[test]
    fn a_secret_that_is_part_of_the_marker_ends() {
        for secret in ["redacted", "[", "d", "e", "red"] {
            let redactor = Redactor::new([secret]);
            let once = redactor.redact("a red [redacted] decoded");
            assert_eq!(redactor.redact(&once), once);
            assert!(once.contains(MARKER));
        }
    }

    #[test]
    fn hostile_text_takes_linear_time() {
        let redactor = Redactor::new(["aaaa"]);
        let started = std::time::Instant::now();
        for part in [
            "Authorization: x\n ",
            "\"token\":\"",
            "token: ",
            "bearer ",
            "https://a@",
            "-----BEGIN PRIVATE KEY-----",
            "a",
            "?sig=",
            "token:'",
            "token:.",
            "é",
            "token:\"",
            "[redacted]",
            "token=[redacted] ",
        ] {
            let text = part.repeat(200_000 / part.len());
            assert!(redactor.redact(&text).len() <= 2 * text.len());
        }
        // Quadratic work would take minutes; the limit leaves room for a busy machine.
        assert!(started.elapsed().as_secs() < 30, "{:?}", started.elapsed());
    }

    fn fragments() -> impl proptest::strategy::Strategy<Value = String> {
        let fragment = prop_oneof![
            Just("Authorization"),
            Just("token"),
            Just("\"token\""),
            Just("bearer"),
            Just("Basic"),
            Just(":"),
            Just("="),
            Just(" "),
            Just("\""),
            Just("'"),
            Just("\\"),
            Just("\r\n "),
            Just("\n"),
            Just("[redacted]"),
            Just("[red"),
            Just("acted]"),
            Just("<redacted>"),
            Just("?sig="),
            Just("&"),
            Just("https://"),
            Just("@"),
            Just("/"),
            Just("a"),
            Just("é"),
            Just("-----BEGIN PRIVATE KEY-----"),
            Just("-----END PRIVATE KEY-----"),
            Just("s3cret"),
        ];
        prop::collection::vec(fragment, 0..24).prop_map(|parts| parts.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(500) })]
        #[test]
        fn redacting_twice_is_redacting_once(text in fragments(), secret in "[a-z\\[\\]:]{1,6}") {
            let redactor = Redactor::new([secret.as_str(), "s3cret"]);
            let once = redactor.redact(&text);
            proptest::prop_assert_eq!(redactor.redact(&once), once.clone());
            proptest::prop_assert!(!once.contains("s3cret"));
        }
    }
}
