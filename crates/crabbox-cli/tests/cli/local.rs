//! Whole runs in the embedded sandbox.

use std::fs;
use std::path::Path;

use crate::support::{Finished, TestEnv};

/// A dirty checkout: one file committed, one changed, one new.
pub(crate) fn checkout() -> TestEnv {
    let env = TestEnv::new();
    env.git(["init", "--quiet"]);
    env.write("committed.txt", "first\n");
    env.write("changed.txt", "before\n");
    env.write(".gitignore", "ignored.txt\n");
    env.git(["add", "."]);
    env.git(["commit", "--quiet", "--message", "first"]);
    env.write("changed.txt", "after\n");
    env.write("new.txt", "new\n");
    env.write("ignored.txt", "never\n");
    env
}

#[track_caller]
pub(crate) fn succeeded(finished: Finished) -> Finished {
    assert_eq!(finished.code, 0, "{}", finished.shown());
    finished
}

/// Proves that no box, claim, journal entry or key is left, and no process that knows of this environment.
#[track_caller]
pub(crate) fn nothing_left(env: &TestEnv) {
    let state = env.state();
    for name in ["claims", "journal", "local/boxes", "testboxes"] {
        let left = fs::read_dir(state.join(name)).map(|entries| entries.filter_map(Result::ok).collect::<Vec<_>>());
        let left = left.unwrap_or_default();
        assert!(left.is_empty(), "{name} holds {left:?}");
    }
    let keys = env.home().join(".config/crabbox/testboxes");
    assert!(fs::read_dir(&keys).map_or(0, Iterator::count) == 0, "keys are left");
    let home = env.home().display().to_string();
    let processes = processes(&home);
    assert!(processes.is_empty(), "still running: {processes:?}");
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&home), "still mounted: {mounts}");
}

/// Command lines of processes that name a directory.
fn processes(directory: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().filter_map(Result::ok) {
        let path = entry.path();
        if !entry
            .file_name()
            .to_string_lossy()
            .chars()
            .all(|character| character.is_ascii_digit())
        {
            continue;
        }
        // A process may end while it is looked at.
        let read = |name: &str| fs::read(path.join(name)).unwrap_or_default();
        let text = String::from_utf8_lossy(&[read("cmdline"), read("environ")].concat()).replace('\0', " ");
        if text.contains(directory) && path != Path::new("/proc").join(std::process::id().to_string()) {
            found.push(text);
        }
    }
    found
}

#[test]
fn a_run_sees_the_dirty_checkout_and_leaves_nothing() {
    let env = checkout();
    let finished = env.run(["run", "--", "sh", "-c", "ls; cat changed.txt; echo problem >&2; exit 3"]);
    assert_eq!(finished.code, 3, "{}", finished.shown());
    assert_eq!(finished.stdout, "changed.txt\ncommitted.txt\nnew.txt\nafter\n");
    assert!(
        finished.stderr.lines().any(|line| line == "problem"),
        "{}",
        finished.stderr
    );
    assert_eq!(finished.stderr.lines().last(), Some("remote command exited 3"));
    let notices = finished.stderr.matches("no provider selected").count();
    assert_eq!(notices, 1, "{}", finished.stderr);
    nothing_left(&env);
}

#[test]
fn a_log_in_the_checkout_may_grow_while_it_is_synced() {
    let env = checkout();
    for _ in 0..3 {
        let log = fs::File::create(env.work().join("run.log")).unwrap();
        let output = env.command(["run", "--", "cat", "new.txt"]).stderr(log).output();
        let finished = env.finished(output.unwrap());
        let log = fs::read_to_string(env.work().join("run.log")).unwrap();
        assert_eq!((finished.code, finished.stdout.as_str()), (0, "new\n"), "{log}");
        assert!(log.contains("run summary "), "{log}");
    }
    nothing_left(&env);
}

#[test]
fn flags_of_the_command_are_its_own() {
    let env = checkout();
    let finished = succeeded(env.run(["run", "--quiet", "echo", "--json", "--help", "--", "-x"]));
    assert_eq!(
        (finished.stdout.as_str(), finished.stderr.as_str()),
        ("--json --help -- -x\n", "")
    );
}

#[test]
fn machine_readable_endings() {
    let env = checkout();
    let finished = env.run(["run", "--error-format", "json", "--", "false"]);
    let report: serde_json::Value = serde_json::from_str(finished.stderr.lines().last().unwrap()).unwrap();
    assert_eq!(
        (report["kind"].as_str(), report["exitCode"].as_u64()),
        (Some("command"), Some(1)),
        "{report}"
    );
    assert_eq!(report["exitSource"], "command");
    assert!(report["lease"].as_str().unwrap().starts_with("cbx_"), "{report}");
    let finished = env.run(["run", "--timing-json", "--", "sh", "-c", "exit 5"]);
    let timing: serde_json::Value = serde_json::from_str(finished.stderr.lines().last().unwrap()).unwrap();
    assert_eq!(
        (timing["exitCode"].as_u64(), timing["exitSource"].as_str()),
        (Some(5), Some("command")),
        "{timing}"
    );
    assert_eq!(timing["provider"], "local");
    nothing_left(&env);
}

#[test]
fn a_warm_box_is_used_listed_and_given_back() {
    let env = checkout();
    let warm = succeeded(env.run(["warmup", "--slug", "warm-crab"]));
    assert!(warm.stdout.starts_with("leased cbx_"), "{}", warm.stdout);
    assert!(
        warm.stdout.contains(" slug=warm-crab provider=local "),
        "{}",
        warm.stdout
    );
    let lease = warm.stdout.split_whitespace().nth(1).unwrap().to_owned();

    let first = succeeded(env.run([
        "run",
        "--id",
        "warm-crab",
        "--",
        "sh",
        "-c",
        "echo kept > /tmp/kept; cat new.txt",
    ]));
    assert_eq!(first.stdout, "new\n");
    let second = succeeded(env.run(["run", "--id", &lease, "--", "cat", "/tmp/kept"]));
    assert_eq!(second.stdout, "kept\n");

    let list: serde_json::Value = serde_json::from_str(&succeeded(env.run(["list", "--json"])).stdout).unwrap();
    assert_eq!(list[0]["leaseId"], lease.as_str(), "{list}");
    let status = succeeded(env.run(["status", "warm-crab", "--wait", "--json"])).stdout;
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!(
        (status["id"].as_str(), status["ready"].as_bool()),
        (Some(lease.as_str()), Some(true)),
        "{status}"
    );
    assert!(
        succeeded(env.run(["inspect", "--id", &lease]))
            .stdout
            .contains("\nslug=warm-crab\n")
    );
    let beat = succeeded(env.run(["heartbeat", "warm-crab", "--idle-timeout", "45m"])).stdout;
    assert!(beat.contains(" idle_timeout=45m0s "), "{beat}");
    let claims = succeeded(env.run(["claims", "list", "--json"])).stdout;
    assert!(claims.contains(&lease), "{claims}");

    let expires = |status: &str| {
        let status: serde_json::Value = serde_json::from_str(status).unwrap();
        status["expiresAt"].as_str().unwrap().to_owned()
    };
    let looked = || expires(&succeeded(env.run(["status", "warm-crab", "--json"])).stdout);
    let before = looked();
    std::thread::sleep(std::time::Duration::from_millis(1100));
    assert_eq!(looked(), before, "looking does not extend a lease");
    succeeded(env.run(["status", "warm-crab", "--wait"]));
    assert!(looked() > before, "waiting does");

    succeeded(env.run(["cp", "--id", "warm-crab", "new.txt", "SANDBOX:copied.txt"]));
    succeeded(env.run(["cp", "--id", "warm-crab", "SANDBOX:copied.txt", "back.txt"]));
    assert_eq!(fs::read_to_string(env.work().join("back.txt")).unwrap(), "new\n");

    let stopped = succeeded(env.run(["release", "warm-crab"]));
    assert_eq!(stopped.stdout, "");
    assert!(
        stopped.stderr.contains(&format!("deleted lease={lease} server=")),
        "{}",
        stopped.stderr
    );
    assert_eq!(succeeded(env.run(["list", "--json"])).stdout, "[]\n");
    nothing_left(&env);
}

#[cfg(unix)]
#[test]
fn copies_keep_links_and_name_what_cannot_be_copied() {
    use std::os::unix::fs::symlink;
    let env = checkout();
    succeeded(env.run(["warmup", "--slug", "warm-crab"]));
    let cp = |args: &[&str]| env.run(["cp", "--id", "warm-crab"].iter().chain(args));
    let refused = |args: &[&str], line: &str| {
        let finished = cp(args);
        assert_eq!(finished.code, 2, "{}", finished.shown());
        assert!(finished.stderr.ends_with(&format!("{line}\n")), "{}", finished.stderr);
        assert!(finished.stderr.starts_with("hint: "), "{}", finished.stderr);
    };
    env.write("tree/a b", "content");
    symlink("a b", env.work().join("tree/link")).unwrap();
    succeeded(cp(&["tree/link", "SANDBOX:sub/link"]));
    succeeded(cp(&["-L", "tree/link", "SANDBOX:sub/file"]));
    let there = env.run([
        "run",
        "--quiet",
        "--id",
        "warm-crab",
        "--no-sync",
        "--",
        "sh",
        "-c",
        "readlink sub/link; cat sub/file",
    ]);
    assert_eq!(succeeded(there).stdout, "a b\ncontent");

    symlink("nowhere", env.work().join("tree/dangling")).unwrap();
    refused(
        &["-L", "tree", "SANDBOX:followed"],
        "read `[ROOT]/work/tree/dangling`: No such file or directory (os error 2)",
    );
    fs::remove_file(env.work().join("tree/dangling")).unwrap();
    symlink("..", env.work().join("tree/up")).unwrap();
    refused(
        &["-L", "tree", "SANDBOX:followed"],
        "link leads back to where it is: `[ROOT]/work/tree/up/tree`",
    );
    let left = env.run([
        "run",
        "--quiet",
        "--id",
        "warm-crab",
        "--no-sync",
        "--",
        "ls",
        "followed",
    ]);
    assert_ne!(left.code, 0, "nothing was sent: {}", left.shown());

    refused(&["tree", "SANDBOX:sub/file"], "/sub/file`");
    refused(&["SANDBOX:sub", "new.txt"], "not a directory: `[ROOT]/work/new.txt`");
    refused(
        &["SANDBOX:sub/file", "no/such/place"],
        "directory does not exist: `[ROOT]/work/no/such`",
    );
    succeeded(env.run(["stop", "warm-crab"]));
    nothing_left(&env);
}

#[test]
fn a_box_without_a_claim_is_shown_as_it_is_now() {
    let env = checkout();
    succeeded(env.run(["warmup", "--slug", "lost"]));
    for entry in fs::read_dir(env.state().join("claims")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "json") {
            fs::remove_file(path).unwrap();
        }
    }
    let paused = succeeded(env.run(["pause", "lost"]));
    assert!(paused.stdout.contains(" state=paused "), "{}", paused.stdout);
    let waiting = env.command(["status", "lost", "--wait"]).spawn().unwrap();
    succeeded(env.run(["resume", "lost"]));
    let waited = succeeded(env.finished(waiting.wait_with_output().unwrap()));
    assert!(waited.stdout.ends_with("\n"), "{}", waited.stdout);
    succeeded(env.run(["stop", "lost", "--reclaim"]));
    nothing_left(&env);
}

#[test]
fn recorded_runs_can_be_read_again() {
    let env = checkout();
    succeeded(env.run(["run", "--label", "the first", "--", "sh", "-c", "echo one; echo two"]));
    let history = succeeded(env.run(["history", "--json"])).stdout;
    let history: serde_json::Value = serde_json::from_str(&history).unwrap();
    let run = history[0]["id"].as_str().unwrap();
    assert_eq!(
        (history[0]["state"].as_str(), history[0]["label"].as_str()),
        (Some("succeeded"), Some("the first"))
    );
    assert!(succeeded(env.run(["history"])).stdout.starts_with(run));
    assert_eq!(succeeded(env.run(["logs", run])).stdout, "one\ntwo\n");
    assert_eq!(succeeded(env.run(["logs", "--tail", "1", "--id", run])).stdout, "two\n");
    let log = succeeded(env.run(["logs", run, "--json"])).stdout;
    let log: serde_json::Value = serde_json::from_str(&log).unwrap();
    assert_eq!(
        (log["run"]["id"].as_str(), log["log"].as_str()),
        (Some(run), Some("one\ntwo\n"))
    );
    let events = succeeded(env.run(["events", run, "--limit", "1"])).stdout;
    assert!(events.starts_with("0001 "), "{events}");
    let results = succeeded(env.run(["results", run])).stdout;
    assert_eq!(results, format!("no test results recorded for {run}\n"));
    assert_eq!(
        succeeded(env.run(["results", run, "--json", "--failed-only"])).stdout,
        "[]\n"
    );
}

#[test]
fn a_lease_of_another_checkout_is_refused_until_it_is_taken_over() {
    let env = checkout();
    succeeded(env.run(["warmup", "--slug", "mine"]));
    env.write("other/a.txt", "other\n");
    let other = |args: &[&str]| {
        let mut command = env.command(args);
        command.current_dir(env.work().join("other"));
        env.finished(command.output().unwrap())
    };
    let mut git = env.command(["--version"]);
    git.current_dir(env.work().join("other"));
    fs::create_dir(env.work().join("other/.git")).unwrap();
    for (path, text) in [
        ("HEAD", "ref: refs/heads/main\n"),
        ("config", "[core]\n\trepositoryformatversion = 0\n"),
    ] {
        env.write(format!("other/.git/{path}"), text);
    }
    for path in ["objects", "refs"] {
        fs::create_dir(env.work().join("other/.git").join(path)).unwrap();
    }
    let refused = other(&["run", "--id", "mine", "--", "true"]);
    assert_eq!(refused.code, 2, "{}", refused.shown());
    assert!(refused.stderr.contains("--reclaim"), "{}", refused.stderr);
    let taken = other(&["run", "--id", "mine", "--reclaim", "--", "cat", "a.txt"]);
    assert_eq!((taken.code, taken.stdout.as_str()), (0, "other\n"), "{}", taken.shown());
    succeeded(env.run(["stop", "mine"]));
    nothing_left(&env);
}

#[test]
fn an_expired_lease_is_refused_and_cleaned_up() {
    let env = checkout();
    succeeded(env.run(["warmup", "--slug", "old", "--ttl", "2s"]));
    let mut last = None;
    // The box ends by itself, a moment after its time.
    for _ in 0..200 {
        let finished = env.run(["run", "--id", "old", "--", "true"]);
        let gone = finished.code != 0;
        last = Some(finished);
        if gone {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let refused = last.unwrap();
    assert!([4, 5].contains(&refused.code), "{}", refused.shown());
    assert!(refused.stderr.contains("hint: "), "{}", refused.stderr);
    succeeded(env.run(["cleanup"]));
    // What ended the box tidies up on its own.
    let boxes = env.state().join("local/boxes");
    for _ in 0..100 {
        if fs::read_dir(&boxes).map_or(0, Iterator::count) == 0
            && processes(&env.home().display().to_string()).is_empty()
        {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    nothing_left(&env);
}

#[test]
fn a_checkpoint_is_forked_into_boxes_that_do_not_see_each_other() {
    let env = checkout();
    succeeded(env.run(["warmup", "--slug", "base"]));
    succeeded(env.run(["run", "--id", "base", "--", "sh", "-c", "echo base > state.txt"]));
    let created = succeeded(env.run(["checkpoint", "create", "base", "--name", "start", "--json"])).stdout;
    let created: serde_json::Value = serde_json::from_str(&created).unwrap();
    let checkpoint = created["id"].as_str().unwrap();
    assert!(
        succeeded(env.run(["checkpoint", "list"]))
            .stdout
            .starts_with(checkpoint)
    );
    let fork = env.run([
        "checkpoint",
        "fork",
        checkpoint,
        "--count",
        "3",
        "--keep=false",
        "--",
        "sh",
        "-c",
        "echo {{index}} >> state.txt; cat state.txt",
    ]);
    let fork = succeeded(fork);
    for index in 1..=3 {
        assert!(fork.stdout.contains(&format!("[{index}/3] base\n")), "{}", fork.shown());
        assert!(
            fork.stdout.contains(&format!("[{index}/3] {index}\n")),
            "{}",
            fork.shown()
        );
        assert!(fork.stdout.contains(&format!(" index={index}/3\n")), "{}", fork.shown());
    }
    let lines = fork.stdout.lines().filter(|line| line.starts_with('[')).count();
    assert_eq!(lines, 6, "{}", fork.shown());
    succeeded(env.run([
        "run",
        "--id",
        "base",
        "--no-sync",
        "--",
        "sh",
        "-c",
        "echo more >> state.txt",
    ]));
    let planned = succeeded(env.run([
        "checkpoint",
        "fork",
        checkpoint,
        "--dry-run",
        "--slug",
        "copy",
        "--",
        "echo",
        "\"{{slug}}\"",
    ]));
    let resource = created["native"]["imageId"].as_str().unwrap_or("-");
    assert_eq!(
        planned.stdout,
        format!(
            "would fork checkpoint id={checkpoint} provider=local resource={resource} slug=copy keep=true \
             command=\"echo '\\\"copy\\\"'\"\n"
        )
    );
    let restored = succeeded(env.run(["checkpoint", "restore", checkpoint, "--id", "base"]));
    let lease = created["leaseId"].as_str().unwrap();
    assert!(
        restored.stdout.contains(&format!(" lease={lease} workdir=/")),
        "{}",
        restored.stdout
    );
    let restored = succeeded(env.run(["run", "--id", "base", "--no-sync", "--", "cat", "state.txt"]));
    assert_eq!(restored.stdout, "base\n");
    succeeded(env.run(["stop", "base"]));
    succeeded(env.run(["checkpoint", "delete", checkpoint]));
    assert_eq!(succeeded(env.run(["checkpoint", "list", "--json"])).stdout, "[]\n");
    nothing_left(&env);
}

#[test]
fn a_job_gets_a_box_runs_and_gives_it_back() {
    let env = checkout();
    env.write(
        ".crabbox.yaml",
        "jobs:\n  look:\n    command: cat new.txt\n  fail:\n    shell: true\n    command: exit 9\n",
    );
    let finished = succeeded(env.run(["job", "run", "look"]));
    assert_eq!(finished.stdout, "new\n");
    assert_eq!(env.run(["job", "run", "fail"]).code, 9);
    nothing_left(&env);
}

#[test]
fn flags_of_the_selected_provider_reach_it() {
    let env = checkout();
    let script = "cat /proc/net/route | wc -l";
    let open = succeeded(env.run(["run", "--local-network", "host", "--", "sh", "-c", script]));
    let closed = succeeded(env.run(["run", "-local-network=none", "--", "sh", "-c", script]));
    assert_eq!(closed.stdout.trim(), "1", "{}", open.shown());
    let refused = env.run(["run", "--local-network", "sometimes", "--", "true"]);
    assert_eq!(refused.code, 2, "{}", refused.shown());
    assert!(refused.stderr.contains("--local-network"), "{}", refused.stderr);
}

#[test]
fn outputs_are_private_files_of_this_machine() {
    use std::os::unix::fs::PermissionsExt as _;

    let env = checkout();
    fs::create_dir(env.work().join("out")).unwrap();
    let args = [
        "run",
        "--keep",
        "--lease-output",
        "out/lease.json",
        "--capture-stdout",
        "out/stdout.txt",
        "--download",
        "made.txt=out/made.txt",
        "--timing-record",
        "default",
        "--",
        "sh",
        "-c",
        "echo captured; echo made > made.txt",
    ];
    let finished = succeeded(env.run(args));
    assert_eq!(finished.stdout, "");
    let read = |name: &str| fs::read_to_string(env.work().join("out").join(name)).unwrap();
    assert_eq!(
        (read("stdout.txt").as_str(), read("made.txt").as_str()),
        ("captured\n", "made\n")
    );
    let handle: serde_json::Value = serde_json::from_str(&read("lease.json")).unwrap();
    for name in ["stdout.txt", "made.txt"] {
        let mode = fs::metadata(env.work().join("out").join(name))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    assert_eq!(
        fs::read_to_string(env.state().join("timings.jsonl"))
            .unwrap()
            .lines()
            .count(),
        1
    );
    succeeded(env.run(["stop", handle["leaseId"].as_str().unwrap()]));
    nothing_left(&env);
}

#[test]
fn scripts_and_shell_lines_run() {
    let env = checkout();
    let shell = succeeded(env.run(["run", "--quiet", "--shell", "echo", "$((1+2))", "&&", "cat", "new.txt"]));
    assert_eq!(shell.stdout, "3\nnew\n");
    env.write("script.sh", "#!/bin/sh\necho \"script $1\"\n");
    let script = succeeded(env.run(["run", "--quiet", "--script", "script.sh", "--", "one"]));
    assert_eq!(script.stdout, "script one\n");
    let stdin = succeeded(env.run_with(["run", "--quiet", "--script-stdin"], "echo from stdin\n"));
    assert_eq!(stdin.stdout, "from stdin\n");
    let synced = succeeded(env.run(["run", "--quiet", "--sync-only"]));
    assert!(
        synced.stdout.starts_with("synced /work/crabbox/cbx_"),
        "{}",
        synced.stdout
    );
    nothing_left(&env);
}

#[test]
fn no_program_of_this_machine_is_needed() {
    // Nothing can be found: no git, ssh, rsync, tar or curl.
    let env = checkout().set("PATH", "/nonexistent");
    let finished = succeeded(env.run(["run", "--", "/bin/cat", "changed.txt"]));
    assert_eq!(finished.stdout, "after\n");
    nothing_left(&env);
}

#[test]
fn a_command_that_exits_255_ran_once() {
    let env = checkout();
    succeeded(env.run(["warmup", "--slug", "once"]));
    let finished = env.run([
        "run",
        "--id",
        "once",
        "--no-sync",
        "--",
        "sh",
        "-c",
        "echo run >> count; exit 255",
    ]);
    assert_eq!(finished.code, 255, "{}", finished.shown());
    let finished = succeeded(env.run(["run", "--id", "once", "--no-sync", "--", "cat", "count"]));
    assert_eq!(finished.stdout, "run\n");
    succeeded(env.run(["stop", "once"]));
    nothing_left(&env);
}

#[test]
fn the_executed_tree_is_that_of_the_checkout_under_the_lock() {
    let env = checkout();
    succeeded(env.run(["warmup", "--slug", "shared"]));
    let tree = |content: &str| {
        env.write("changed.txt", content);
        let finished = succeeded(env.run(["run", "--id", "shared", "--timing-json", "--", "cat", "changed.txt"]));
        assert_eq!(finished.stdout, content);
        let last = finished.stderr.lines().last().unwrap_or_default().to_owned();
        let timing: serde_json::Value = serde_json::from_str(&last).unwrap();
        timing["executedTree"].as_str().unwrap().to_owned()
    };
    let (first, second, third) = (tree("one\n"), tree("two\n"), tree("one\n"));
    assert_eq!(first.len(), 64);
    assert_ne!(first, second);
    assert_eq!(first, third);
    succeeded(env.run(["stop", "shared"]));
}
