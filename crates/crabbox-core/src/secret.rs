//! Values that must not be shown, and addresses that credentials may be sent to.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::Serialize;

use crate::error::{Error, Result};

/// What stands in place of a value that must not be shown.
pub const REDACTED: &str = "<redacted>";

/// A credential. It hides itself from `Debug` and `Display` and cannot be serialized.
#[derive(Clone)]
pub struct Secret(Box<str>);

impl Secret {
    /// Wraps a credential.
    pub fn new(value: impl Into<Box<str>>) -> Self {
        Self(value.into())
    }

    /// The credential itself. Give it only to the call that authenticates.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether nothing is inside.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Replaces every occurrence of the credential in a text, such as a vendor's error message.
    pub fn redact(&self, text: &str) -> String {
        // A very short credential would turn ordinary words into noise without protecting anything.
        if self.0.len() < 4 {
            text.to_owned()
        } else {
            text.replace(&*self.0, REDACTED)
        }
    }
}

impl From<String> for Secret {
    fn from(value: String) -> Self {
        Self::new(value)
    }
}

impl From<&str> for Secret {
    fn from(value: &str) -> Self {
        Self::new(value)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(REDACTED)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(REDACTED)
    }
}

/// An API address that may receive a credential: https, or http on this machine.
///
/// Normalised when it is parsed: scheme and host in lower case, default port and trailing slashes dropped. It may have a
/// path; it never has user information, a query or a fragment.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Origin(String);

impl Origin {
    /// Reads and normalises an address.
    ///
    /// # Errors
    ///
    /// `Usage` for anything but an absolute http or https URL, for http to another machine, and for user information, a
    /// query or a fragment. The message never repeats the address, which may hold a credential.
    pub fn parse(text: &str) -> Result<Self> {
        let text = text.trim();
        let refuse = |why: &'static str| {
            Error::usage(format!("not a usable address: {why}"))
                .with_hint("write an https URL, such as `https://api.example.com`; http is for this machine only")
        };
        let (scheme, rest) = text.split_once("://").ok_or_else(|| refuse("no scheme"))?;
        let scheme = scheme.to_ascii_lowercase();
        if text.contains(|character: char| character.is_control() || character.is_whitespace() || character == '\\') {
            return Err(refuse("control character or space"));
        }
        if rest.contains(['?', '#']) {
            return Err(refuse("query or fragment"));
        }
        let (authority, path) = rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash));
        if authority.contains('@') {
            return Err(refuse("user information"));
        }
        let (host, port) = split_port(authority).ok_or_else(|| refuse("bad port"))?;
        let host = host.to_ascii_lowercase();
        if !is_host(&host) {
            return Err(refuse("bad host"));
        }
        let default_port = match scheme.as_str() {
            "https" => 443,
            "http" if is_loopback(&host) => 80,
            "http" => return Err(refuse("http to another machine")),
            _ => return Err(refuse("unknown scheme")),
        };
        let port = port
            .filter(|port| *port != default_port)
            .map(|port| format!(":{port}"))
            .unwrap_or_default();
        Ok(Self(format!("{scheme}://{host}{port}{}", path.trim_end_matches('/'))))
    }

    /// The normalised address, without a trailing slash.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the address is on this machine.
    pub fn is_loopback(&self) -> bool {
        self.0.split_once("://").is_some_and(|(_, rest)| {
            let authority = rest.split('/').next().unwrap_or(rest);
            split_port(authority).is_some_and(|(host, _)| is_loopback(host))
        })
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(&self.0)
    }
}

impl AsRef<str> for Origin {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl FromStr for Origin {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text)
    }
}

/// Makes a URL fit to be shown: user information replaced, query and fragment dropped, unreadable ones hidden whole.
pub fn display_url(text: &str) -> String {
    let text = text.trim();
    if text.is_empty() {
        return String::new();
    }
    let Some((scheme, rest)) = text.split_once("://") else {
        return REDACTED.to_owned();
    };
    let scheme_is_plain = !scheme.is_empty()
        && scheme
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'));
    if !scheme_is_plain || text.contains(|character: char| character.is_control() || character.is_whitespace()) {
        return REDACTED.to_owned();
    }
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let (authority, path) = rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash));
    match authority.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}://{REDACTED}@{host}{path}"),
        None if authority.is_empty() => REDACTED.to_owned(),
        None => format!("{scheme}://{authority}{path}"),
    }
}

/// Host and port. `None` when the port is not a number from 1 to 65535.
fn split_port(authority: &str) -> Option<(&str, Option<u16>)> {
    let end_of_host = if authority.starts_with('[') {
        authority.find(']')? + 1
    } else {
        authority.find(':').unwrap_or(authority.len())
    };
    let (host, port) = authority.split_at(end_of_host);
    match port.strip_prefix(':') {
        None if port.is_empty() => Some((host, None)),
        Some("") => Some((host, None)),
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => digits
            .parse()
            .ok()
            .filter(|port| *port != 0)
            .map(|port| (host, Some(port))),
        _ => None,
    }
}

fn is_host(host: &str) -> bool {
    match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => {
            !host.is_empty()
                && host.len() <= 253
                && host
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'))
        }
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost"
        || host.parse::<Ipv4Addr>().is_ok_and(|address| address.is_loopback())
        || host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .and_then(|host| host.parse::<Ipv6Addr>().ok())
            .is_some_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_hide_themselves() {
        let secret = Secret::from("tok_12345");
        assert_eq!(
            format!("{secret} {secret:?} {:?}", Some(&secret)),
            "<redacted> <redacted> Some(<redacted>)"
        );
        assert_eq!(secret.redact("bad token tok_12345."), "bad token <redacted>.");
        assert_eq!(Secret::from("a").redact("a bad day"), "a bad day");
        assert_eq!(secret.expose(), "tok_12345");
    }

    #[test]
    fn origins_are_normalised() {
        for (text, normal) in [
            ("https://API.Example.com:443/", "https://api.example.com"),
            ("HTTPS://api.example.com:8443/v1//", "https://api.example.com:8443/v1"),
            ("http://localhost:3000", "http://localhost:3000"),
            ("http://127.0.0.1:80", "http://127.0.0.1"),
            ("http://[::1]:8080/x", "http://[::1]:8080/x"),
            (" https://api.example.com: ", "https://api.example.com"),
        ] {
            assert_eq!(Origin::parse(text).unwrap().as_str(), normal, "{text}");
            assert_eq!(Origin::parse(normal).unwrap().as_str(), normal, "{normal}");
        }
        assert!(Origin::parse("http://[::1]:8080/x").unwrap().is_loopback());
        assert!(!Origin::parse("https://localhost.example.com").unwrap().is_loopback());
    }

    #[test]
    fn unsafe_origins_are_refused_without_repeating_them() {
        for text in [
            "",
            "api.example.com",
            "http://api.example.com",
            "https://user:hunter2@api.example.com",
            "https://h?key=hunter2",
            "https://h/#hunter2",
            "https://",
            "https://h:0",
            "https://h:99999",
            "https://h:+1",
            "ftp://h",
            "https:hunter2",
            "https://a b",
            "https://[::1",
            "https://h\\hunter2",
            "http://127.0.0.1.example.com",
            "http://localhost@evil.example",
        ] {
            let error = Origin::parse(text).unwrap_err();
            assert_eq!(error.kind().exit_code(), 2, "{text}");
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn urls_are_shown_without_their_secrets() {
        for (text, shown) in [
            ("https://user:pw@host/path?x=1#y", "https://<redacted>@host/path"),
            ("https://host:1/path", "https://host:1/path"),
            ("host/path", "<redacted>"),
            ("https://ho st", "<redacted>"),
            ("", ""),
        ] {
            assert_eq!(display_url(text), shown, "{text}");
        }
    }
}
