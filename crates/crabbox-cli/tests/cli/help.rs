//! The help of every command, as users see it.

use crate::support::TestEnv;
use clap::Command;

/// The paths of all commands that are shown.
fn paths(command: &Command, path: &[String], found: &mut Vec<Vec<String>>) {
    found.push(path.to_vec());
    for child in command.get_subcommands().filter(|child| !child.is_hide_set()) {
        let path: Vec<String> = path.iter().cloned().chain([child.get_name().to_owned()]).collect();
        paths(child, &path, found);
    }
}

fn every_path() -> Vec<Vec<String>> {
    let mut found = Vec::new();
    paths(&crabbox_cli::command(), &[], &mut found);
    found
}

// The flags of providers are part of the help.
#[cfg(feature = "provider-local")]
#[test]
fn the_help_of_every_command_is_on_standard_output() {
    let env = TestEnv::new();
    for path in every_path() {
        let finished = env.run(path.iter().map(String::as_str).chain(["--help"]));
        assert_eq!((finished.code, finished.stderr.as_str()), (0, ""), "{path:?}");
        let name = if path.is_empty() {
            "crabbox".to_owned()
        } else {
            path.join("-")
        };
        insta::assert_snapshot!(format!("help-{name}"), finished.stdout);
    }
    assert!(
        env.files().iter().all(|file| ["home", "tmp"].contains(&file.as_str())),
        "help creates nothing"
    );
}

#[test]
fn every_way_to_ask_for_help_is_the_same() {
    let env = TestEnv::new();
    for path in every_path().into_iter().filter(|path| !path.is_empty()) {
        let words = || path.iter().map(String::as_str);
        let asked = env.run(words().chain(["--help"])).stdout;
        assert_eq!(
            env.run(std::iter::once("help").chain(words())).stdout,
            asked,
            "{path:?}"
        );
        assert_eq!(env.run(words().chain(["-h"])).stdout, asked, "{path:?}");
        assert_eq!(env.run(words().chain(["-help"])).stdout, asked, "{path:?}");
        assert_eq!(env.run(words().chain(["help"])).stdout, asked, "{path:?}");
    }
}

#[test]
fn a_group_alone_shows_its_help_and_the_program_alone_fails() {
    let env = TestEnv::new();
    let group = env.run(["checkpoint"]);
    assert_eq!((group.code, group.stderr.as_str()), (0, ""));
    assert_eq!(group.stdout, env.run(["checkpoint", "--help"]).stdout);
    let nothing = env.run::<&str>([]);
    assert_eq!(nothing.code, 2);
    assert_eq!(nothing.stdout, env.run(["--help"]).stdout);
    assert!(nothing.stderr.ends_with("missing command\n"), "{}", nothing.stderr);
}

#[test]
fn every_flag_has_help_and_every_command_says_what_it_does() {
    fn check(command: &Command) {
        assert!(command.get_about().is_some(), "{} has no help", command.get_name());
        for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
            assert!(
                argument.get_help().is_some(),
                "{} {} has no help",
                command.get_name(),
                argument.get_id()
            );
        }
        command
            .get_subcommands()
            .filter(|child| !child.is_hide_set())
            .for_each(check);
    }
    check(&crabbox_cli::command());
}
