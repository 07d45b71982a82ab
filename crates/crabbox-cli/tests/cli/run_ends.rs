//! What a run says at its end, and what it does not touch before its beginning.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::local::{checkout, nothing_left, succeeded};
use crate::support::{Finished, TestEnv};

#[expect(clippy::disallowed_methods, reason = "the test plays the user at the keyboard")]
fn signal(process: u32, name: &str) {
    let status = Command::new("kill")
        .args([name, &process.to_string()])
        .status()
        .unwrap();
    assert!(status.success());
}

/// The binary as a shell starts it after its own doing.
#[expect(
    clippy::disallowed_methods,
    reason = "the test is the shell that starts the real binary"
)]
fn after(env: &TestEnv, script: &str, args: &[&str]) -> Command {
    let run = env.command(args);
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh"]).arg(run.get_program()).args(args);
    command.env_clear().current_dir(env.work());
    command.envs(run.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command
}

/// The last line of standard error, which must be the times.
#[track_caller]
fn times(finished: &Finished) -> Value {
    let last = finished.stderr.lines().last().unwrap_or_default();
    serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {}", finished.shown()))
}

#[test]
fn times_are_the_last_line_whichever_stage_failed() {
    let env = checkout();
    let cases: [(&[&str], i32); 5] = [
        (&["--slug", "a", "--id", "b", "--", "true"], 2),
        (&["--provider", "nowhere", "--", "true"], 2),
        (&["--id", "amber-crab", "--", "true"], 4),
        (&["--download", "missing=here", "--", "true"], 7),
        (&["--", "sh", "-c", "exit 9"], 9),
    ];
    for (args, code) in cases {
        let finished = env.run(["run", "--timing-json"].iter().chain(args));
        assert_eq!(finished.code, code, "{}", finished.shown());
        let times = times(&finished);
        assert_eq!(times["exitCode"], code, "{args:?}");
        assert_eq!(times["runStatus"], "failed", "{args:?}");
    }
    let warmup = env.run(["warmup", "--timing-json", "--target", "windows"]);
    assert_eq!(warmup.code, 2);
    assert_eq!(times(&warmup)["provider"], "local");
    // No checkout, no sync.
    let empty = TestEnv::new();
    let finished = empty.run(["run", "--timing-json", "--", "true"]);
    assert_eq!((finished.code, times(&finished)["exitCode"].clone()), (6, 6.into()));
    assert!(!finished.stderr.contains("list: build sync"), "{}", finished.stderr);
    nothing_left(&env);
}

#[test]
fn an_interrupted_run_is_called_canceled() {
    let env = checkout();
    let mut child = env
        .command(["run", "--timing-json", "--", "sh", "-c", "echo started; sleep 600"])
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap())
        .read_line(&mut line)
        .unwrap();
    signal(child.id(), "-INT");
    let finished = env.finished(child.wait_with_output().unwrap());
    let times = times(&finished);
    assert_eq!(
        [&times["exitCode"], &times["runStatus"], &times["errorKind"]],
        [&Value::from(255), &"canceled".into(), &"canceled".into()]
    );
}

#[test]
fn an_interrupted_sync_leaves_no_box() {
    let env = checkout();
    for number in 0..6000 {
        env.write(format!("many/{}/{number}", number % 50), "x");
    }
    // Wherever in the sync the signal comes, the box goes when nothing is written to it any more.
    for pause in [0, 40, 80, 120, 200] {
        let mut child = env.command(["run", "--", "true"]).spawn().unwrap();
        let mut messages = BufReader::new(child.stderr.take().unwrap()).lines();
        assert!(messages.any(|line| line.unwrap().starts_with("syncing ")));
        std::thread::sleep(Duration::from_millis(pause));
        signal(child.id(), "-INT");
        let rest: Vec<String> = messages.map(Result::unwrap).collect();
        child.wait().unwrap();
        assert!(
            rest.iter().any(|line| line.contains("stopped=true")),
            "{pause}: {rest:?}"
        );
        nothing_left(&env);
    }
}

#[test]
fn a_hangup_that_nohup_ignores_ends_nothing() {
    let env = checkout();
    let script = "trap '' HUP; exec \"$@\"";
    let run = ["run", "--", "sh", "-c", "echo started; sleep 1; echo ended"];
    let mut child = after(&env, script, &run)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "started");
    signal(child.id(), "-HUP");
    assert_eq!(lines.next().unwrap().unwrap(), "ended");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_refused_run_does_not_read_its_script() {
    let env = checkout();
    let mut child = env
        .command(["run", "--script-stdin", "--slug", "a", "--id", "b"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    // Nobody ever writes to its standard input, nor closes it.
    let input = child.stdin.take();
    assert_eq!(child.wait().unwrap().code(), Some(2));
    drop(input);
    let ran = env.run_with(["run", "--script-stdin", "--", "a b"], "echo \"$# $1\"\n");
    assert_eq!(succeeded(ran).stdout, "1 a b\n");
    let empty = env.run_with(["run", "--script-stdin"], "");
    assert_eq!(empty.code, 2, "{}", empty.shown());
}

#[test]
fn the_error_object_names_a_signal() {
    let env = checkout();
    let killed = env.run(["run", "--error-format", "json", "--", "sh", "-c", "kill -9 $$"]);
    let report = times(&killed);
    assert_eq!((killed.code, &report["exitSource"]), (137, &"signal".into()));
}

#[test]
fn a_reused_box_gets_the_idle_timeout_that_was_asked_for() {
    let env = checkout();
    let _ = succeeded(env.run(["warmup", "--slug", "warm"]));
    let run = succeeded(env.run([
        "run",
        "--id",
        "warm",
        "--idle-timeout",
        "5m",
        "--timing-json",
        "--",
        "true",
    ]));
    assert!(
        run.stderr.contains("updated idle_timeout=5m0s expires="),
        "{}",
        run.stderr
    );
    assert_eq!(times(&run)["idleTimeout"], "5m0s");
    let inspected = succeeded(env.run(["inspect", "warm"]));
    assert!(inspected.stdout.contains("idle_timeout=5m0s\n"), "{}", inspected.stdout);
    let _ = succeeded(env.run(["stop", "warm"]));
    nothing_left(&env);
}

#[test]
fn a_failure_is_summed_up_before_it_is_explained() {
    let env = checkout();
    let failed = env.run(["run", "--", "sh", "-c", "echo oops; exit 3"]);
    let places: Vec<Option<usize>> = [
        "command complete in ",
        "run summary ",
        "run details ",
        "failure digest",
        "failure-bundle ",
        "stdout tail last 1 lines:",
        "lease cleanup ",
        "remote command exited 3",
    ]
    .iter()
    .map(|start| failed.stderr.lines().position(|line| line.starts_with(start)))
    .collect();
    assert!(
        places.iter().all(Option::is_some) && places.is_sorted(),
        "{places:?}: {}",
        failed.stderr
    );
}

#[test]
fn words_of_tests_are_written_out_as_codes() {
    let env = checkout();
    let report = r#"<testsuite name="s"><testcase name="bad"><failure message="a&#x202e;b"/></testcase></testsuite>"#;
    env.write("report.xml", report);
    let _ = succeeded(env.run(["run", "--junit", "report.xml", "--", "true"]));
    let history = succeeded(env.run(["history"]));
    let run = history.stdout.split(' ').next().unwrap();
    let results = succeeded(env.run(["results", run]));
    assert!(results.stdout.contains("a\\u202eb"), "{}", results.stdout);
}

#[test]
fn debug_says_what_was_moved() {
    let env = checkout();
    let run = succeeded(env.run(["run", "--debug", "--", "true"]));
    assert!(
        run.stderr.contains("sync moved written=4 deleted=0 bytes="),
        "{}",
        run.stderr
    );
}

#[test]
fn a_download_that_finds_no_room_ends_the_run() {
    let env = checkout();
    let make = [
        "run",
        "--keep",
        "--slug",
        "warm",
        "--",
        "sh",
        "-c",
        "head -c 4000000 /dev/zero >big",
    ];
    let _ = succeeded(env.run(make));
    // Files of this process cannot grow beyond 512 KiB, as on a disk that is nearly full.
    let script = "trap '' XFSZ; ulimit -f 1024; exec \"$@\"";
    let fetch = [
        "run",
        "--id",
        "warm",
        "--no-sync",
        "--timing-json",
        "--download",
        "big=here",
        "--",
        "true",
    ];
    let output = after(&env, script, &fetch).output().unwrap();
    let finished = env.finished(output);
    assert_eq!(finished.code, 2, "{}", finished.shown());
    assert_eq!(times(&finished)["exitCode"], 2);
    assert!(!env.work().join("here").exists());
    let _ = succeeded(env.run(["stop", "warm"]));
    nothing_left(&env);
}

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "the archive is read by a program that is not ours"
)]
fn a_bundle_says_whether_a_capture_was_asked_for() {
    let env = checkout();
    for (flags, asked) in [(&["--capture-on-fail"][..], true), (&[], false)] {
        let arguments = [&["run"], flags, &["--", "false"]].concat();
        let finished = env.run(arguments);
        assert_eq!(finished.code, 1, "{}", finished.shown());
        let captures = env.work().join(".crabbox/captures");
        let bundle = std::fs::read_dir(&captures).unwrap().next().unwrap().unwrap().path();
        let listed = Command::new("tar")
            .args(["-xOzf", bundle.to_str().unwrap(), "crabbox-artifacts/crabbox-run.json"])
            .output()
            .unwrap();
        let run: Value = serde_json::from_slice(&listed.stdout).unwrap();
        assert_eq!(run["captureOnFailFlag"], asked);
        std::fs::remove_file(bundle).unwrap();
    }
}
