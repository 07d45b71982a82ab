//! What ends a run before its command does.

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::ExitStatusExt as _;

use crate::local::{checkout, nothing_left, succeeded};

#[test]
fn the_first_signal_ends_a_run_in_order() {
    let env = checkout();
    let mut child = env
        .command(["run", "--", "sh", "-c", "echo started; sleep 600"])
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    assert_eq!(line, "started\n");
    interrupt(child.id());
    let finished = env.finished(child.wait_with_output().unwrap());
    assert!(![0, -1].contains(&finished.code), "{}", finished.shown());
    nothing_left(&env);
}

#[test]
fn a_second_signal_ends_the_process_at_once_and_cleanup_gives_the_box_back() {
    let env = checkout();
    // A command that does not care makes the orderly end take its time.
    let script = "trap '' INT TERM; echo started; while :; do sleep 1; done";
    let mut child = env.command(["run", "--", "sh", "-c", script]).spawn().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    assert_eq!(line, "started\n");
    interrupt(child.id());
    std::thread::sleep(std::time::Duration::from_millis(300));
    interrupt(child.id());
    let status = child.wait().unwrap();
    assert_eq!(status.signal(), Some(2), "{status:?}");
    let cleaned = succeeded(env.run(["cleanup"]));
    assert!(cleaned.stdout.starts_with("delete server="), "{}", cleaned.stdout);
    nothing_left(&env);
}

#[test]
fn a_reader_that_goes_away_ends_the_run_and_gives_the_box_back() {
    let env = checkout();
    let mut child = env
        .command(["run", "--quiet", "--", "sh", "-c", "while :; do echo y; done"])
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    assert_eq!(line, "y\n");
    drop(output);
    assert_eq!(child.wait().unwrap().code(), Some(141));
    nothing_left(&env);
}

#[test]
fn an_interrupted_job_gives_its_box_back() {
    let env = checkout();
    env.write(
        ".crabbox.yaml",
        "jobs:\n  wait:\n    shell: true\n    command: echo started; sleep 600\n",
    );
    let mut child = env.command(["job", "run", "wait"]).spawn().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    assert_eq!(line, "started\n");
    interrupt(child.id());
    let finished = env.finished(child.wait_with_output().unwrap());
    assert!(![0, -1].contains(&finished.code), "{}", finished.shown());
    nothing_left(&env);
}

#[expect(clippy::disallowed_methods, reason = "the test plays the user at the keyboard")]
fn interrupt(process: u32) {
    let status = std::process::Command::new("kill")
        .args(["-INT", &process.to_string()])
        .status()
        .unwrap();
    assert!(status.success());
}
