//! Presets become commands.

use std::collections::BTreeMap;

use crabbox_core::{Error, Result};

use crate::config::is_variable_name;
use crate::generic::Preset;

/// What a preset runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PresetCommand {
    /// One line for the shell.
    Shell(String),
    /// Words.
    Words(Vec<Word>),
}

/// A word of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    /// Its text.
    pub text: String,
    /// Whether it was quoted or holds a replaced placeholder, and so has no meaning for a shell.
    pub literal: bool,
}

/// A preset with its placeholders replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExpandedPreset {
    /// The command.
    pub command: PresetCommand,
    /// Variables of the command.
    pub env: BTreeMap<String, String>,
    /// Whether the preflight runs first.
    pub preflight: bool,
    /// Files that are collected after the command.
    pub artifact_globs: Vec<String>,
    /// Proof template that belongs to it.
    pub proof_template: Option<String>,
}

impl Preset {
    /// Replaces the placeholders.
    ///
    /// # Errors
    ///
    /// `Usage` for a placeholder without a value, an open quote, a bad variable name, and an empty command.
    pub fn expand(&self, name: &str, variables: &BTreeMap<String, String>) -> Result<ExpandedPreset> {
        let context = |error: Error| error.context(format!("preset {name}"));
        let template = self.command.as_deref().unwrap_or_default();
        let command = if self.shell {
            let line = replace(template, variables).map_err(context)?;
            let is_empty = line.trim().is_empty();
            (!is_empty).then_some(PresetCommand::Shell(line))
        } else {
            let words = split(template, variables).map_err(context)?;
            (!words.is_empty()).then_some(PresetCommand::Words(words))
        };
        let command = command.ok_or_else(|| {
            context(
                Error::usage("command is empty").with_hint(format!("set `presets.{name}.command` in your config file")),
            )
        })?;
        let mut env = BTreeMap::new();
        for (variable, value) in &self.env {
            if !is_variable_name(variable) {
                return Err(context(Error::usage(format!(
                    "not a variable name: `{}`",
                    variable.escape_debug()
                )))
                .with_hint("use letters, digits and `_`, not a digit first"));
            }
            env.insert(variable.clone(), replace(value, variables).map_err(context)?);
        }
        let artifact_globs = self
            .artifact_globs
            .iter()
            .map(|pattern| replace(pattern, variables))
            .collect::<Result<_>>()
            .map_err(context)?;
        Ok(ExpandedPreset {
            command,
            env,
            preflight: self.preflight,
            artifact_globs,
            proof_template: self.proof_template.clone(),
        })
    }
}

/// Reads `--preset-var` values: `name=value`, comma-separated. `--scenario` is the variable `scenario`.
///
/// # Errors
///
/// `Usage` for an entry without `=` and for a name that no placeholder can have.
pub fn preset_variables<'text>(
    given: impl IntoIterator<Item = &'text str>,
    scenario: Option<&str>,
) -> Result<BTreeMap<String, String>> {
    let mut variables = BTreeMap::new();
    for entry in given
        .into_iter()
        .flat_map(|text| text.split(','))
        .filter(|entry| !entry.trim().is_empty())
    {
        let pair = entry.split_once('=').map(|(name, value)| (name.trim(), value));
        let Some((name, value)) = pair.filter(|(name, _)| is_placeholder_name(name)) else {
            return Err(Error::usage(format!("not name=value: `{}`", entry.escape_debug()))
                .with_hint("write `--preset-var name=value`"));
        };
        variables.insert(name.to_owned(), value.to_owned());
    }
    if let Some(scenario) = scenario {
        variables.insert("scenario".to_owned(), scenario.to_owned());
    }
    Ok(variables)
}

fn is_placeholder_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes
        .next()
        .is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
}

/// The value of the placeholder that a text begins with, and the text after it. `None` when it begins with none.
fn placeholder<'text>(text: &'text str, variables: &BTreeMap<String, String>) -> Result<Option<(String, &'text str)>> {
    let Some((name, rest)) = text.strip_prefix("{{").and_then(|text| text.split_once("}}")) else {
        return Ok(None);
    };
    if !is_placeholder_name(name) {
        return Ok(None);
    }
    match variables.get(name) {
        Some(value) => Ok(Some((value.clone(), rest))),
        None => Err(Error::usage(format!("placeholder without a value: `{name}`"))
            .with_hint(format!("give `--preset-var {name}=value`"))),
    }
}

fn replace(mut text: &str, variables: &BTreeMap<String, String>) -> Result<String> {
    let mut replaced = String::new();
    while let Some(first) = text.chars().next() {
        if let Some((value, rest)) = placeholder(text, variables)? {
            replaced.push_str(&value);
            text = rest;
        } else {
            replaced.push(first);
            text = &text[first.len_utf8()..];
        }
    }
    Ok(replaced)
}

/// Splits into words as a shell does, without expanding anything but placeholders, whose values are never split.
fn split(mut text: &str, variables: &BTreeMap<String, String>) -> Result<Vec<Word>> {
    let open = |quote: char| Error::usage(format!("open quote in command: `{quote}`")).with_hint("close the quote");
    let mut words = Vec::new();
    let mut word: Option<Word> = None;
    let mut quote: Option<char> = None;
    while let Some(first) = text.chars().next() {
        if let Some((value, rest)) = placeholder(text, variables)? {
            let word = word.get_or_insert_with(empty_word);
            word.text.push_str(&value);
            word.literal = true;
            text = rest;
            continue;
        }
        let mut rest = &text[first.len_utf8()..];
        match (quote, first) {
            (Some(open), close) if open == close => quote = None,
            (None | Some('"'), '\\') => {
                let next = rest.chars().next().ok_or_else(|| open('\\'))?;
                let word = word.get_or_insert_with(empty_word);
                // Between double quotes a backslash only protects what would mean something there.
                if quote.is_some() && !matches!(next, '"' | '\\' | '$' | '`') {
                    word.text.push('\\');
                }
                word.text.push(next);
                word.literal = true;
                rest = &rest[next.len_utf8()..];
            }
            (None, '\'' | '"') => {
                quote = Some(first);
                word.get_or_insert_with(empty_word).literal = true;
            }
            (None, space) if space.is_whitespace() => words.extend(word.take()),
            (_, other) => word.get_or_insert_with(empty_word).text.push(other),
        }
        text = rest;
    }
    if let Some(quote) = quote {
        return Err(open(quote));
    }
    words.extend(word);
    Ok(words)
}

const fn empty_word() -> Word {
    Word {
        text: String::new(),
        literal: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn preset(command: &str, shell: bool) -> Preset {
        Preset {
            command: Some(command.to_owned()),
            shell,
            env: [("MODE".to_owned(), "x-{{mode}}".to_owned())].into(),
            preflight: true,
            artifact_globs: vec!["out/{{mode}}/*".to_owned()],
            proof_template: None,
        }
    }

    fn variables() -> BTreeMap<String, String> {
        preset_variables(["mode=fast one,n=2"], Some("login")).unwrap()
    }

    #[test]
    fn words_are_split_and_placeholders_are_not() {
        let expanded = preset(
            r#"go test -run {{mode}} 'a b' "c $x \" \q" d\ e pre{{scenario}} && '' {{not one}}"#,
            false,
        )
        .expand("p", &variables())
        .unwrap();
        let PresetCommand::Words(words) = expanded.command else {
            panic!("not words")
        };
        let words: Vec<(&str, bool)> = words.iter().map(|word| (word.text.as_str(), word.literal)).collect();
        let expected = [
            ("go", false),
            ("test", false),
            ("-run", false),
            ("fast one", true),
            ("a b", true),
            ("c $x \" \\q", true),
            ("d e", true),
            ("prelogin", true),
            ("&&", false),
            ("", true),
            ("{{not", false),
            ("one}}", false),
        ];
        assert_eq!(words, expected);
        assert_eq!(expanded.env["MODE"], "x-fast one");
        assert_eq!(expanded.artifact_globs, ["out/fast one/*"]);
        assert!(expanded.preflight);
    }

    #[test]
    fn a_shell_preset_is_one_line() {
        let expanded = preset("make {{n}} | tee 'log", true).expand("p", &variables()).unwrap();
        assert_eq!(expanded.command, PresetCommand::Shell("make 2 | tee 'log".to_owned()));
    }

    #[test]
    fn mistakes_are_named() {
        for (command, message) in [
            ("run {{other}}", "preset p: placeholder without a value: `other`"),
            ("run 'x", "preset p: open quote in command: `'`"),
            ("run x\\", "preset p: open quote in command: `\\`"),
            ("  ", "preset p: command is empty"),
        ] {
            let error = preset(command, false).expand("p", &variables()).unwrap_err();
            assert_eq!((error.to_string().as_str(), error.kind().exit_code()), (message, 2));
            assert!(error.hint().is_some());
        }
        assert_eq!(
            preset_variables(["1a=x"], None).unwrap_err().to_string(),
            "not name=value: `1a=x`"
        );
        assert_eq!(
            preset_variables(["a"], None).unwrap_err().to_string(),
            "not name=value: `a`"
        );
    }
}
