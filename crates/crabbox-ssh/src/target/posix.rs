//! POSIX shells.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Words that turn a list of words into a script.
const OPERATORS: [&str; 9] = ["&&", "||", ";", "|", ">", ">>", "<", "2>", "2>>"];

/// Operators after which a new command, and so its assignments, begins.
const SEPARATORS: [&str; 4] = ["&&", "||", ";", "|"];

/// Puts text in single quotes.
pub fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Puts text in single quotes unless it is plain, for people to read.
pub fn quote_readably(text: &str) -> String {
    let plain = !text.is_empty()
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "._-/:=@%+,".contains(c));
    if plain { text.to_owned() } else { quote(text) }
}

/// Whether a shell can export a variable of this name.
pub fn is_name(name: &str) -> bool {
    let mut characters = name.chars();
    characters.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && characters.all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// What a login shell on the box shall run.
#[derive(Clone, Copy, Debug)]
pub enum Work<'a> {
    /// A program and its arguments, untouched.
    Argv(&'a [String]),
    /// Text for the shell.
    Script(&'a str),
    /// A script file with a first line that names its interpreter, and its arguments.
    Executable(&'a [String]),
    /// A script file for `bash`, and its arguments.
    BashFile(&'a [String]),
}

/// The line that runs a user's command: enter the directory, read the files of variables, and start a login shell,
/// which enters the directory again because the profile of some images leaves it.
///
/// Variables whose name no shell can export are left out. They stand in the line and so in argument lists: never
/// secrets, for which [`ExecRequest::env`](crabbox_core::remote::ExecRequest::env) is.
pub fn login_line(workdir: &str, env_files: &[String], env: &BTreeMap<String, String>, work: Work<'_>) -> String {
    let workdir = quote(workdir);
    let mut line = format!("cd {workdir} && ");
    for file in env_files {
        let file = quote(file);
        let _ = write!(line, "if [ -f {file} ]; then . {file}; fi && ");
    }
    for (name, value) in env.iter().filter(|(name, _)| is_name(name)) {
        let _ = write!(line, "{name}={} ", quote(value));
    }
    let script = match work {
        Work::Argv(_) => format!("cd {workdir} && exec \"$@\""),
        Work::Script(script) => format!("cd {workdir} && {script}"),
        Work::Executable(_) => "exec \"$@\"".to_owned(),
        Work::BashFile(_) => "exec bash \"$@\"".to_owned(),
    };
    let _ = write!(line, "bash -lc {}", quote(&script));
    if let Work::Argv(words) | Work::Executable(words) | Work::BashFile(words) = work {
        line.push_str(" bash");
        for word in words {
            let _ = write!(line, " {}", quote(word));
        }
    }
    line
}

/// The script that a list of words means, when it means one: a word that stands alone and has shell characters, a list
/// with an operator, or one that begins with an assignment. `None` for a plain program and its arguments.
pub fn as_script(words: &[String]) -> Option<String> {
    if let [word] = words
        && word.contains([' ', '\t', '\r', '\n', '&', '|', ';', '<', '>', '*', '$', '`', '(', ')'])
    {
        return Some(word.clone());
    }
    let operator = words.iter().any(|word| OPERATORS.contains(&word.as_str()));
    if !operator && (words.len() < 2 || assignment(&words[0]).is_none()) {
        return None;
    }
    let mut begins = true;
    let mut parts = Vec::with_capacity(words.len());
    for word in words {
        if OPERATORS.contains(&word.as_str()) {
            begins = SEPARATORS.contains(&word.as_str());
            parts.push(word.clone());
            continue;
        }
        match assignment(word).filter(|_| begins) {
            Some((name, value)) => parts.push(format!("{name}={}", quote(value))),
            None => {
                begins = false;
                parts.push(quote(word));
            }
        }
    }
    Some(parts.join(" "))
}

fn assignment(word: &str) -> Option<(&str, &str)> {
    word.split_once('=').filter(|(name, _)| is_name(name))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn words(text: &[&str]) -> Vec<String> {
        text.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn lines_of_every_kind_of_work() {
        let env = BTreeMap::from([("A".to_owned(), "it's".to_owned()), ("B-AD".to_owned(), "x".to_owned())]);
        let argv = words(&["cargo", "test", "a b"]);
        let lines = [
            login_line("/work/x", &[], &env, Work::Argv(&argv)),
            login_line(
                "/work/it's",
                &["/e".into()],
                &BTreeMap::new(),
                Work::Script("make | tee log"),
            ),
            login_line("/w", &[], &BTreeMap::new(), Work::Executable(&argv)),
            login_line("/w", &[], &BTreeMap::new(), Work::BashFile(&argv)),
        ];
        insta::assert_snapshot!(lines.join("\n"), @r#"
        cd '/work/x' && A='it'\''s' bash -lc 'cd '\''/work/x'\'' && exec "$@"' bash 'cargo' 'test' 'a b'
        cd '/work/it'\''s' && if [ -f '/e' ]; then . '/e'; fi && bash -lc 'cd '\''/work/it'\''\'\'''\''s'\'' && make | tee log'
        cd '/w' && bash -lc 'exec "$@"' bash 'cargo' 'test' 'a b'
        cd '/w' && bash -lc 'exec bash "$@"' bash 'cargo' 'test' 'a b'
        "#);
    }

    #[test]
    fn words_become_a_script_only_when_they_mean_one() {
        let cases: [(&[&str], Option<&str>); 9] = [
            (&["make"], None),
            (&["make", "a b"], None),
            (&["make && ls"], Some("make && ls")),
            (&["make", "&&", "ls", "$x"], Some("'make' && 'ls' '$x'")),
            (&["A=1", "make"], Some("A='1' 'make'")),
            (&["A=1"], None),
            (&["make", "A=1"], None),
            (&["x", ";", "A=b c", "y", "Z=1"], Some("'x' ; A='b c' 'y' 'Z=1'")),
            (&["x", ">", "A=1"], Some("'x' > 'A=1'")),
        ];
        for (input, expected) in cases {
            assert_eq!(as_script(&words(input)).as_deref(), expected, "{input:?}");
        }
    }

    #[test]
    fn readable_quoting() {
        assert_eq!(quote_readably("a/b.c"), "a/b.c");
        assert_eq!(quote_readably(""), "''");
        assert_eq!(quote_readably("a b"), "'a b'");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn a_shell_reads_back_what_was_quoted(text in "[^\0]{0,40}") {
            #[expect(clippy::disallowed_methods, reason = "the shell is the oracle")]
            let output = std::process::Command::new("sh")
                .args(["-c", &format!("printf %s {}", quote(&text))])
                .output()
                .unwrap();
            prop_assert_eq!(output.stdout, text.into_bytes());
        }
    }
}
