//! From the words after the flags to what the box executes.
//!
//! Everything is POSIX shell. The box needs `sh`; when it has `bash`, a login shell of it runs the command, so that what
//! a person's profile sets up is there.

mod script;
mod wrap;

pub use script::{Script, ScriptSource};
pub use wrap::{Delivery, Invocation, Shell};

use std::borrow::Cow;

use crabbox_core::{Error, Result};

use crate::text::hostile;

/// Characters that send a single word through a shell.
const SHELL_CHARACTERS: [char; 14] = [' ', '\t', '\r', '\n', '&', '|', ';', '<', '>', '*', '$', '`', '(', ')'];

/// Words that a shell, and nothing else, understands.
const OPERATORS: [&str; 9] = ["&&", "||", ";", "|", ">", ">>", "<", "2>", "2>>"];

/// Operators after which a new command starts, and with it its assignments.
const SEPARATORS: [&str; 4] = ["&&", "||", ";", "|"];

/// Quotes one word for a POSIX shell: single quotes, an embedded one as `'\''`.
pub fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Quotes a word only when a shell would read it differently, for people to read and copy.
pub fn quote_if_needed(word: &str) -> Cow<'_, str> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_@%+=:,./-".contains(&byte);
    // A word that looks like an assignment must not become one when it is copied.
    let assignment = word
        .split_once('=')
        .is_some_and(|(name, _)| crate::env::is_valid_name(name));
    if !word.is_empty() && word.bytes().all(plain) && !assignment {
        Cow::Borrowed(word)
    } else {
        Cow::Owned(quote(word))
    }
}

/// Joins words into a line that a POSIX shell splits into the same words.
pub fn join<S: AsRef<str>>(words: impl IntoIterator<Item = S>) -> String {
    words
        .into_iter()
        .map(|word| quote_if_needed(word.as_ref()).into_owned())
        .collect::<Vec<_>>()
        .join(" ")
}

/// One word of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    /// The text.
    pub text: String,
    /// It came from a substituted placeholder: a value, never an operator.
    pub literal: bool,
}

impl<S: Into<String>> From<S> for Word {
    fn from(text: S) -> Self {
        Self {
            text: text.into(),
            literal: false,
        }
    }
}

/// What is executed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Program {
    /// A program and its arguments; no shell looks at them.
    Argv(Vec<String>),
    /// Text for a shell.
    Shell(String),
    /// An uploaded script and its arguments.
    Script {
        /// The script.
        script: Script,
        /// Arguments after its name.
        arguments: Vec<String>,
    },
}

/// A command of the user, before it is wrapped for a box.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    program: Program,
    display: String,
    recorded: Vec<String>,
}

impl Command {
    /// Takes the words after the flags; a leading `--` is dropped.
    ///
    /// With `shell`, the words are joined with single spaces and evaluated. Otherwise a shell is used only when one word
    /// alone contains shell characters, the first of several words is an assignment, or a word is an operator.
    ///
    /// # Errors
    ///
    /// `Usage` when there is no command, the program's name is empty, or a word contains NUL.
    pub fn from_words(words: &[Word], shell: bool) -> Result<Self> {
        let words = without_separator(words);
        refuse_nul(words.iter().map(|word| word.text.as_str()))?;
        let recorded: Vec<String> = words.iter().map(|word| word.text.clone()).collect();
        let Some(first) = words.first() else {
            return Err(no_command());
        };
        if shell {
            let script = recorded.join(" ");
            if script.trim().is_empty() {
                return Err(no_command());
            }
            return Ok(Self::new(Program::Shell(script.clone()), &script, recorded));
        }
        if first.text.trim().is_empty() {
            return Err(no_command());
        }
        if let [only] = words
            && !only.literal
            && only.text.contains(SHELL_CHARACTERS)
        {
            return Ok(Self::new(Program::Shell(only.text.clone()), &only.text, recorded));
        }
        let operators = words.iter().any(is_operator);
        if words.len() > 1 && (operators || assignment(&first.text).is_some()) {
            let script = shell_text(words, |word| Cow::Owned(quote(word)));
            let display = shell_text(words, quote_if_needed);
            return Ok(Self::new(Program::Shell(script), &display, recorded));
        }
        let display = join(&recorded);
        Ok(Self::new(Program::Argv(recorded.clone()), &display, recorded))
    }

    fn new(program: Program, display: &str, recorded: Vec<String>) -> Self {
        Self {
            program,
            display: hostile(display).into_owned(),
            recorded,
        }
    }

    /// Runs a script; the words, without a leading `--`, are its arguments.
    ///
    /// # Errors
    ///
    /// `Usage` when a word contains NUL.
    pub fn from_script(script: Script, words: &[Word]) -> Result<Self> {
        let words = without_separator(words);
        refuse_nul(words.iter().map(|word| word.text.as_str()))?;
        let arguments: Vec<String> = words.iter().map(|word| word.text.clone()).collect();
        let mut recorded = match script.source() {
            ScriptSource::File(path) => vec!["--script".to_owned(), path.clone()],
            ScriptSource::Stdin => vec!["--script-stdin".to_owned()],
        };
        recorded.extend(arguments.iter().cloned());
        let display = join(&recorded);
        Ok(Self::new(Program::Script { script, arguments }, &display, recorded))
    }

    /// What is executed.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// One line for people, with line breaks and other control characters as codes; not redacted.
    pub fn display(&self) -> &str {
        &self.display
    }

    /// The words that records keep. Scripts are `--script PATH args` or `--script-stdin args`.
    pub fn recorded(&self) -> &[String] {
        &self.recorded
    }

    /// Text that the shell evaluates, if one does.
    pub fn shell_text(&self) -> Option<&str> {
        match &self.program {
            Program::Shell(text) => Some(text),
            Program::Argv(_) | Program::Script { .. } => None,
        }
    }
}

fn without_separator(words: &[Word]) -> &[Word] {
    match words {
        [first, rest @ ..] if first.text == "--" && !first.literal => rest,
        words => words,
    }
}

fn no_command() -> Error {
    Error::usage("no command to run").with_hint(
        "put the command after `--`: `crabbox run -- cargo test`, or use --script, --script-stdin or --sync-only",
    )
}

fn refuse_nul<'a>(mut words: impl Iterator<Item = &'a str>) -> Result<()> {
    match words.find(|word| word.contains('\0')) {
        None => Ok(()),
        Some(word) => Err(Error::usage(format!(
            "a word of the command contains a NUL byte: `{}`",
            word.escape_debug()
        ))
        .with_hint("pass binary data in a file")),
    }
}

fn is_operator(word: &Word) -> bool {
    !word.literal && OPERATORS.contains(&word.text.as_str())
}

fn assignment(word: &str) -> Option<(&str, &str)> {
    word.split_once('=').filter(|(name, _)| crate::env::is_valid_name(name))
}

/// The words as shell text: operators bare, assignments at the start of a command as assignments, the rest quoted.
fn shell_text(words: &[Word], quote_word: impl Fn(&str) -> Cow<'_, str>) -> String {
    let mut parts = Vec::with_capacity(words.len());
    let mut command_starts = true;
    for word in words {
        if is_operator(word) {
            command_starts = SEPARATORS.contains(&word.text.as_str());
            parts.push(word.text.clone());
            continue;
        }
        match assignment(&word.text) {
            Some((name, value)) if command_starts => parts.push(format!("{name}={}", quote_word(value))),
            _ => {
                command_starts = false;
                parts.push(quote_word(&word.text).into_owned());
            }
        }
    }
    parts.join(" ")
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::{ProptestConfig, prop, proptest};

    use super::{Command, Program, Script, ScriptSource, Word, join, quote, quote_if_needed};

    /// Runs a script with the real shell of this machine and returns what it printed.
    #[expect(clippy::disallowed_methods, reason = "tests compare with the real shell")]
    pub(crate) fn run(argv: &[String]) -> (Option<i32>, String) {
        let output = std::process::Command::new(&argv[0]).args(&argv[1..]).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    }

    /// Prints what a script prints; the script must succeed.
    pub(crate) fn sh(script: &str) -> String {
        let (code, output) = run(&["sh".to_owned(), "-c".to_owned(), script.to_owned()]);
        assert_eq!(code, Some(0), "{script}");
        output
    }

    fn words(words: &[&str]) -> Vec<Word> {
        words.iter().map(|word| Word::from(*word)).collect()
    }

    fn command(list: &[&str]) -> Command {
        Command::from_words(&words(list), false).unwrap()
    }

    #[test]
    fn words_stay_words() {
        let command = command(&["--", "cargo", "test", "it's", "a b", "X=1"]);
        assert_eq!(
            command.program(),
            &Program::Argv(["cargo", "test", "it's", "a b", "X=1"].map(str::to_owned).into())
        );
        assert_eq!(command.display(), r"cargo test 'it'\''s' 'a b' 'X=1'");
        assert_eq!(command.recorded(), ["cargo", "test", "it's", "a b", "X=1"]);
        assert_eq!(self::command(&["echo", "--"]).recorded(), ["echo", "--"]);
    }

    #[test]
    fn a_shell_is_used_only_where_it_is_meant() {
        for word in [
            "a b",
            "a&&b",
            "echo $HOME",
            "a|b",
            "a;b",
            "a>b",
            "a*",
            "`a`",
            "(a)",
            "a\nb",
        ] {
            assert_eq!(command(&[word]).shell_text(), Some(word));
            assert_eq!(command(&[word]).display(), word.replace('\n', "\\u000a"));
        }
        assert_eq!(command(&["ls"]).shell_text(), None);
        assert_eq!(command(&["A=1"]).shell_text(), None);
        assert_eq!(command(&["echo", "a b", "$HOME"]).shell_text(), None);
        assert_eq!(
            command(&["A=x y", "make", "B=1", "&&", "C=$d", "echo", "a b", "2>", "err"]).shell_text(),
            Some("A='x y' 'make' 'B=1' && C='$d' 'echo' 'a b' 2> 'err'")
        );
        assert_eq!(command(&["a", ">", "b=c"]).shell_text(), Some("'a' > 'b=c'"));
        assert_eq!(command(&["A=x y", "make", "&&", "ls"]).display(), "A='x y' make && ls");
    }

    #[test]
    fn substituted_words_are_never_operators() {
        let literal = |text: &str| Word {
            text: text.to_owned(),
            literal: true,
        };
        let command = Command::from_words(&[Word::from("echo"), literal("&&"), literal("rm")], false).unwrap();
        assert_eq!(command.shell_text(), None);
        let command = Command::from_words(&[literal("a;b")], false).unwrap();
        assert_eq!(command.shell_text(), None);
        let command = Command::from_words(&[Word::from("a"), Word::from("&&"), literal("|")], false).unwrap();
        assert_eq!(command.shell_text(), Some("'a' && '|'"));
    }

    #[test]
    fn shell_mode_joins_with_spaces() {
        let command = Command::from_words(&words(&["--", "echo", "a  b", "&&", "ls"]), true).unwrap();
        assert_eq!(command.shell_text(), Some("echo a  b && ls"));
        assert_eq!(command.display(), "echo a  b && ls");
    }

    #[test]
    fn an_empty_command_is_refused() {
        for list in [&[][..], &["--"], &[""], &["--", " "]] {
            for shell in [false, true] {
                let error = Command::from_words(&words(list), shell).unwrap_err();
                assert_eq!((error.kind().exit_code(), error.message()), (2, "no command to run"));
            }
        }
        assert_eq!(
            Command::from_words(&words(&["a", "b\0"]), false)
                .unwrap_err()
                .kind()
                .exit_code(),
            2
        );
    }

    #[test]
    fn scripts_are_shown_by_their_flag() {
        let script = Script::new(ScriptSource::File("./a b.sh".into()), b"echo".to_vec()).unwrap();
        let command = Command::from_script(script, &words(&["--", "x"])).unwrap();
        assert_eq!(command.display(), "--script './a b.sh' x");
        assert_eq!(command.recorded(), ["--script", "./a b.sh", "x"]);
    }

    #[test]
    fn readable_quoting_is_minimal() {
        assert_eq!(quote_if_needed("a/b-c.d:e@f%g+h,i"), "a/b-c.d:e@f%g+h,i");
        assert_eq!(quote_if_needed("--a=b"), "--a=b");
        for word in ["", "a b", "~", "#a", "A=b", "é", "*"] {
            assert_eq!(quote_if_needed(word), quote(word));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(48) })]
        #[test]
        fn quoted_words_survive_a_real_shell(list in prop::collection::vec("[^\0]{0,12}", 1..6)) {
            let quoted: Vec<String> = list.iter().map(|word| quote(word)).collect();
            let expected: String = list.iter().map(|word| format!("{word}\0")).collect();
            for line in [quoted.join(" "), join(&list)] {
                proptest::prop_assert_eq!(sh(&format!("printf '%s\\0' {line}")), expected.clone());
            }
        }
    }

    proptest! {
        // Each case starts nine shells, login shells among them.
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(6) })]
        #[test]
        fn arguments_survive_a_real_shell_and_all_wrappers(list in prop::collection::vec("[^\0]{0,12}", 0..5)) {
            let mut argv = vec!["printf".to_owned(), "%s\\0".to_owned(), "x".to_owned()];
            argv.extend(list.iter().cloned());
            let words: Vec<Word> = argv.iter().map(|text| Word { text: text.clone(), literal: true }).collect();
            let command = Command::from_words(&words, false).unwrap();
            let expected: String = argv[2..].iter().map(|word| format!("{word}\0")).collect();
            for shell in [super::Shell::Auto, super::Shell::Bash, super::Shell::Posix] {
                let (code, output) = run(&command.wrap(&super::Invocation::new("/"), shell));
                proptest::prop_assert_eq!((code, output), (Some(0), expected.clone()));
            }
        }
    }
}
