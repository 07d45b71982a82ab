//! How arguments are read, through the real binary.

use crate::support::TestEnv;

#[test]
fn version_is_one_line() {
    let env = TestEnv::new();
    for args in [["--version"], ["-version"], ["-v"], ["version"]] {
        let finished = env.run(args);
        assert_eq!((finished.code, finished.stderr.as_str()), (0, ""));
        assert_eq!(finished.stdout, format!("{}\n", crabbox_cli::VERSION));
    }
    assert!(!crabbox_cli::VERSION.starts_with('v'));
}

#[test]
fn flags_have_one_or_two_dashes_and_stand_anywhere() {
    let env = TestEnv::new();
    let expected = env.run(["providers", "--json"]).stdout;
    assert!(expected.starts_with('['), "{expected}");
    for args in [
        &["providers", "-json"][..],
        &["providers", "--json=true"],
        &["providers", "-json=T"],
        &["providers", "--json=false", "--json"],
        &["--quiet", "providers", "--json"],
        &["-error-format", "json", "providers", "-json=1"],
    ] {
        let finished = env.run(args);
        assert_eq!(
            (finished.code, finished.stdout.as_str()),
            (0, expected.as_str()),
            "{args:?}"
        );
    }
    assert!(!env.run(["providers", "--json", "--json=F"]).stdout.starts_with('['));
}

#[test]
fn a_boolean_takes_no_separate_value() {
    let finished = TestEnv::new().run(["history", "--json", "false"]);
    assert_eq!(finished.code, 2);
    assert!(
        finished.stderr.ends_with("unexpected argument: `false`\n"),
        "{}",
        finished.stderr
    );
}

#[test]
fn every_spelling_of_a_boolean_reaches_the_settings() {
    for flag in ["checksum", "results-auto", "fail-on-test-failures"] {
        for value in ["T", "f", "0", "TRUE"] {
            let flag = format!("--{flag}={value}");
            let finished = TestEnv::new().run(["run", &flag, "--no-sync", "--sync-only"]);
            assert!(
                finished
                    .stderr
                    .ends_with("--sync-only and --no-sync exclude each other\n"),
                "{flag}: {}",
                finished.stderr
            );
        }
    }
}

#[test]
fn the_error_format_is_honoured_before_and_after_parsing() {
    let env = TestEnv::new();
    for args in [
        &["history", "--nope", "--error-format", "json"][..],
        &["logs", "--error-format=json", "not-a-run"],
    ] {
        let finished = env.run(args);
        let line = finished.stderr.lines().last().unwrap();
        let report: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(report["kind"], "usage", "{line}");
        assert_eq!(report["exitCode"], 2);
        assert_eq!(report["exitSource"], "crabbox");
        assert_eq!(report["retryable"], false);
        assert!(report["hint"].is_string() && report["message"].is_string(), "{line}");
        assert_eq!(finished.code, 2);
    }
}

#[test]
fn completion_scripts_know_the_commands() {
    let env = TestEnv::new();
    for shell in ["bash", "zsh", "fish", "powershell", "pwsh"] {
        let finished = env.run(["completion", shell]);
        assert_eq!(finished.code, 0, "{}", finished.stderr);
        for word in ["warmup", "checkpoint", "timing-json"] {
            assert!(finished.stdout.contains(word), "{shell} lacks {word}");
        }
    }
}

#[test]
fn manual_pages_are_roff() {
    let env = TestEnv::new();
    for args in [&["man"][..], &["man", "run"], &["man", "checkpoint", "fork"]] {
        let finished = env.run(args);
        assert_eq!(finished.code, 0, "{}", finished.stderr);
        assert!(finished.stdout.contains(".TH "), "{}", finished.stdout);
    }
    assert_eq!(env.run(["man", "nope"]).code, 2);
}

#[cfg(unix)]
#[test]
fn a_reader_that_goes_away_is_no_panic() {
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::Stdio;

    let env = TestEnv::new();
    let mut child = env
        .command(["completion", "bash"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.signal(), None);
    // The pipe may have taken everything before it was closed.
    assert!(
        [Some(0), Some(141)].contains(&output.status.code()),
        "{:?}",
        output.status
    );
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}
