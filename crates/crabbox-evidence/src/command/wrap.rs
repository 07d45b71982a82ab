//! Wraps a command for the box's shell.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::{Command, Program, quote};
use crate::env::is_valid_name;

/// Which shell starts the command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shell {
    /// A `bash` login shell where the box has `bash`, else `sh`. The box decides, without a round trip.
    #[default]
    Auto,
    /// A `bash` login shell.
    Bash,
    /// `sh`, which is no login shell.
    Posix,
}

/// How variables reach the command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Delivery {
    /// The transport sets them. The wrapper only makes sure that sourced files do not override them, so that no value
    /// stands in any process's arguments.
    #[default]
    Transport,
    /// The wrapper exports them, for transports that cannot.
    Inline,
}

/// Where and with what a command runs.
#[derive(Clone, Debug, Default)]
pub struct Invocation {
    /// Directory to run in; absolute, or relative to where the transport starts.
    pub workdir: String,
    /// Files that are sourced first when they exist, in order; variables of [`Invocation::env`] win over them.
    pub env_files: Vec<String>,
    /// Variables of the command. Names that a shell cannot assign to are skipped.
    pub env: BTreeMap<String, String>,
    /// How those variables reach it.
    pub delivery: Delivery,
}

impl Invocation {
    /// Runs in a directory, with no variables.
    pub fn new(workdir: impl Into<String>) -> Self {
        Self {
            workdir: workdir.into(),
            ..Self::default()
        }
    }

    /// The script that changes directory and prepares the environment, ending in ` && `.
    fn prologue(&self) -> String {
        let mut text = format!("cd {} && ", quote(&self.workdir));
        let names: Vec<&String> = self.env.keys().filter(|name| is_valid_name(name)).collect();
        let keeps = self.delivery == Delivery::Transport && !self.env_files.is_empty();
        // Writing to a string cannot fail.
        if keeps {
            for (index, name) in names.iter().enumerate() {
                let _ = write!(text, "_crabbox_{index}=${{{name}-}} && ");
            }
        }
        for file in &self.env_files {
            // Without a slash, `.` would search PATH.
            let file = if file.contains('/') {
                quote(file)
            } else {
                quote(&format!("./{file}"))
            };
            let _ = write!(text, "if [ -f {file} ]; then . {file}; fi && ");
        }
        if keeps {
            for (index, name) in names.iter().enumerate() {
                let _ = write!(
                    text,
                    "export {name}=\"$_crabbox_{index}\" && unset _crabbox_{index} && "
                );
            }
        }
        if self.delivery == Delivery::Inline {
            for name in names {
                let _ = write!(text, "export {name}={} && ", quote(&self.env[name]));
            }
        }
        text
    }
}

impl Command {
    /// The argument vector that runs the command on the box: `sh -c SCRIPT sh ARGUMENTS…`.
    ///
    /// The script ends by replacing itself with the command, so that signals and the exit status are the command's. The
    /// directory is entered again inside the login shell, because a profile may change it.
    pub fn wrap(&self, invocation: &Invocation, shell: Shell) -> Vec<String> {
        let (inner, parameters) = match &self.program {
            Program::Argv(argv) => (Inner::Exec, argv.clone()),
            Program::Shell(text) => (Inner::Text(text.clone()), Vec::new()),
            Program::Script { script, arguments } => {
                let mut parameters = vec![script.remote_path().to_owned()];
                parameters.extend(arguments.iter().cloned());
                (
                    if script.has_shebang() {
                        Inner::Exec
                    } else {
                        Inner::Interpreter
                    },
                    parameters,
                )
            }
        };
        let start = |name: &str, options: &str| {
            let body = inner.body(&quote(&invocation.workdir), name);
            format!("exec {name} {options} {} {name} \"$@\"", quote(&body))
        };
        let (bash, posix) = (start("bash", "-lc"), start("sh", "-c"));
        let start = match shell {
            Shell::Bash => bash,
            Shell::Posix => posix,
            Shell::Auto => format!("if command -v bash >/dev/null 2>&1; then {bash}; else {posix}; fi"),
        };
        let mut argv = vec![
            "sh".to_owned(),
            "-c".to_owned(),
            invocation.prologue() + &start,
            "sh".to_owned(),
        ];
        argv.extend(parameters);
        argv
    }

    /// The argument vector without any shell, for a transport that sets directory and variables itself. `None` when the
    /// command is shell text or a script.
    pub fn direct(&self) -> Option<Vec<String>> {
        match &self.program {
            Program::Argv(argv) => Some(argv.clone()),
            Program::Shell(_) | Program::Script { .. } => None,
        }
    }
}

enum Inner {
    /// The parameters are a program and its arguments.
    Exec,
    /// The parameters are a script for this same shell, and its arguments.
    Interpreter,
    /// Text of the user.
    Text(String),
}

impl Inner {
    fn body(&self, workdir: &str, shell: &str) -> String {
        match self {
            Self::Exec => format!("cd {workdir} && exec \"$@\""),
            Self::Interpreter => format!("cd {workdir} && exec {shell} \"$@\""),
            // On a line of its own, so that the text may start with anything.
            Self::Text(text) => format!("cd {workdir} || exit\n{text}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Write as _;

    use super::{Delivery, Invocation, Shell};
    use crate::command::tests::run;
    use crate::command::{Command, Script, ScriptSource, Word};
    use crate::private_file::PrivateFile;

    const SHELLS: [Shell; 3] = [Shell::Auto, Shell::Bash, Shell::Posix];

    fn words(words: &[&str]) -> Vec<Word> {
        words.iter().map(|word| Word::from(*word)).collect()
    }

    fn env(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn the_wrapper_is_what_it_says() {
        let command = Command::from_words(&words(&["cargo", "test"]), false).unwrap();
        let invocation = Invocation {
            workdir: "/work/it's".into(),
            env_files: vec![".crabbox/env/run_1.env".into()],
            env: env(&[("CI", "1"), ("bad-name", "x")]),
            delivery: Delivery::Transport,
        };
        insta::assert_snapshot!(command.wrap(&invocation, Shell::Bash).join("\n"), @r#"
        sh
        -c
        cd '/work/it'\''s' && _crabbox_0=${CI-} && if [ -f '.crabbox/env/run_1.env' ]; then . '.crabbox/env/run_1.env'; fi && export CI="$_crabbox_0" && unset _crabbox_0 && exec bash -lc 'cd '\''/work/it'\''\'\'''\''s'\'' && exec "$@"' bash "$@"
        sh
        cargo
        test
        "#);
        let command = Command::from_words(&words(&["a && b"]), false).unwrap();
        let invocation = Invocation {
            delivery: Delivery::Inline,
            env_files: Vec::new(),
            ..invocation
        };
        insta::assert_snapshot!(command.wrap(&invocation, Shell::Auto).join("\n"), @r#"
        sh
        -c
        cd '/work/it'\''s' && export CI='1' && if command -v bash >/dev/null 2>&1; then exec bash -lc 'cd '\''/work/it'\''\'\'''\''s'\'' || exit
        a && b' bash "$@"; else exec sh -c 'cd '\''/work/it'\''\'\'''\''s'\'' || exit
        a && b' sh "$@"; fi
        sh
        "#);
    }

    #[test]
    fn directory_status_and_variables_reach_the_command() {
        let directory = tempfile::tempdir().unwrap();
        let workdir = directory.path().join("it's here");
        std::fs::create_dir(&workdir).unwrap();
        let invocation = Invocation {
            env: env(&[("A", "it's $HOME"), ("B", "")]),
            delivery: Delivery::Inline,
            ..Invocation::new(workdir.to_str().unwrap())
        };
        for shell in SHELLS {
            let command =
                Command::from_words(&words(&["pwd; printf '%s|%s' \"$A\" \"${B-unset}\"; exit 3"]), false).unwrap();
            let (code, output) = run(&command.wrap(&invocation, shell));
            assert_eq!((code, output), (Some(3), format!("{}\nit's $HOME|", workdir.display())));
        }
    }

    #[test]
    fn variables_win_over_sourced_files() {
        let directory = tempfile::tempdir().unwrap();
        let mut file = PrivateFile::create(&directory.path().join("box.env")).unwrap();
        file.write_all(b"export A=file\nexport B=file\nexport _x=1\n").unwrap();
        file.finish().unwrap();
        let command = Command::from_words(&words(&["sh", "-c", "echo $A $B $_crabbox_0"]), false).unwrap();
        for delivery in [Delivery::Transport, Delivery::Inline] {
            let invocation = Invocation {
                env_files: vec!["box.env".into(), "./absent.env".into()],
                env: env(&[("A", "inline")]),
                delivery,
                ..Invocation::new(directory.path().to_str().unwrap())
            };
            for shell in SHELLS {
                let mut argv = command.wrap(&invocation, shell);
                argv.splice(0..0, ["env".to_owned(), "A=inline".to_owned()]);
                assert_eq!(run(&argv), (Some(0), "inline file\n".to_owned()));
            }
        }
    }

    #[test]
    fn scripts_run_with_their_interpreter_and_arguments() {
        let directory = tempfile::tempdir().unwrap();
        let workdir = directory.path().to_str().unwrap();
        for content in ["#!/bin/sh\necho \"$0|$1|$#\"", "echo \"$0|$1|$#\""] {
            let script = Script::new(ScriptSource::Stdin, content.as_bytes().to_vec()).unwrap();
            let upload = format!(
                "cd {workdir} && printf '%s' {} | {{ {}; }}",
                super::quote(content),
                script.upload_script()
            );
            crate::command::tests::sh(&upload);
            let command = Command::from_script(script.clone(), &words(&["a b", "c"])).unwrap();
            for shell in SHELLS {
                let (code, output) = run(&command.wrap(&Invocation::new(workdir), shell));
                // `bash` makes the path absolute when it replaces itself.
                assert!(
                    output.ends_with(&format!("{}|a b|2\n", script.remote_path())),
                    "{output}"
                );
                assert_eq!(code, Some(0));
            }
        }
    }

    #[test]
    fn a_missing_workdir_never_runs_the_command() {
        for list in [&["echo", "ran"][..], &["echo ran; true"]] {
            let command = Command::from_words(&words(list), false).unwrap();
            for shell in SHELLS {
                let (code, output) = run(&command.wrap(&Invocation::new("/nonexistent-workdir"), shell));
                assert!(code != Some(0) && output.is_empty());
            }
        }
    }

    #[test]
    fn plain_words_need_no_shell() {
        assert_eq!(
            Command::from_words(&words(&["ls", "-l"]), false)
                .unwrap()
                .direct()
                .unwrap(),
            ["ls", "-l"]
        );
        assert!(Command::from_words(&words(&["a b"]), false).unwrap().direct().is_none());
    }
}
