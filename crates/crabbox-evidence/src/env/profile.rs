//! Profile files: `NAME=value` lines whose values travel for one run.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use crabbox_core::{Error, ErrorKind, IntoError as _, Result};

use super::{is_secret_name, is_valid_name};
use crate::command::quote;

/// Largest profile file.
pub const MAX_PROFILE_BYTES: u64 = 1 << 20;

/// A line that was left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Line number, from 1.
    pub line: usize,
    /// Why, in a few words. Never contains the value.
    pub reason: &'static str,
}

/// Variables of one or several profile files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    /// Values by name.
    pub variables: BTreeMap<String, String>,
    /// What was left out of the last file read.
    pub skipped: Vec<Skipped>,
}

impl Profile {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// `Usage` when it cannot be read, exceeds [`MAX_PROFILE_BYTES`], or is not UTF-8.
    pub fn read(path: &Path) -> Result<Self> {
        let words = || format!("read environment profile `{}`", path.display());
        let file = File::open(path).or_error(ErrorKind::Usage, words)?;
        let mut bytes = Vec::new();
        file.take(MAX_PROFILE_BYTES + 1)
            .read_to_end(&mut bytes)
            .or_error(ErrorKind::Usage, words)?;
        if bytes.len() as u64 > MAX_PROFILE_BYTES {
            return Err(Error::usage(format!(
                "environment profile is larger than 1 MiB: `{}`",
                path.display()
            ))
            .with_hint("keep only NAME=value lines in the file"));
        }
        let text = String::from_utf8(bytes).or_error(ErrorKind::Usage, words)?;
        Ok(Self::parse(&text))
    }

    /// Reads text: optional `export `, `NAME=value`, `#` comments at the start of a line or after whitespace, single or
    /// double quotes. Nothing is expanded; a value with `$(` or a backtick is skipped rather than evaluated.
    ///
    /// In double quotes a backslash escapes `"`, `\` and `$`, as in a shell. A later line wins over an earlier one.
    pub fn parse(text: &str) -> Self {
        let mut profile = Self::default();
        for (index, line) in text.strip_prefix('\u{feff}').unwrap_or(text).lines().enumerate() {
            match parse_line(line) {
                Ok(None) => {}
                Ok(Some((name, value))) => {
                    profile.variables.insert(name.to_owned(), value);
                }
                Err(reason) => profile.skipped.push(Skipped {
                    line: index + 1,
                    reason,
                }),
            }
        }
        profile
    }

    /// Adds a later file, whose values win.
    pub fn merge(&mut self, later: Self) {
        self.variables.extend(later.variables);
        self.skipped = later.skipped;
    }
}

fn parse_line(line: &str) -> Result<Option<(&str, String)>, &'static str> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let assignment = match line.strip_prefix("export") {
        Some(rest) if rest.starts_with([' ', '\t']) => rest.trim_start(),
        _ => line,
    };
    let (name, value) = assignment.split_once('=').ok_or("not a NAME=value line")?;
    if !is_valid_name(name) {
        return Err("not a valid name");
    }
    let value = parse_value(value)?;
    if value.contains("$(") || value.contains('`') {
        return Err("the value asks for a command to run");
    }
    if value.contains('\0') {
        return Err("the value contains a NUL byte");
    }
    Ok(Some((name, value)))
}

fn parse_value(text: &str) -> Result<String, &'static str> {
    let text = text.trim_start();
    if let Some(inner) = text.strip_prefix('\'') {
        let (value, rest) = inner.split_once('\'').ok_or("the quote is not closed")?;
        return after_quote(rest).map(|()| value.to_owned());
    }
    if let Some(inner) = text.strip_prefix('"') {
        let mut value = String::new();
        let mut characters = inner.char_indices();
        while let Some((position, character)) = characters.next() {
            match character {
                '"' => return after_quote(&inner[position + 1..]).map(|()| value),
                '\\' => match characters.next() {
                    Some((_, escaped @ ('"' | '\\' | '$' | '`'))) => value.push(escaped),
                    Some((_, other)) => value.extend(['\\', other]),
                    None => break,
                },
                plain => value.push(plain),
            }
        }
        return Err("the quote is not closed");
    }
    let comment = text
        .match_indices('#')
        .map(|(position, _)| position)
        .find(|position| text[..*position].chars().next_back().is_some_and(char::is_whitespace));
    Ok(text[..comment.unwrap_or(text.len())].trim_end().to_owned())
}

fn after_quote(rest: &str) -> Result<(), &'static str> {
    let trimmed = rest.trim_start();
    if trimmed.is_empty() || (trimmed.starts_with('#') && trimmed.len() < rest.len()) {
        return Ok(());
    }
    Err("text follows the closing quote")
}

/// Where the profile of a run goes, relative to the workdir. Run ids need no quoting.
pub fn remote_path(run_id: &str) -> String {
    format!(".crabbox/env/{run_id}.env")
}

/// A POSIX script, run in the workdir, that stores its standard input (see [`export_lines`](super::export_lines)) as the
/// profile, for its owner alone.
pub fn upload_script(remote_path: &str) -> String {
    let directory = remote_path.rsplit_once('/').map_or(".", |(directory, _)| directory);
    let (directory, path) = (quote(directory), quote(remote_path));
    format!("umask 077 && mkdir -p {directory} && rm -f {path} && cat > {path}")
}

/// A POSIX script, run in the workdir, that removes the profile.
pub fn remove_script(remote_path: &str) -> String {
    format!("rm -f {}", quote(remote_path))
}

/// A POSIX script that tells, for each name, whether sourcing the file sets it, and how long the value is. It prints one
/// `NAME length` line per name that is set, and no value.
///
/// Names that a shell cannot assign to are left out.
pub fn probe_script<'a>(remote_path: &str, names: impl IntoIterator<Item = &'a str>) -> String {
    let mut script = String::new();
    let names: Vec<&str> = names.into_iter().filter(|name| is_valid_name(name)).collect();
    // Variables of the box itself must not pass for the profile's.
    for name in &names {
        script.push_str(&format!("unset {name}\n"));
    }
    let path = quote(remote_path);
    script.push_str(&format!(
        "case {path} in /*) . {path} ;; *) . ./{path} ;; esac || exit 1\n"
    ));
    for name in names {
        script.push_str(&format!(
            "[ -z \"${{{name}+x}}\" ] || printf '%s %s\\n' {name} \"${{#{name}}}\"\n"
        ));
    }
    script
}

/// The line about what [`probe_script`] printed: `env profile remote=P vars=CI=set,API_KEY=set len=8 secret=true`. A name
/// that was not set is `missing`.
pub fn parse_probe<'a>(remote_path: &str, names: impl IntoIterator<Item = &'a str>, output: &str) -> String {
    let lengths: BTreeMap<&str, u64> = output
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(name, length)| Some((name, length.trim().parse().ok()?)))
        .collect();
    let vars: Vec<String> = names
        .into_iter()
        .map(|name| match lengths.get(name) {
            None => format!("{name}=missing"),
            Some(0) => format!("{name}=empty"),
            Some(length) if is_secret_name(name) => format!("{name}=set len={length} secret=true"),
            Some(_) => format!("{name}=set"),
        })
        .collect();
    let vars = if vars.is_empty() {
        "none".to_owned()
    } else {
        vars.join(",")
    };
    format!("env profile remote={remote_path} vars={vars}")
}

#[cfg(test)]
mod tests {
    use super::{Profile, Skipped, parse_probe, probe_script, remote_path, remove_script, upload_script};
    use crate::command::quote;

    #[test]
    fn the_grammar_is_that_of_dotenv_files() {
        let profile = Profile::parse(concat!(
            "\u{feff}# comment\r\n",
            "A=plain # comment\r\n",
            "export B='single # not a comment' # comment\n",
            "export\tC=\"double \\\" \\\\ \\$HOME \\n\"\n",
            "D=\n",
            "E=a#b\n",
            "  F = no\n",
            "G=$(id)\n",
            "H=`id`\n",
            "I=\"open\n",
            "J='a'b\n",
            "bare\n",
            "1K=x\n",
            "L=$HOME\n",
            "A=later\n",
        ));
        let variables: Vec<(&str, &str)> = profile
            .variables
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        assert_eq!(
            variables,
            [
                ("A", "later"),
                ("B", "single # not a comment"),
                ("C", "double \" \\ $HOME \\n"),
                ("D", ""),
                ("E", "a#b"),
                ("L", "$HOME"),
            ]
        );
        let skipped: Vec<(usize, &str)> = profile
            .skipped
            .iter()
            .map(|Skipped { line, reason }| (*line, *reason))
            .collect();
        assert_eq!(
            skipped,
            [
                (7, "not a valid name"),
                (8, "the value asks for a command to run"),
                (9, "the value asks for a command to run"),
                (10, "the quote is not closed"),
                (11, "text follows the closing quote"),
                (12, "not a NAME=value line"),
                (13, "not a valid name"),
            ]
        );
    }

    #[test]
    fn later_files_win() {
        let mut profile = Profile::parse("A=1\nB=1\nbad\n");
        profile.merge(Profile::parse("B=2\n"));
        assert_eq!(profile, Profile::parse("A=1\nB=2\n"));
    }

    #[test]
    fn a_profile_that_cannot_be_read_is_a_usage_error() {
        let directory = tempfile::tempdir().unwrap();
        let error = Profile::read(&directory.path().join("absent.env")).unwrap_err();
        assert_eq!(error.kind(), crabbox_core::ErrorKind::Usage);
    }

    #[test]
    fn profiles_are_uploaded_for_their_owner_and_removed() {
        let directory = tempfile::tempdir().unwrap();
        let inside = format!("cd {}", directory.path().display());
        let remote = remote_path("run_0123456789ab");
        let variables = [("A".to_owned(), "it's\n$HOME".to_owned())].into();
        let lines = crate::env::export_lines(&variables);
        let upload = upload_script(&remote);
        let script = format!(
            "{inside} && printf '%s' {} | {{ {upload}; }}; . ./{remote}; printf '%s' \"$A\"; ls -l {remote}",
            quote(&lines)
        );
        let output = crate::command::tests::sh(&script);
        assert!(output.starts_with("it's\n$HOME-rw-------"), "{output}");
        crate::command::tests::sh(&format!("{inside} && {} && ! [ -e {remote} ]", remove_script(&remote)));
    }

    #[test]
    fn the_probe_tells_lengths_and_no_values() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("it's.env");
        let mut profile = crate::private_file::PrivateFile::create(&path).unwrap();
        std::io::Write::write_all(
            &mut profile,
            b"export CI='1'\nexport API_KEY='12345678'\nexport NONE=''\n",
        )
        .unwrap();
        profile.finish().unwrap();
        let names = ["CI", "API_KEY", "NONE", "HOME", "not-a-name"];
        let remote = path.to_str().unwrap();
        let output = crate::command::tests::sh(&probe_script(remote, names));
        assert_eq!(output.lines().count(), 3);
        assert_eq!(
            parse_probe("P", names, &output),
            "env profile remote=P vars=CI=set,API_KEY=set len=8 secret=true,NONE=empty,HOME=missing,not-a-name=missing"
        );
    }
}
