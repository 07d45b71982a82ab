//! Files of host keys in OpenSSH format: plain, wildcard and hashed names, `@revoked` and `@cert-authority`.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit as _, Mac as _};
use russh::keys::PublicKey;
use sha1::Sha1;

/// Most bytes read of one file; the largest in use hold some ten thousand hosts.
const LIMIT: u64 = 16 << 20;

/// What a line says about its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Marker {
    /// The key is the host's.
    Host,
    /// The key signs certificates of hosts.
    Authority,
    /// The key must never be accepted.
    Revoked,
}

/// One line.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) marker: Marker,
    pub(crate) hosts: String,
    pub(crate) key: PublicKey,
    pub(crate) file: PathBuf,
    /// Counted from 1.
    pub(crate) line: usize,
}

/// The names under which a host on a port is looked up, the preferred first.
pub(crate) fn names(host: &str, port: u16) -> Vec<String> {
    let host = host.to_lowercase();
    if port == 22 {
        vec![host]
    } else {
        vec![format!("[{host}]:{port}"), host]
    }
}

/// Host and port as people write them.
pub(crate) fn place(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// Reads files; those that do not exist are empty, and lines that make no sense are skipped, as OpenSSH does.
pub(crate) fn read(files: &[PathBuf]) -> io::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for path in files {
        let mut text = Vec::new();
        match File::open(path) {
            Ok(file) => file.take(LIMIT).read_to_end(&mut text)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        entries.extend(parse(&String::from_utf8_lossy(&text), path));
    }
    Ok(entries)
}

/// Parses the lines of one file.
pub(crate) fn parse(text: &str, file: &Path) -> Vec<Entry> {
    let mut entries = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let mut rest = line;
        let marker = match line.split_ascii_whitespace().next() {
            Some("@cert-authority") => Marker::Authority,
            Some("@revoked") => Marker::Revoked,
            Some(word) if word.starts_with('@') => continue,
            _ => Marker::Host,
        };
        if marker != Marker::Host {
            rest = line
                .split_once(|c: char| c.is_ascii_whitespace())
                .map_or("", |(_, rest)| rest)
                .trim_start();
        }
        let Some((hosts, key)) = rest.split_once(|c: char| c.is_ascii_whitespace()) else {
            continue;
        };
        let mut words = key.split_ascii_whitespace();
        let (Some(kind), Some(data)) = (words.next(), words.next()) else {
            continue;
        };
        if let Ok(key) = PublicKey::from_openssh(&format!("{kind} {data}")) {
            entries.push(Entry {
                marker,
                hosts: hosts.to_owned(),
                key,
                file: file.to_owned(),
                line: index + 1,
            });
        }
    }
    entries
}

impl Entry {
    /// Whether the line is about a name, which must be in lower case.
    pub(crate) fn is_about(&self, name: &str) -> bool {
        if self.hosts.starts_with('|') {
            return hashed_matches(&self.hosts, name);
        }
        let mut found = false;
        for pattern in self.hosts.split(',') {
            match pattern.strip_prefix('!') {
                Some(pattern) if wildcard(&pattern.to_lowercase(), name) => return false,
                Some(_) => {}
                None => found |= wildcard(&pattern.to_lowercase(), name),
            }
        }
        found
    }
}

/// `|1|<salt>|<hmac-sha1 of the name>`.
fn hashed_matches(hosts: &str, name: &str) -> bool {
    let mut parts = hosts.split('|').skip(1);
    let (Some("1"), Some(salt), Some(hash)) = (parts.next(), parts.next(), parts.next()) else {
        return false;
    };
    let (Ok(salt), Ok(hash)) = (BASE64.decode(salt), BASE64.decode(hash)) else {
        return false;
    };
    Hmac::<Sha1>::new_from_slice(&salt).is_ok_and(|mac| mac.chain_update(name).verify_slice(&hash).is_ok())
}

/// `*` is any text, `?` any character; nothing else is special, not even brackets.
pub(crate) fn wildcard(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut at, mut seen) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while seen < text.len() {
        if at < pattern.len() && pattern[at] == '*' {
            star = Some((at, seen));
            at += 1;
        } else if at < pattern.len() && (pattern[at] == '?' || pattern[at] == text[seen]) {
            at += 1;
            seen += 1;
        } else if let Some((star_at, star_seen)) = star {
            star = Some((star_at, star_seen + 1));
            at = star_at + 1;
            seen = star_seen + 1;
        } else {
            return false;
        }
    }
    pattern[at..].iter().all(|c| *c == '*')
}

/// Appends the first key of a host. The file and its directory are private; a key that another process wrote since is
/// left to the caller to judge.
///
/// Returns what the file says about the name now, which is not empty.
pub(crate) fn learn(path: &Path, name: &str, key: &PublicKey) -> io::Result<Vec<Entry>> {
    if let Some(directory) = path.parent() {
        create_private(directory)?;
    }
    let mut options = OpenOptions::new();
    options.read(true).append(true).create(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        // A link planted in a shared directory must not lead the key elsewhere.
        options
            .mode(0o600)
            .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed());
    }
    let mut file = options.open(path)?;
    // Two processes may meet a host for the first time at once; the second must see what the first wrote.
    file.lock()?;
    let mut text = String::new();
    file.seek(SeekFrom::Start(0))?;
    (&file).take(LIMIT).read_to_string(&mut text)?;
    let known: Vec<Entry> = parse(&text, path)
        .into_iter()
        .filter(|entry| entry.is_about(name))
        .collect();
    if !known.is_empty() {
        return Ok(known);
    }
    let mut bare = key.clone();
    bare.set_comment("");
    let key = bare.to_openssh().map_err(io::Error::other)?;
    let gap = if text.is_empty() || text.ends_with('\n') {
        ""
    } else {
        "\n"
    };
    let line = format!("{gap}{name} {}\n", key.trim());
    file.write_all(line.as_bytes())?;
    file.sync_all()?;
    Ok(parse(&line, path))
}

fn create_private(directory: &Path) -> io::Result<()> {
    if directory.as_os_str().is_empty() || directory.is_dir() {
        return Ok(());
    }
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(directory)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";
    const OTHER: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";

    fn about(text: &str, name: &str) -> usize {
        parse(text, Path::new("f"))
            .iter()
            .filter(|entry| entry.is_about(name))
            .count()
    }

    #[test]
    fn names_of_other_ports_are_bracketed() {
        assert_eq!(names("Box.Test", 22), ["box.test"]);
        assert_eq!(names("box", 2222), ["[box]:2222", "box"]);
        assert_eq!(place("::1", 22), "[::1]:22");
    }

    #[test]
    fn lists_wildcards_and_negations_are_understood() {
        let text = format!("a.test,b.test {KEY} comment\n*.c.test,!x.c.test {KEY}\n[box]:2222 {KEY}\n");
        for (name, count) in [
            ("a.test", 1),
            ("b.test", 1),
            ("y.c.test", 1),
            ("x.c.test", 0),
            ("c.test", 0),
            ("[box]:2222", 1),
            ("box", 0),
        ] {
            assert_eq!(about(&text, name), count, "{name}");
        }
    }

    #[test]
    fn hashed_names_are_found() {
        // Made by `ssh-keygen -H` from `[127.0.0.1]:2222`.
        let salt = BASE64.encode([7_u8; 20]);
        let hash = Hmac::<Sha1>::new_from_slice(&[7_u8; 20])
            .unwrap()
            .chain_update("[127.0.0.1]:2222");
        let hash = BASE64.encode(hash.finalize().into_bytes());
        let text = format!("|1|{salt}|{hash} {KEY}\n");
        assert_eq!(about(&text, "[127.0.0.1]:2222"), 1);
        assert_eq!(about(&text, "[127.0.0.1]:2223"), 0);
    }

    #[test]
    fn markers_and_nonsense() {
        let text = format!(
            "# comment\n\n@revoked * {KEY}\n@cert-authority *.test {OTHER}\n@unknown * {KEY}\nbox\nbox ssh-ed25519\nbox x y\n"
        );
        let entries = parse(&text, Path::new("f"));
        let found: Vec<(Marker, usize)> = entries.iter().map(|entry| (entry.marker, entry.line)).collect();
        assert_eq!(found, [(Marker::Revoked, 3), (Marker::Authority, 4)]);
    }

    #[test]
    fn a_key_is_learned_once_and_the_file_is_private() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lease/known_hosts");
        let key = PublicKey::from_openssh(KEY).unwrap();
        assert_eq!(learn(&path, "[box]:2222", &key).unwrap().len(), 1);
        let other = PublicKey::from_openssh(OTHER).unwrap();
        let known = learn(&path, "[box]:2222", &other).unwrap();
        assert_eq!(known[0].key.key_data(), key.key_data());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("[box]:2222 {KEY}\n"));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_parse_without_panic(text in ".{0,200}") {
            for entry in parse(&text, Path::new("f")) {
                entry.is_about("box");
            }
        }

        #[test]
        fn a_wildcard_agrees_with_its_definition(pattern in "[ab*?]{0,6}", text in "[ab]{0,6}") {
            fn slow(pattern: &[u8], text: &[u8]) -> bool {
                match pattern.split_first() {
                    None => text.is_empty(),
                    Some((b'*', rest)) => (0..=text.len()).any(|skip| slow(rest, &text[skip..])),
                    Some((b'?', rest)) => !text.is_empty() && slow(rest, &text[1..]),
                    Some((c, rest)) => text.first() == Some(c) && slow(rest, &text[1..]),
                }
            }
            prop_assert_eq!(wildcard(&pattern, &text), slow(pattern.as_bytes(), text.as_bytes()));
        }
    }
}
