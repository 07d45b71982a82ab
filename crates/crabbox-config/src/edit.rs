//! Changes single values of a YAML text and leaves everything else as it is: comments, order, unknown keys.
//!
//! After each change the text is read again and compared with what the change should mean, so a construct that this editor
//! does not master is refused, never damaged.

use crabbox_core::{Error, Result};
use serde_json::Value as Json;

use crate::yaml::{Content, Entry, Node, parse};

/// Sets or, with `None`, removes the value at a path.
///
/// # Errors
///
/// `Usage` when the text is not YAML, when something on the way is no mapping, or when the change cannot be made without
/// touching what others use, such as an anchored value.
pub(crate) fn change(text: &str, path: &[&str], value: Option<&Json>) -> Result<String> {
    let before = read(text)?;
    let mut expected = before.to_json();
    alter(&mut expected, path, value);
    let edit = match value {
        Some(value) => set(text, &before, path, value),
        None => remove(text, &before, path),
    };
    let changed = edit.ok_or_else(|| refuse(path))?;
    let after = read(&changed).map_err(|_| refuse(path))?;
    if prune(after.to_json()) == prune(expected) {
        Ok(changed)
    } else {
        Err(refuse(path))
    }
}

fn read(text: &str) -> Result<Node> {
    match parse(text) {
        Ok(document) => Ok(document.root),
        Err(fault) => {
            let error = Error::usage(format!("line {}: {}", fault.line, fault.message));
            Err(fault.hint.into_iter().fold(error, Error::with_hint))
        }
    }
}

fn refuse(path: &[&str]) -> Error {
    Error::usage(format!(
        "the file cannot be edited without changing more than this key: `{}`",
        path.join(".")
    ))
    .with_hint("change it by hand, or write it as plain `key: value` lines without anchors")
}

/// What the change means.
fn alter(json: &mut Json, path: &[&str], value: Option<&Json>) {
    let Some((first, rest)) = path.split_first() else {
        return;
    };
    if json.is_null() {
        *json = Json::Object(serde_json::Map::new());
    }
    let Json::Object(entries) = json else { return };
    match (rest.is_empty(), value) {
        (true, Some(value)) => {
            entries.insert((*first).to_owned(), value.clone());
        }
        (true, None) => {
            entries.shift_remove(*first);
        }
        (false, value) => alter(entries.entry((*first).to_owned()).or_insert(Json::Null), rest, value),
    }
}

/// Without empty mappings and nulls, which mean the same.
fn prune(json: Json) -> Json {
    match json {
        Json::Object(entries) => {
            let kept: serde_json::Map<String, Json> = entries
                .into_iter()
                .map(|(name, value)| (name, prune(value)))
                .filter(|(_, value)| !value.is_null())
                .collect();
            if kept.is_empty() {
                Json::Null
            } else {
                Json::Object(kept)
            }
        }
        other => other,
    }
}

fn own<'node>(node: &'node Node, key: &str) -> Option<&'node Entry> {
    node.entries()?.iter().find(|entry| entry.key == key && !entry.merged)
}

fn set(text: &str, root: &Node, path: &[&str], value: &Json) -> Option<String> {
    let mut node = root;
    let mut column = 0;
    for (depth, segment) in path.iter().enumerate() {
        let Some(entry) = own(node, segment) else {
            return insert(text, node, column, &path[depth..], value);
        };
        if depth + 1 == path.len() {
            return Some(replace(text, entry, &scalar(value)));
        }
        if entry.value.is_null() {
            return below_empty(text, entry, &path[depth + 1..], value);
        }
        node = &entry.value;
        column = entry.column;
    }
    None
}

fn replace(text: &str, entry: &Entry, value: &str) -> String {
    let colon = colon_after(text, entry.span.end);
    let span = entry.value.span.clone();
    let same_line = span.start >= colon && !text[colon..span.start].contains('\n');
    // An empty value has no place of its own; a block collection begins on the next line.
    if span.is_empty() || !same_line {
        let end = if span.is_empty() { colon } else { span.end };
        return format!("{} {value}{}", &text[..colon], &text[end.max(colon)..]);
    }
    format!("{}{value}{}", &text[..span.start], &text[span.end..])
}

/// Puts a new key into a mapping.
fn insert(text: &str, node: &Node, parent: usize, path: &[&str], value: &Json) -> Option<String> {
    match &node.content {
        Content::Null => {
            let mut changed = text.to_owned();
            let newline = newline_of(text);
            if !changed.is_empty() && !changed.ends_with('\n') {
                changed.push_str(newline);
            }
            changed.push_str(&lines(path, value, 0, newline));
            Some(changed)
        }
        Content::Mapping(entries) if node.flow => {
            let at = node.span.end.checked_sub(1)?;
            let kept = text[..at].trim_end();
            let separator = if entries.is_empty() || kept.ends_with(',') {
                ""
            } else {
                ", "
            };
            Some(format!("{kept}{separator}{}{}", flow(path, value), &text[at..]))
        }
        Content::Mapping(entries) => {
            let column = entries
                .iter()
                .find(|entry| !entry.merged)
                .map_or(parent + 2, |entry| entry.column);
            let at = line_end(text, node.span.end);
            let newline = newline_of(text);
            let before = &text[..at];
            let glue = if before.is_empty() || before.ends_with('\n') {
                ""
            } else {
                newline
            };
            Some(format!(
                "{before}{glue}{}{}",
                lines(path, value, column, newline),
                &text[at..]
            ))
        }
        _ => None,
    }
}

/// Puts a new key below one that holds nothing yet.
fn below_empty(text: &str, entry: &Entry, path: &[&str], value: &Json) -> Option<String> {
    let colon = colon_after(text, entry.span.end);
    let span = entry.value.span.clone();
    // `key: ~` loses its tilde first.
    let cleared = if span.is_empty() {
        text.to_owned()
    } else {
        format!("{}{}", text[..span.start].trim_end_matches(' '), &text[span.end..])
    };
    let at = line_end(&cleared, colon);
    let newline = newline_of(text);
    let before = &cleared[..at];
    let glue = if before.ends_with('\n') { "" } else { newline };
    Some(format!(
        "{before}{glue}{}{}",
        lines(path, value, entry.column + 2, newline),
        &cleared[at..]
    ))
}

fn remove(text: &str, root: &Node, path: &[&str]) -> Option<String> {
    let (last, parents) = path.split_last()?;
    let Some(parent) = parents
        .iter()
        .try_fold(root, |node, segment| own(node, segment).map(|entry| &entry.value))
    else {
        return Some(text.to_owned());
    };
    let Some(entry) = own(parent, last) else {
        return Some(text.to_owned());
    };
    let end = entry.value.span.end.max(colon_after(text, entry.span.end));
    if parent.flow {
        let after = &text[end..];
        let rest = after.trim_start();
        return Some(match rest.strip_prefix(',') {
            Some(rest) => format!("{}{}", &text[..entry.span.start], rest.trim_start_matches(' ')),
            None => format!("{}{after}", text[..entry.span.start].trim_end().trim_end_matches(',')),
        });
    }
    let start = text[..entry.span.start].rfind('\n').map_or(0, |newline| newline + 1);
    Some(format!("{}{}", &text[..start], &text[line_end(text, end)..]))
}

/// Byte after the colon of a key.
fn colon_after(text: &str, key_end: usize) -> usize {
    text[key_end..]
        .find(':')
        .map_or(text.len(), |colon| key_end + colon + 1)
}

/// Byte after the line that holds a position; the position itself when it is where a line begins.
fn line_end(text: &str, at: usize) -> usize {
    if at > 0 && text.as_bytes()[at - 1] == b'\n' {
        return at;
    }
    text[at..].find('\n').map_or(text.len(), |newline| at + newline + 1)
}

fn newline_of(text: &str) -> &'static str {
    if text.contains("\r\n") { "\r\n" } else { "\n" }
}

fn lines(path: &[&str], value: &Json, column: usize, newline: &str) -> String {
    let mut text = String::new();
    for (depth, segment) in path.iter().enumerate() {
        text.push_str(&" ".repeat(column + 2 * depth));
        text.push_str(&scalar(&Json::from(*segment)));
        text.push(':');
        if depth + 1 == path.len() {
            text.push(' ');
            text.push_str(&scalar(value));
        }
        text.push_str(newline);
    }
    text
}

fn flow(path: &[&str], value: &Json) -> String {
    match path {
        [] => String::new(),
        [last] => format!("{}: {}", scalar(&Json::from(*last)), scalar(value)),
        [first, rest @ ..] => format!("{}: {{{}}}", scalar(&Json::from(*first)), flow(rest, value)),
    }
}

/// A value on one line, quoted when it would be read as something else.
pub(crate) fn scalar(value: &Json) -> String {
    match value {
        Json::String(text) if is_plain(text) => text.clone(),
        Json::Array(items) => format!("[{}]", items.iter().map(scalar).collect::<Vec<_>>().join(", ")),
        // JSON is YAML.
        other => other.to_string(),
    }
}

fn is_plain(text: &str) -> bool {
    let safe =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'/' | b':' | b'@' | b'+');
    let words = ["true", "false", "yes", "no", "on", "off", "y", "n", "null"];
    text.bytes()
        .next()
        .is_some_and(|first| first.is_ascii_alphabetic() || first == b'/')
        && text.bytes().all(safe)
        && !text.ends_with(':')
        && !words.contains(&text.to_ascii_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn edit(text: &str, changes: &[(&[&str], Option<Json>)]) -> String {
        changes.iter().fold(text.to_owned(), |text, (path, value)| {
            change(&text, path, value.as_ref()).unwrap()
        })
    }

    const FILE: &str = "# Mine.\nprovider: hetzner # cheap\n\nbroker:\n  # Do not touch.\n  mode: managed\n  url: \"https://old.test\" # old\nfuture: {a: 1}\n# The end.\n";

    #[test]
    fn comments_order_and_unknown_keys_stay() {
        let changed = edit(
            FILE,
            &[
                (&["broker", "url"], Some(json!("https://new.test:8443/x"))),
                (&["broker", "token"], Some(json!("a b#c"))),
                (&["broker", "access", "clientId"], Some(json!("id"))),
                (
                    &["broker", "loginRedirectOrigins"],
                    Some(json!(["https://a.test", "x, y"])),
                ),
                (&["broker", "autoWebVNC"], Some(json!(false))),
                (&["provider"], Some(json!("aws"))),
                (&["future", "b"], Some(json!("yes"))),
                (&["class"], Some(json!("fast"))),
            ],
        );
        insta::assert_snapshot!(changed, @r###"
        # Mine.
        provider: aws # cheap

        broker:
          # Do not touch.
          mode: managed
          url: https://new.test:8443/x # old
          token: "a b#c"
          access:
            clientId: id
          loginRedirectOrigins: [https://a.test, "x, y"]
          autoWebVNC: false
        future: {a: 1, b: "yes"}
        class: fast
        # The end.
        "###);
    }

    #[test]
    fn values_are_removed_without_a_trace() {
        let text =
            "a: 1\nbroker:\n  token: x # secret\n  # kept\n  url: u\nflow: {p: 1, q: 2, r: 3}\nlast:\n  - 1\n  - 2\n";
        let changed = edit(
            text,
            &[
                (&["broker", "token"], None),
                (&["flow", "q"], None),
                (&["flow", "r"], None),
                (&["last"], None),
                (&["not", "there"], None),
                (&["a"], None),
            ],
        );
        assert_eq!(changed, "broker:\n  # kept\n  url: u\nflow: {p: 1}\n");
        assert_eq!(
            edit("broker:\n  token: x\n", &[(&["broker", "token"], None)]),
            "broker:\n"
        );
    }

    #[test]
    fn empty_places_are_filled() {
        let url: (&[&str], Option<Json>) = (&["broker", "url"], Some(json!("u")));
        for (text, expected) in [
            ("", "broker:\n  url: u\n"),
            ("# Only this.", "# Only this.\nbroker:\n  url: u\n"),
            ("broker:\n", "broker:\n  url: u\n"),
            ("broker: # later\nx: 1\n", "broker: # later\n  url: u\nx: 1\n"),
            ("broker: ~\n", "broker:\n  url: u\n"),
            ("broker: {}\n", "broker: {url: u}\n"),
            ("broker:\n  url:\n  mode: m\n", "broker:\n  url: u\n  mode: m\n"),
            ("{}\n", "{broker: {url: u}}\n"),
            ("---\nx: 1", "---\nx: 1\nbroker:\n  url: u\n"),
            ("broker:\r\n  mode: m\r\n", "broker:\r\n  mode: m\r\n  url: u\r\n"),
            (
                "broker:\n    mode: |\n      m\nx: é\n",
                "broker:\n    mode: |\n      m\n    url: u\nx: é\n",
            ),
            ("broker:\n  url:\n    - a\n    - b\nx: 1\n", "broker:\n  url: u\nx: 1\n"),
        ] {
            assert_eq!(edit(text, std::slice::from_ref(&url)), expected, "{text:?}");
        }
    }

    #[test]
    fn what_cannot_be_edited_is_refused() {
        for text in [
            "broker: text\n",
            "broker: &b {url: v}\nother: *b\n",
            "broker:\n  <<: &m {url: v}\n  <<: *m\n  url: &u v\nx: *u\n",
            "[1]\n",
            "a: [\n",
        ] {
            let error = change(text, &["broker", "url"], Some(&json!("u"))).unwrap_err();
            assert_eq!(error.kind().exit_code(), 2, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_survives_as_a_value(value in "\\PC{0,20}", other in "[ -~]{0,12}") {
            let text = format!("a: {}\n# note\nb:\n  c: 1\n", scalar(&json!(other)));
            let changed = change(&text, &["b", "d"], Some(&json!(value))).unwrap();
            let changed = change(&changed, &["a"], Some(&json!(value))).unwrap();
            let node = parse(&changed).unwrap().root.to_json();
            proptest::prop_assert_eq!(node, json!({"a": value, "b": {"c": 1, "d": value}}));
            proptest::prop_assert!(changed.contains("# note\n"));
        }

        #[test]
        fn no_text_makes_the_editor_damage_it(text in "(([ab]|  [ab]):? ?([ab]|\\{|\\}|\\[|\\]|'|\"|#|\n|  |- |&x |\\*x|,|~|\\||é|: ){0,4}\n){0,5}") {
            let value = json!("new");
            for path in [&["a"][..], &["a", "b"], &["b", "a"]] {
                if let Ok(changed) = change(&text, path, Some(&value)) {
                    let root = parse(&changed).unwrap().root.to_json();
                    let found = path.iter().try_fold(&root, |json, segment| json.get(segment));
                    proptest::prop_assert_eq!(found, Some(&value), "{}", changed);
                }
                if let Ok(changed) = change(&text, path, None) {
                    let root = parse(&changed).unwrap().root.to_json();
                    proptest::prop_assert!(path.iter().try_fold(&root, |json, segment| json.get(segment)).is_none());
                }
            }
        }
    }
}
