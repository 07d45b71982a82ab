//! One line of `ssh_config`.

use crate::known_hosts::wildcard;

pub(super) fn host_applies(patterns: &[String], host: &str) -> bool {
    let host = host.to_lowercase();
    let mut found = false;
    for pattern in patterns {
        match pattern.strip_prefix('!') {
            Some(pattern) if wildcard(&pattern.to_lowercase(), &host) => return false,
            Some(_) => {}
            None => found |= wildcard(&pattern.to_lowercase(), &host),
        }
    }
    found
}

pub(super) fn split_port(place: &str) -> Option<(&str, Option<u16>)> {
    if let Some(rest) = place.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        let port = match rest.strip_prefix(':') {
            Some(port) => Some(port.parse().ok()?),
            None if rest.is_empty() => None,
            None => return None,
        };
        return Some((host, port));
    }
    match place.split_once(':') {
        Some((host, port)) if !port.contains(':') => {
            Some((host, Some(port.parse().ok()?))).filter(|_| !host.is_empty())
        }
        Some(_) => Some((place, None)),
        None => Some((place, None)).filter(|_| !place.is_empty()),
    }
}

/// Keyword in lower case and words, quotes taken off.
pub(super) fn split(line: &str) -> Option<(String, Vec<String>)> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return None;
    }
    let (keyword, _) = line
        .split_once(|c: char| c.is_whitespace() || c == '=')
        .unwrap_or((line, ""));
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quoted = false;
    for character in rest(line).unwrap_or_default().chars() {
        match character {
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            c if c.is_whitespace() && !quoted => words.extend(word.take()),
            '#' if !quoted && word.is_none() => break,
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Some((keyword.to_lowercase(), words))
}

/// Everything after the keyword, which a space or `=` ends.
pub(super) fn rest(line: &str) -> Option<String> {
    let line = line.trim();
    let end = line.find(|c: char| c.is_whitespace() || c == '=')?;
    let rest = line[end..].trim_start();
    Some(rest.strip_prefix('=').unwrap_or(rest).trim().to_owned())
}
