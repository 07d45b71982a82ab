//! Text that other people wrote, made safe to show.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::LazyLock;

use regex::Regex;

use crate::redact::MARKER;

/// Written where a value is missing.
pub const MISSING: &str = "-";

static HOSTILE: LazyLock<Regex> = LazyLock::new(|| compile(r"[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]"));
static ANSI: LazyLock<Regex> = LazyLock::new(|| {
    compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[PX^_][^\x1b]*(?:\x1b\\)?|[ -/]*[0-~])")
});

/// Compiles a pattern that is part of the program.
pub(crate) fn compile(pattern: &str) -> Regex {
    #[expect(
        clippy::expect_used,
        reason = "the pattern is a constant, and a test compiles every one"
    )]
    Regex::new(pattern).expect("constant pattern")
}

/// Writes control, format and line or paragraph separator characters as `\uXXXX`, above U+FFFF as `\UXXXXXXXX`.
pub fn hostile(text: &str) -> Cow<'_, str> {
    HOSTILE.replace_all(text, |found: &regex::Captures<'_>| {
        let mut escaped = String::new();
        for character in found[0].chars() {
            escape_code(&mut escaped, character);
        }
        escaped
    })
}

fn escape_code(into: &mut String, character: char) {
    let code = u32::from(character);
    // Writing to a string cannot fail.
    let _ = if code > 0xffff {
        write!(into, "\\U{code:08x}")
    } else {
        write!(into, "\\u{code:04x}")
    };
}

/// Wraps text in double quotes as Go's `%q` does.
pub fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for character in text.chars() {
        match character {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            control if control.is_ascii_control() => {
                let _ = write!(quoted, "\\x{:02x}", u32::from(control));
            }
            other if HOSTILE.is_match(other.encode_utf8(&mut [0; 4])) => escape_code(&mut quoted, other),
            plain => quoted.push(plain),
        }
    }
    quoted.push('"');
    quoted
}

/// The text, or `-` when there is none. Whitespace and hostile characters are escaped, so that a `key=value` line keeps
/// its fields.
pub fn field(text: &str) -> String {
    let text = text.trim();
    if text.is_empty() {
        return MISSING.to_owned();
    }
    if text.contains(char::is_whitespace) || text.contains('"') {
        return quote(text);
    }
    hostile(text).into_owned()
}

/// Removes terminal escape sequences.
pub fn strip_ansi(text: &str) -> Cow<'_, str> {
    ANSI.replace_all(text, "")
}

/// The longest start of the text within a number of bytes that ends between characters.
pub fn cut(text: &str, limit_bytes: usize) -> &str {
    if text.len() <= limit_bytes {
        return text;
    }
    let mut end = limit_bytes;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Whether the text is an access gateway's HTML page instead of what was asked for.
///
/// Such a page carries one-time tokens, and it means that credentials are missing.
pub fn is_auth_page(text: &str) -> bool {
    let lower = text.to_lowercase();
    let html = lower.contains("<html") || lower.contains("<!doctype html");
    html && ["cloudflare access", "cf-access", "__cf_chl_"]
        .iter()
        .any(|marker| lower.contains(marker))
}

/// The text, or a note in its place when it [is an access gateway's page](is_auth_page).
pub fn without_auth_page(text: &str) -> Cow<'_, str> {
    if is_auth_page(text) {
        return Cow::Owned(format!("{MARKER} HTML page of an access gateway"));
    }
    Cow::Borrowed(text)
}

#[cfg(test)]
mod tests {
    use super::{cut, field, hostile, is_auth_page, quote, strip_ansi, without_auth_page};

    #[test]
    fn hostile_characters_become_codes() {
        assert_eq!(
            hostile("a\u{1b}[31m\u{202e}b\u{2028}\u{e0001}é"),
            "a\\u001b[31m\\u202eb\\u2028\\U000e0001é"
        );
        assert_eq!(hostile("plain"), "plain");
    }

    #[test]
    fn quoting_is_that_of_go() {
        assert_eq!(quote("a\"b\\c\n\t\u{7}\u{200b}é"), r#""a\"b\\c\n\t\x07\u200bé""#);
    }

    #[test]
    fn fields_keep_lines_parseable() {
        assert_eq!(field(" "), "-");
        assert_eq!(field("eu1"), "eu1");
        assert_eq!(field("a b"), "\"a b\"");
        assert_eq!(field("a\u{1b}b"), "a\\u001bb");
    }

    #[test]
    fn ansi_vanishes() {
        assert_eq!(
            strip_ansi("\u{1b}[1;31mred\u{1b}[0m \u{1b}]0;title\u{7}end\u{1b}(B"),
            "red end"
        );
        assert_eq!(strip_ansi("no escape"), "no escape");
    }

    #[test]
    fn cutting_respects_characters() {
        assert_eq!(cut("aé", 2), "a");
        assert_eq!(cut("aé", 3), "aé");
    }

    #[test]
    fn gateway_pages_are_replaced() {
        assert!(is_auth_page(
            "<!DOCTYPE html><title>Sign in ・ Cloudflare Access</title>"
        ));
        assert!(!is_auth_page("cf-access header missing"));
        assert!(!is_auth_page("<html>hello</html>"));
        assert_eq!(
            without_auth_page("<html>cf-access"),
            "[redacted] HTML page of an access gateway"
        );
    }
}
