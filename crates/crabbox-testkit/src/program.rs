//! What a person does with the built executable, end to end: real checkouts, real boxes, real processes.
//!
//! Each function is one story in a fresh home. When it ends, nothing may be left but records. A provider that the executable
//! holds passes all of them.

use std::path::PathBuf;

use rustix::process::Signal;
use serde_json::Value;

use crate::{Finished, LeakGuard, Repository, SecretScan, TestEnv};

/// An executable and how it is told which provider to use.
#[derive(Clone, Debug, Default)]
pub struct Program {
    /// The built executable.
    pub binary: PathBuf,
    /// The user's config file, such as `provider: local`.
    pub config: String,
}

/// Makes one test of each story. Takes the path of an `fn() -> Program`.
#[macro_export]
macro_rules! program_behaviour {
    ($start:path) => {
        $crate::__program_stories! { $start;
            a_dirty_checkout_is_run,
            exit_codes_pass_through,
            output_streams_and_an_interrupt_gives_the_box_back,
            a_kept_box_follows_the_checkout,
            a_stopped_lease_is_gone,
            captures_and_downloads_arrive,
            variables_travel_by_allowlist,
            times_are_the_last_line,
            ten_forks_run_at_the_same_time,
            runs_at_the_same_time_do_not_meet,
            one_slug_names_one_box,
            a_sweep_leaves_a_run_alone,
            stopping_the_box_ends_its_run,
            input_reaches_scripts,
            bad_requests_create_nothing,
            secrets_stay_here,
        }
    };
}

/// Makes a test of each named story.
#[doc(hidden)]
#[macro_export]
macro_rules! __program_stories {
    ($start:path; $($name:ident,)*) => {$(
        #[test]
        fn $name() {
            $crate::program::$name(&$start());
        }
    )*};
}

/// A desk with a checkout on it.
struct Desk {
    environment: TestEnv,
    repository: Repository,
    guard: LeakGuard,
}

impl Desk {
    fn new(program: &Program) -> Self {
        let environment = TestEnv::new(&program.binary);
        if !program.config.is_empty() {
            environment.write_config(&program.config);
        }
        let repository = Repository::dirty(environment.path("repo"));
        let guard = environment.leak_guard();
        Self {
            environment,
            repository,
            guard,
        }
    }

    fn run<'a>(&self, words: impl IntoIterator<Item = &'a str>) -> Finished {
        self.environment.run_in(self.repository.root(), words)
    }

    /// A kept box.
    fn warmup(&self) -> String {
        let finished = self.run(["warmup"]).expect_success();
        let listed = self.leases();
        assert_eq!(listed.len(), 1, "{finished}");
        let line = format!("leased {} slug=", listed[0]);
        assert!(
            finished.stdout().lines().any(|found| found.starts_with(&line)),
            "{finished}"
        );
        listed[0].clone()
    }

    /// Every lease that is listed.
    fn leases(&self) -> Vec<String> {
        let rows = json(&self.run(["list", "--json"]).expect_success());
        let rows = rows.as_array().expect("a list is an array").iter();
        rows.map(|row| row["leaseId"].as_str().expect("a row names its lease").to_owned())
            .collect()
    }

    fn assert_clean(&self) {
        assert_eq!(self.leases(), [] as [&str; 0]);
        self.guard.assert_clean();
    }
}

/// Standard output as JSON.
#[track_caller]
fn json(finished: &Finished) -> Value {
    serde_json::from_slice(&finished.stdout).unwrap_or_else(|error| panic!("{error}: {finished}"))
}

/// The first run: the dirty checkout is in the box, what git ignores is not, and nothing is left behind.
pub fn a_dirty_checkout_is_run(program: &Program) {
    let desk = Desk::new(program);
    let script = "ls; cat src/main.txt src/staged.txt src/new.txt; ./run.sh; readlink link; exit 3";
    let finished = desk.run(["run", "--", "sh", "-c", script]).expect_code(3);
    let listing = "README.md\nlink\nrun.sh\nsrc\n";
    assert_eq!(
        finished.stdout(),
        format!("{listing}second\nstaged\nnew\nran\nREADME.md\n"),
        "{finished}"
    );
    desk.assert_clean();
}

/// The command's status is the program's, whichever it is.
pub fn exit_codes_pass_through(program: &Program) {
    let desk = Desk::new(program);
    for code in [0, 1, 2, 7, 42, 127, 255] {
        let script = format!("exit {code}");
        let finished = desk
            .run(["run", "--timing-json", "--", "sh", "-c", &script])
            .expect_code(code);
        let timing = last_line(&finished);
        assert_eq!(
            (timing["exitCode"].as_i64(), timing["exitSource"].as_str()),
            (Some(i64::from(code)), Some("command"))
        );
    }
    let killed = desk.run(["run", "--", "sh", "-c", "kill -TERM $$"]).expect_code(143);
    assert_eq!(killed.stdout(), "");
    desk.assert_clean();
}

/// Output is seen while the command runs; the first interrupt ends it in order and gives the box back.
pub fn output_streams_and_an_interrupt_gives_the_box_back(program: &Program) {
    for signal in [Signal::INT, Signal::TERM] {
        let desk = Desk::new(program);
        let mut running = desk
            .environment
            .command(["run", "--", "sh", "-c", "echo first; sleep 1000; echo never"])
            .dir(desk.repository.root())
            .start();
        running.until_stdout("first\n");
        assert_eq!(desk.leases().len(), 1);
        running.signal(signal);
        let finished = running.wait();
        assert!(finished.code().is_some_and(|code| code != 0), "{finished}");
        assert_eq!(finished.stdout(), "first\n", "{finished}");
        desk.assert_clean();
    }
}

/// A kept box is used again, and has what the checkout has: added, changed, deleted, renamed, relinked, with its mode.
pub fn a_kept_box_follows_the_checkout(program: &Program) {
    const SHOW: &str = "find . -path ./.crabbox -prune -o ! -type d -print | LC_ALL=C sort | while IFS= read -r path; do \
        if [ -L \"$path\" ]; then echo \"$path -> $(readlink \"$path\")\"; \
        else echo \"$path $(ls -l \"$path\" | cut -c1-10) $(cksum < \"$path\" | cut -d' ' -f1)\"; fi; done";
    let desk = Desk::new(program);
    let lease = desk.warmup();
    let show = || {
        desk.run(["run", "--id", &lease, "--shell", "--", SHOW])
            .expect_success()
            .stdout()
    };
    let first = show();
    assert!(
        first.contains("./link -> README.md\n") && first.contains("./run.sh -rwxr-xr-x "),
        "{first}"
    );
    assert_eq!(show(), first, "nothing changed");
    desk.repository.write("src/added/by hand.txt", "added\n");
    desk.repository.write("src/main.txt", "third\n");
    desk.repository.remove("src/new.txt");
    desk.repository.rename("src/staged.txt", "renamed/ü.txt");
    desk.repository.link("link", "src/main.txt");
    desk.repository.set_mode("run.sh", 0o644);
    desk.repository.set_mode("README.md", 0o755);
    let second = show();
    // The oracle is a fresh box, which has never seen the old state.
    let fresh = desk.run(["run", "--shell", "--", SHOW]).expect_success().stdout();
    assert_eq!(second, fresh);
    for line in [
        "./src/added/by hand.txt ",
        "./renamed/ü.txt ",
        "./link -> src/main.txt\n",
        "./run.sh -rw-r--r-- ",
        "./README.md -rwxr-xr-x ",
    ] {
        assert!(second.contains(line), "{line:?} is not in\n{second}");
    }
    assert!(
        !second.contains("new.txt") && !second.contains("staged.txt"),
        "{second}"
    );
    let kept = desk.run([
        "run",
        "--id",
        &lease,
        "--no-sync",
        "--",
        "sh",
        "-c",
        "echo box > README.md; cat README.md",
    ]);
    assert_eq!(kept.expect_success().stdout(), "box\n");
    let repaired = desk
        .run(["run", "--id", &lease, "--full-resync", "--", "cat", "README.md"])
        .expect_success();
    assert_eq!(repaired.stdout(), "# Sample\n");
    let _gone = desk.run(["stop", &lease]).expect_success();
    desk.assert_clean();
}

/// A lease has a state until it is stopped, and then no more.
pub fn a_stopped_lease_is_gone(program: &Program) {
    let desk = Desk::new(program);
    let lease = desk.warmup();
    let status = json(&desk.run(["status", &lease, "--json"]).expect_success());
    assert_eq!(status["id"], lease.as_str());
    let slug = status["slug"].as_str().expect("a lease has a slug").to_owned();
    assert_eq!(
        json(&desk.run(["status", &slug, "--json"]).expect_success())["id"],
        lease.as_str()
    );
    let swept = desk.run(["cleanup"]).expect_success();
    assert_eq!(desk.leases(), [lease.as_str()], "a kept box was swept: {swept}");
    let _gone = desk.run(["stop", &slug]).expect_success();
    for words in [["stop", &lease], ["status", &lease], ["stop", &slug]] {
        let refused = desk.run(words).expect_code(4);
        assert_eq!(refused.stdout(), "", "{refused}");
    }
    desk.assert_clean();
}

/// Streams go to the files that were asked for, and files of the box come here.
pub fn captures_and_downloads_arrive(program: &Program) {
    let desk = Desk::new(program);
    let here = |name: &str| desk.environment.path(name);
    let (out, err, fetched) = (here("out"), here("err"), here("fetched"));
    let download = format!("made/file={}", fetched.display());
    let script = "printf 'o\\000ut'; printf err >&2; mkdir made; echo content > made/file";
    let words = [
        "run",
        "--capture-stdout",
        "OUT",
        "--capture-stderr",
        "ERR",
        "--download",
        "DOWN",
        "--",
        "sh",
        "-c",
        script,
    ];
    let words = words.map(|word| match word {
        "OUT" => out.to_str().expect("the path is plain"),
        "ERR" => err.to_str().expect("the path is plain"),
        "DOWN" => &download,
        word => word,
    });
    let finished = desk.run(words).expect_success();
    assert_eq!(finished.stdout(), "");
    assert_eq!(std::fs::read(out).expect("it was captured"), b"o\0ut");
    assert_eq!(std::fs::read(err).expect("it was captured"), b"err");
    assert_eq!(std::fs::read(fetched).expect("it was fetched"), b"content\n");
    desk.assert_clean();
}

/// A variable travels when it was asked for, and no other does.
pub fn variables_travel_by_allowlist(program: &Program) {
    let mut desk = Desk::new(program);
    desk.environment.set("SUITE_WANTED", "wanted value");
    desk.environment.set("SUITE_OTHER", "other value");
    let finished = desk
        .run(["run", "--allow-env", "SUITE_WANTED", "--", "sh", "-c", "env"])
        .expect_success();
    let stdout = finished.stdout();
    assert!(stdout.contains("SUITE_WANTED=wanted value\n"), "{finished}");
    assert!(
        !stdout.contains("other value") && !stdout.contains(desk.environment.home().to_str().expect("plain")),
        "{finished}"
    );
    desk.assert_clean();
}

/// With `--timing-json` the last line of standard error is one line of JSON.
pub fn times_are_the_last_line(program: &Program) {
    let desk = Desk::new(program);
    for command in ["true", "false"] {
        let finished = desk.run(["run", "--timing-json", "--", command]);
        let timing = last_line(&finished);
        assert_eq!(
            timing["exitCode"].as_i64(),
            finished.code().map(i64::from),
            "{finished}"
        );
        for key in ["provider", "leaseId", "runId", "executedTree"] {
            assert!(
                timing[key].as_str().is_some_and(|value| !value.is_empty()),
                "{key}: {timing}"
            );
        }
        for key in ["syncMs", "commandMs", "totalMs"] {
            assert!(timing[key].is_u64(), "{key}: {timing}");
        }
    }
    desk.assert_clean();
}

fn last_line(finished: &Finished) -> Value {
    let stderr = finished.stderr();
    let line = stderr.lines().last().unwrap_or_default();
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {finished}"))
}

/// Ten boxes from one checkpoint run ten commands and see nothing of each other.
pub fn ten_forks_run_at_the_same_time(program: &Program) {
    let desk = Desk::new(program);
    let lease = desk.warmup();
    let _synced = desk
        .run(["run", "--id", &lease, "--", "sh", "-c", "echo base > base.txt"])
        .expect_success();
    let checkpoint = json(&desk.run(["checkpoint", "create", &lease, "--json"]).expect_success());
    let id = checkpoint["id"].as_str().expect("a checkpoint has an id");
    let script = "cat base.txt src/main.txt; test ! -e who || cat who; echo mine-{{index}} > who; echo {{index}} >> base.txt; cat who base.txt";
    let forked = desk
        .run([
            "checkpoint",
            "fork",
            id,
            "--count",
            "10",
            "--keep=false",
            "--",
            "sh",
            "-c",
            script,
        ])
        .expect_success();
    let stdout = forked.stdout();
    let said = |index: usize| {
        let prefix = format!("[{index:>2}/10] ");
        stdout
            .lines()
            .filter_map(|line| line.strip_prefix(&prefix))
            .collect::<Vec<_>>()
    };
    for index in 1..=10 {
        let own = [format!("mine-{index}"), index.to_string()];
        assert_eq!(said(index), ["base", "second", &own[0], "base", &own[1]], "{forked}");
    }
    assert_eq!(desk.leases(), [lease.as_str()]);
    let base = desk
        .run(["run", "--id", &lease, "--no-sync", "--", "cat", "base.txt"])
        .expect_success();
    assert_eq!(base.stdout(), "base\n");
    let _stopped = desk.run(["stop", &lease]).expect_success();
    let _deleted = desk.run(["checkpoint", "delete", id]).expect_success();
    desk.assert_clean();
}

/// Four runs of one checkout at once each have a box of their own.
pub fn runs_at_the_same_time_do_not_meet(program: &Program) {
    let desk = Desk::new(program);
    let start = |index: i32| {
        let script = format!("test ! -e mark && echo {index} > mark && sleep 0.2 && cat mark && exit {index}");
        desk.environment
            .command(["run", "--", "sh", "-c", &script])
            .dir(desk.repository.root())
            .start()
    };
    let running: Vec<_> = (1..=4).map(start).collect();
    for (index, running) in (1..=4).zip(running) {
        let finished = running.wait().expect_code(index);
        assert_eq!(finished.stdout(), format!("{index}\n"), "{finished}");
    }
    desk.assert_clean();
}

/// Four people ask for one name at once: one gets it, the others are refused and nothing of theirs is left.
pub fn one_slug_names_one_box(program: &Program) {
    let desk = Desk::new(program);
    let start = |_| {
        let invocation = desk.environment.command(["warmup", "--slug", "wanted"]);
        invocation.dir(desk.repository.root()).start()
    };
    let running: Vec<_> = (0..4).map(start).collect();
    let finished: Vec<Finished> = running.into_iter().map(crate::Running::wait).collect();
    let (won, lost): (Vec<_>, Vec<_>) = finished.iter().partition(|finished| finished.code() == Some(0));
    assert_eq!(won.len(), 1, "{finished:#?}");
    for refused in lost {
        assert!(
            refused.code().is_some() && refused.stderr().contains("wanted"),
            "{refused}"
        );
    }
    assert_eq!(desk.leases().len(), 1);
    let _stopped = desk.run(["stop", "wanted"]).expect_success();
    desk.assert_clean();
}

/// A sweep takes nothing from a run that goes on beside it.
pub fn a_sweep_leaves_a_run_alone(program: &Program) {
    let desk = Desk::new(program);
    let script = "echo ready; i=0; while [ $i -lt 100 ]; do test -e README.md || exit 1; i=$((i+1)); sleep 0.01; done; echo done";
    let command = desk.environment.command(["run", "--", "sh", "-c", script]);
    let mut running = command.dir(desk.repository.root()).start();
    running.until_stdout("ready\n");
    for _ in 0..3 {
        let swept = desk.run(["cleanup"]).expect_success();
        assert_eq!(desk.leases().len(), 1, "{swept}");
    }
    let finished = running.wait().expect_success();
    assert_eq!(finished.stdout(), "ready\ndone\n");
    desk.assert_clean();
}

/// Whose box is stopped by somebody else ends at once and says so.
pub fn stopping_the_box_ends_its_run(program: &Program) {
    let desk = Desk::new(program);
    let command = desk
        .environment
        .command(["run", "--", "sh", "-c", "echo ready; sleep 1000"]);
    let mut running = command.dir(desk.repository.root()).start();
    running.until_stdout("ready\n");
    let lease = desk.leases().pop().expect("the run has a box");
    let _stopped = desk.run(["stop", &lease]).expect_success();
    let finished = running.wait();
    assert!(finished.code().is_some_and(|code| code != 0), "{finished}");
    desk.assert_clean();
}

/// A script comes from standard input, and from a file with arguments.
pub fn input_reaches_scripts(program: &Program) {
    let desk = Desk::new(program);
    let piped = desk
        .environment
        .command(["run", "--script-stdin"])
        .dir(desk.repository.root())
        .stdin("echo from stdin; cat README.md; exit 4")
        .run()
        .expect_code(4);
    assert_eq!(piped.stdout(), "from stdin\n# Sample\n");
    let outside = Repository::create(desk.environment.path("elsewhere"));
    outside.write("script.sh", "#!/bin/sh\necho \"$# $1 $2\"; pwd\n");
    let file = outside.root().join("script.sh");
    let file = file.to_str().expect("the path is plain");
    let finished = desk.run(["run", "--script", file, "--", "a b", "*"]).expect_success();
    assert!(finished.stdout().starts_with("2 a b *\n/"), "{finished}");
    desk.assert_clean();
}

/// What cannot be done ends in one clear line and the right status, before anything is created.
pub fn bad_requests_create_nothing(program: &Program) {
    let desk = Desk::new(program);
    let missing = desk.environment.path("no/such/script");
    let missing = missing.to_str().expect("the path is plain").to_owned();
    for (code, words) in [
        (2, vec!["run"]),
        (2, vec!["run", "--no-such-flag", "--", "true"]),
        (2, vec!["run", "--provider", "no-such-provider", "--", "true"]),
        (2, vec!["run", "--slug", "!!!", "--", "true"]),
        (2, vec!["run", "--ttl", "soon", "--", "true"]),
        (2, vec!["run", "--script", &missing]),
        (4, vec!["run", "--id", "cbx_000000000000", "--", "true"]),
        (4, vec!["stop", "no-such-lease"]),
    ] {
        let refused = desk.run(words).expect_code(code);
        assert_eq!(refused.stdout(), "", "{refused}");
        let stderr = refused.stderr();
        let last = stderr.lines().last().unwrap_or_default();
        assert!(
            !last.is_empty() && !last.ends_with('.') && !stderr.contains("panicked"),
            "{refused}"
        );
        assert!(!stderr.contains("leased "), "{refused}");
    }
    let nowhere = desk.environment.run(["run", "--", "true"]).expect_code(6);
    assert_eq!(nowhere.stdout(), "", "not a checkout: {nowhere}");
    desk.assert_clean();
}

/// What a person's environment holds in confidence is in no record, no output and no command line.
pub fn secrets_stay_here(program: &Program) {
    let mut desk = Desk::new(program);
    let mut scan = SecretScan::new();
    let (forwarded, own) = (
        scan.canary("a forwarded variable"),
        scan.canary("a variable of the user's own"),
    );
    desk.environment.set("SUITE_TOKEN", &forwarded);
    desk.environment.set("ACME_API_KEY", &own);
    let lease = desk.warmup();
    let script = "test -n \"$SUITE_TOKEN\" && echo started && sleep 1000";
    let mut running = desk
        .environment
        .command([
            "run",
            "--id",
            &lease,
            "--allow-env",
            "SUITE_TOKEN",
            "--timing-json",
            "--",
            "sh",
            "-c",
            script,
        ])
        .dir(desk.repository.root())
        .start();
    running.until_stdout("started\n");
    scan.arguments();
    scan.directory(desk.environment.root());
    running.signal(Signal::INT);
    let finished = running.wait();
    scan.bytes("standard output", &finished.stdout);
    scan.bytes("standard error", &finished.stderr);
    for words in [
        vec!["list", "--json"],
        vec!["inspect", &lease],
        vec!["history"],
        vec!["config", "show"],
        vec!["doctor"],
    ] {
        let shown = desk.run(words.clone());
        scan.bytes(&format!("{words:?}"), &[shown.stdout, shown.stderr].concat());
    }
    let _gone = desk.run(["stop", &lease]).expect_success();
    scan.directory(desk.environment.root());
    scan.assert_none();
    desk.assert_clean();
}
