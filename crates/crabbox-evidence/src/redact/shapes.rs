//! Shapes that only secrets have.

use std::ops::Range;
use std::sync::LazyLock;

use regex::Regex;

use super::{MARKER, OTHER_MARKER, Span};
use crate::text::compile;

/// Names that hide a value in headers, assignments, JSON and queries.
const NAMES: &str = concat!(
    r"proxy[-_]?authorization|authorization|x[-_]?api[-_]?key|api[-_]?key|(?:access|refresh|id|session)[-_]?token|",
    r"client[-_]?secret|secret[-_]?access[-_]?key|api[-_]?secret|token|password"
);

/// More than the longest of them with its separator.
const LONGEST_NAME_BYTES: usize = 32;

/// Names that hide a value where a name cannot be a plain word of prose.
const MORE_NAMES: &str = "credentials?|private[-_]?key|secret";

static HEADER: LazyLock<Regex> = LazyLock::new(|| compile(&format!(r"(?i)({NAMES}|api key)[ \t]*[:=]")));
static JSON_MEMBER: LazyLock<Regex> = LazyLock::new(|| compile(&format!(r#"(?i)"(?:{NAMES}|{MORE_NAMES})"\s*:\s*""#)));
static QUERY: LazyLock<Regex> = LazyLock::new(|| {
    compile(&format!(
        "(?i)[?&](?:{NAMES}|{MORE_NAMES}|signature|sig|x-(?:amz|goog)-(?:credential|signature|security-token))="
    ))
});
static USERINFO: LazyLock<Regex> = LazyLock::new(|| compile(r#"(?i)(https?|[a-z][a-z0-9+.-]*)://([^\s/?#"]+)@"#));
static BEARER: LazyLock<Regex> = LazyLock::new(|| compile(r"(?i)bearer:?(?:[ \t]*\r?\n[ \t]+|[ \t]+)"));
static SCHEME: LazyLock<Regex> = LazyLock::new(|| compile(r"(?i)^(?:bearer|basic):?(?:[ \t]*\r?\n[ \t]+|[ \t]+)"));
static PRIVATE_KEY: LazyLock<Regex> = LazyLock::new(|| {
    compile(concat!(
        "(?is)-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----",
        r".*?(?:-----END [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----|\z)"
    ))
});

/// Finds every shape.
pub(super) fn find(text: &str, spans: &mut Vec<Span>) {
    headers(text, spans);
    json_members(text, spans);
    queries(text, spans);
    userinfo(text, spans);
    bearer_tokens(text, spans);
    spans.extend(PRIVATE_KEY.find_iter(text).map(|found| Span::plain(found.range())));
}

/// Names in a header or an assignment. A name that continues a longer one is not sensitive.
fn headers(text: &str, spans: &mut Vec<Span>) {
    let mut from = 0;
    while let Some(found) = HEADER.captures_at(text, from) {
        let (Some(whole), Some(name)) = (found.get(0), found.get(1)) else {
            return;
        };
        let before = name.start().checked_sub(1).map(|position| text.as_bytes()[position]);
        if before.is_some_and(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'?' | b'&' | b'_' | b'-')) {
            from = name.start() + 1;
            continue;
        }
        let authorization = name.as_str().to_ascii_lowercase().ends_with("authorization");
        let value = header_value(text, whole.end(), authorization);
        // A name may stand inside a value, and its own value beyond it: then the name ends where the outer value ends.
        // Quotes are the exception. Looking at all of a long value again would take quadratic time.
        let quoted = text[..value.start].ends_with(['"', '\'']);
        from = if quoted {
            whole.end()
        } else {
            whole.end().max(value.end.saturating_sub(LONGEST_NAME_BYTES))
        };
        while !text.is_char_boundary(from) {
            from += 1;
        }
        spans.push(Span::plain(value));
    }
}

fn header_value(text: &str, separator_end: usize, authorization: bool) -> Range<usize> {
    let start = skip_blank_and_fold(text, separator_end);
    let rest = &text[start..];
    if let Some(scheme) = SCHEME.find(rest) {
        let value = value_range(text, start + scheme.end());
        if !value.is_empty() {
            return start..value.end;
        }
    }
    let quoted = rest.starts_with(['"', '\'']);
    let marked = rest.starts_with(MARKER) || rest.starts_with(OTHER_MARKER);
    let bare_scheme = ["bearer", "basic"].iter().any(|scheme| {
        let word = rest
            .get(..scheme.len())
            .filter(|word| word.eq_ignore_ascii_case(scheme));
        let after = word.map(|word| rest[word.len()..].trim_start_matches(':'));
        after.is_some_and(|after| {
            after.is_empty() || after.starts_with(|next: char| next.is_whitespace() || next == '"')
        })
    });
    if authorization && !quoted && !marked && !bare_scheme {
        return start..folded_line_end(text, start);
    }
    value_range(text, start)
}

/// The value at a position: inside its quotes, else up to whitespace or a double quote.
fn value_range(text: &str, start: usize) -> Range<usize> {
    let rest = &text[start..];
    for quote in ['"', '\''] {
        let Some(inner) = rest.strip_prefix(quote) else {
            continue;
        };
        let length = inner.find(['\n', '\r', quote]).unwrap_or(inner.len());
        return start + 1..start + 1 + length;
    }
    let length = rest
        .find(|character: char| character.is_whitespace() || character == '"')
        .unwrap_or(rest.len());
    start..start + length
}

fn skip_blank_and_fold(text: &str, from: usize) -> usize {
    let blank = |position: usize| {
        let rest = &text[position..];
        position + (rest.len() - rest.trim_start_matches([' ', '\t']).len())
    };
    let position = blank(from);
    let rest = &text[position..];
    let line_break = rest.strip_prefix("\r\n").or_else(|| rest.strip_prefix('\n'));
    match line_break {
        Some(folded) if folded.starts_with([' ', '\t']) => blank(text.len() - folded.len()),
        _ => position,
    }
}

/// End of the line, and of the indented lines that continue it.
fn folded_line_end(text: &str, from: usize) -> usize {
    let mut end = from;
    loop {
        let line = text[end..].find('\n').map_or(text.len(), |length| end + length);
        let continues = text[line..]
            .strip_prefix('\n')
            .is_some_and(|next| next.starts_with([' ', '\t']));
        if !continues {
            let trimmed = text[from..line].trim_end_matches('\r');
            return from + trimmed.len();
        }
        end = line + 1;
    }
}

fn json_members(text: &str, spans: &mut Vec<Span>) {
    for found in JSON_MEMBER.find_iter(text) {
        let start = found.end();
        let mut escaped = false;
        let end = text[start..].bytes().position(|byte| {
            let closes = byte == b'"' && !escaped;
            escaped = byte == b'\\' && !escaped;
            closes
        });
        spans.push(Span {
            range: start..end.map_or(text.len(), |length| start + length),
            close: end.is_none(),
        });
    }
}

fn queries(text: &str, spans: &mut Vec<Span>) {
    let mut from = 0;
    while let Some(found) = QUERY.find_at(text, from) {
        let rest = &text[found.end()..];
        let ends = |character: char| character.is_whitespace() || matches!(character, '&' | '#' | '"');
        // Values inside a value end where it ends.
        from = found.end() + rest.find(ends).unwrap_or(rest.len());
        spans.push(Span::plain(found.end()..from));
    }
}

fn userinfo(text: &str, spans: &mut Vec<Span>) {
    for found in USERINFO.captures_iter(text) {
        let (Some(scheme), Some(userinfo)) = (found.get(1), found.get(2)) else {
            continue;
        };
        let web = ["http", "https"]
            .iter()
            .any(|name| scheme.as_str().eq_ignore_ascii_case(name));
        // `ssh://git@host` names an account; only with a password is it a secret.
        if web || userinfo.as_str().contains(':') {
            spans.push(Span::plain(userinfo.range()));
        }
    }
}

fn bearer_tokens(text: &str, spans: &mut Vec<Span>) {
    for found in BEARER.find_iter(text) {
        let before = found.start().checked_sub(1).map(|position| text.as_bytes()[position]);
        if !before.is_some_and(|byte| byte.is_ascii_alphanumeric()) {
            spans.push(Span::plain(value_range(text, found.end())));
        }
    }
}
