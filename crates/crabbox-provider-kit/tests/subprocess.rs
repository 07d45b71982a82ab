//! Real child processes.
#![cfg(unix)]
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "helpers of tests fail the test, and files here need no care"
)]

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use crabbox_core::ErrorKind;
use crabbox_core::runtime::{CommandOutput, CommandRunner as _, CommandSpec};
use crabbox_provider_kit::Subprocess;

fn shell(script: &str) -> CommandSpec {
    let mut spec = CommandSpec::new("sh", ["-c", script]);
    spec.env = path("/usr/local/bin:/usr/bin:/bin");
    spec.grace = Duration::from_secs(2);
    spec
}

fn path(value: &str) -> BTreeMap<OsString, OsString> {
    [(OsString::from("PATH"), OsString::from(value))].into()
}

async fn run(spec: CommandSpec) -> crabbox_core::Result<CommandOutput> {
    Subprocess.run(spec).await
}

/// Waits until no process has the marker among its arguments.
async fn gone(marker: &str) -> bool {
    let deadline = Instant::now() + Duration::from_secs(5);
    while Instant::now() < deadline {
        if !alive(marker) {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    false
}

fn alive(marker: &str) -> bool {
    std::fs::read_dir("/proc").unwrap().flatten().any(|entry| {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0)
            .any(|argument| argument == marker.as_bytes())
    })
}

/// A number of seconds that no other process on this machine sleeps.
fn marker(salt: u32) -> String {
    format!("{}.{salt}", 100_000 + std::process::id())
}

async fn until_alive(marker: &str) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !alive(marker) {
        assert!(Instant::now() < deadline, "{marker} never started");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn streams_and_status_come_back() {
    let mut spec = shell("cat; echo error >&2; exit 42");
    spec.stdin = Bytes::from_static(b"in\0put");
    let output = run(spec).await.unwrap();
    assert_eq!(
        (output.code, &*output.stdout, &*output.stderr),
        (42, &b"in\0put"[..], &b"error\n"[..])
    );
    assert_eq!(run(shell("kill -TERM $$")).await.unwrap().code, 143);
}

#[tokio::test]
async fn input_and_output_do_not_block_each_other() {
    let mut spec = shell("cat");
    spec.stdin = Bytes::from(vec![b'x'; 4 * 1024 * 1024]);
    assert_eq!(run(spec.clone()).await.unwrap().stdout.len(), spec.stdin.len());
    spec.args[1] = "exit 0".into();
    assert_eq!(run(spec).await.unwrap().code, 0);
}

#[tokio::test]
async fn the_environment_is_exactly_the_given_one() {
    let mut spec = CommandSpec::new("env", [] as [&str; 0]);
    spec.env = path("/usr/bin:/bin");
    spec.env.insert("ONLY".into(), "a b".into());
    let output = run(spec).await.unwrap();
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        "ONLY=a b\nPATH=/usr/bin:/bin\n"
    );
}

#[tokio::test]
async fn programs_are_found_in_the_childs_path_only() {
    let directory = tempfile::tempdir().unwrap();
    let tool = directory.path().join("acme-tool");
    std::fs::write(&tool, "#!/bin/sh\necho found\n").unwrap();
    let mut spec = CommandSpec::new("acme-tool", [] as [&str; 0]);
    spec.env = path(&format!(":.:{}", directory.path().display()));
    spec.dir = Some(directory.path().to_owned());
    let refused = run(spec.clone()).await.unwrap_err();
    assert_eq!(
        refused.kind(),
        ErrorKind::Prerequisite,
        "a file that is not executable is not a program"
    );
    std::fs::set_permissions(&tool, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    assert_eq!(run(spec.clone()).await.unwrap().stdout, b"found\n");
    spec.env = path(":.:relative");
    let missing = run(spec).await.unwrap_err();
    assert_eq!(missing.to_string(), "program not found: `acme-tool`");
    assert!(missing.hint().is_some());
    let mut elsewhere = shell("true");
    elsewhere.dir = Some(Path::new("/no/such/directory").to_owned());
    assert_eq!(
        run(elsewhere).await.unwrap_err().to_string(),
        "no directory to start sh in: `/no/such/directory`"
    );
}

#[tokio::test]
async fn arguments_are_not_evaluated() {
    let mut spec = CommandSpec::new("printf", ["%s|", "$HOME", "a b", "", "*", "`id`"]);
    spec.env = path("/usr/bin:/bin");
    assert_eq!(run(spec).await.unwrap().stdout, b"$HOME|a b||*|`id`|");
}

#[tokio::test]
async fn too_much_output_ends_the_tree() {
    let marker = marker(1);
    let mut spec = shell(&format!("sleep {marker} & while :; do echo flood; done"));
    spec.output_limit_bytes = 100_000;
    let error = run(spec).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Readiness);
    assert_eq!(error.to_string(), "sh wrote more to stdout than allowed: 100000 bytes");
    assert!(gone(&marker).await);
    let mut exact = shell("printf 12345");
    exact.output_limit_bytes = 5;
    assert_eq!(run(exact).await.unwrap().stdout, b"12345");
}

#[tokio::test]
async fn time_running_out_is_polite_first() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut polite = shell("trap 'echo bye > \"$0\"; exit 0' TERM; while :; do sleep 0.01; done");
    polite.args.push(file.path().into());
    polite.timeout = Some(Duration::from_millis(300));
    polite.grace = Duration::from_secs(20);
    let started = Instant::now();
    let error = run(polite).await.unwrap_err();
    assert!(error.is_cancelled());
    assert!(started.elapsed() < Duration::from_secs(15));
    assert_eq!(std::fs::read(file.path()).unwrap(), b"bye\n");
}

#[tokio::test]
async fn time_running_out_ends_the_stubborn_by_force() {
    let marker = marker(2);
    let mut stubborn = shell(&format!(
        "trap '' TERM; sh -c 'trap \"\" TERM; exec sleep {marker}' & wait; sleep {marker}"
    ));
    stubborn.timeout = Some(Duration::from_millis(300));
    stubborn.grace = Duration::from_millis(100);
    assert!(run(stubborn).await.unwrap_err().is_cancelled());
    assert!(gone(&marker).await);
}

#[tokio::test]
async fn dropping_the_future_ends_the_tree() {
    let marker = marker(3);
    let task = tokio::spawn(run(shell(&format!("sleep {marker} & sleep {marker}"))));
    until_alive(&marker).await;
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    assert!(gone(&marker).await);
}

#[tokio::test]
async fn an_orphan_that_holds_a_stream_delays_by_the_grace_only() {
    let marker = marker(4);
    let mut spec = shell(&format!("echo out; sleep {marker} & exit 3"));
    spec.grace = Duration::from_millis(200);
    let output = run(spec).await.unwrap();
    assert_eq!((output.code, &*output.stdout), (3, &b"out\n"[..]));
    assert!(gone(&marker).await);
}
