//! Killed at each step, nothing is left that `cleanup` does not give back.
#![cfg(target_os = "linux")]

use crabbox_engine::Step;
use crabbox_testkit::{Finished, LeakGuard, Repository, TestEnv};
use rustix::process::Signal;

/// One machine with a checkout, and an eye on what is left.
struct Machine {
    environment: TestEnv,
    repository: Repository,
    guard: LeakGuard,
}

impl Machine {
    fn new() -> Self {
        let environment = TestEnv::new(env!("CARGO_BIN_EXE_crabbox-crash-child"));
        let repository = Repository::dirty(environment.path("repo"));
        let guard = environment.leak_guard();
        Self {
            environment,
            repository,
            guard,
        }
    }

    fn call(&self, at: Option<Step>, words: &[&str]) -> Finished {
        let mut arguments = Vec::new();
        if let Some(step) = at {
            arguments.extend(["--at", step.as_str()]);
        }
        arguments.extend(words);
        self.environment.run_in(self.repository.root(), arguments)
    }

    /// The lease that a workflow prints.
    fn lease(&self, words: &[&str]) -> String {
        self.call(None, words)
            .expect_success()
            .stdout()
            .lines()
            .last()
            .expect("it prints a lease")
            .to_owned()
    }

    /// Checks that the workflow is killed at the step, and not ended before or after it.
    fn killed_at(&self, step: Step, words: &[&str]) {
        let finished = self.call(Some(step), words);
        assert_eq!(
            finished.signal(),
            Some(9),
            "{step} is not reached by {words:?}: {finished}"
        );
    }

    /// Sweeps; then nothing is left, and everything works as on the first day.
    fn recovers(&self, step: Step) {
        let swept = self.call(None, &["cleanup"]).expect_success();
        let leaks = self.guard.leaks_after(std::time::Duration::from_secs(5));
        assert!(
            leaks.is_empty(),
            "killed at {step}, {swept}\nleft behind:\n  {}",
            leaks.join("\n  ")
        );
        assert_eq!(self.call(None, &["list"]).expect_success().stdout(), "");
        let fresh = self.call(None, COMMAND).expect_code(3);
        assert_eq!(fresh.stdout(), "second\n", "{fresh}");
        self.guard.assert_clean();
    }
}

const COMMAND: &[&str] = &["run", "sh", "-c", "cat src/main.txt; exit 3"];

/// Steps of getting a box.
const ACQUIRE: &[Step] = &[
    Step::Prepared,
    Step::Claimed,
    Step::ResourceKnown,
    Step::Created,
    Step::Acquired,
];

/// Steps of a run that has a box.
const USE: &[Step] = &[
    Step::Manifested,
    Step::Synced,
    Step::CommandStarted,
    Step::CommandFinished,
    Step::Collected,
    Step::Recorded,
];

/// Steps of giving it back.
const RELEASE: &[Step] = &[
    Step::ReleaseLocked,
    Step::Releasing,
    Step::Verified,
    Step::Destroyed,
    Step::Forgotten,
    Step::Released,
];

/// Runs a scenario for each step, two at a time, each on a machine of its own, and reports every failure.
fn each(steps: &[Step], scenario: fn(&Machine, Step)) {
    let next = std::sync::atomic::AtomicUsize::new(0);
    let work = || {
        let mut failed = Vec::new();
        while let Some(step) = steps.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
            let result = std::panic::catch_unwind(|| scenario(&Machine::new(), *step));
            if result.is_err() {
                failed.push(step.as_str());
            }
        }
        failed
    };
    let failed = std::thread::scope(|scope| {
        let workers = [scope.spawn(work), scope.spawn(work)];
        workers
            .into_iter()
            .flat_map(|worker| worker.join().expect("panics were caught"))
            .collect::<Vec<_>>()
    });
    assert!(failed.is_empty(), "killed at {failed:?}, see above");
}

#[test]
fn without_a_crash_nothing_is_left() {
    let machine = Machine::new();
    machine.call(None, COMMAND).expect_code(3);
    machine.guard.assert_clean();
    let lease = machine.lease(&["warmup"]);
    assert_eq!(
        machine.call(None, &["list"]).expect_success().stdout(),
        format!("{lease}\n")
    );
    machine.call(None, &["cleanup"]).expect_success();
    assert_eq!(
        machine.call(None, &["list"]).expect_success().stdout(),
        format!("{lease}\n"),
        "a kept box was swept"
    );
    machine.call(None, &["stop", &lease]).expect_success();
    machine.guard.assert_clean();
}

/// A step without a case fails here, a case without its step where it is killed.
#[test]
fn every_step_has_a_case() {
    // A box that nobody else can know needs no lock; see `a_run_on_a_kept_box_killed_at_each_step`.
    let cases = [ACQUIRE, USE, RELEASE, &[Step::WorkspaceLocked]].concat();
    let without: Vec<&Step> = Step::ALL.iter().filter(|step| !cases.contains(step)).collect();
    assert!(without.is_empty(), "{without:?}");
}

#[test]
fn a_run_killed_at_each_step() {
    each(&[ACQUIRE, USE, RELEASE].concat(), |machine, step| {
        machine.killed_at(step, COMMAND);
        machine.recovers(step);
    });
}

/// A box that was to be kept is swept if its client died while creating it. Afterwards it is the user's: it is listed, and
/// stopping it leaves nothing.
#[test]
fn a_warmup_killed_at_each_step() {
    each(ACQUIRE, |machine, step| {
        machine.killed_at(step, &["warmup"]);
        machine.call(None, &["cleanup"]).expect_success();
        let listed = machine.call(None, &["list"]).expect_success().stdout();
        if step == Step::Acquired {
            machine.call(None, &["stop", listed.trim()]).expect_success();
        } else {
            assert_eq!(listed, "", "killed at {step}");
        }
        machine.recovers(step);
    });
}

#[test]
fn a_stop_killed_at_each_step() {
    each(RELEASE, |machine, step| {
        let lease = machine.lease(&["warmup"]);
        machine.killed_at(step, &["stop", &lease]);
        if step == Step::ReleaseLocked {
            // Nothing was written yet, so the box is still the user's, who asks again.
            machine.call(None, &["stop", &lease]).expect_success();
        }
        machine.recovers(step);
    });
}

/// The sweep itself may die.
#[test]
fn a_cleanup_killed_at_each_step() {
    each(RELEASE, |machine, step| {
        machine.killed_at(Step::Synced, COMMAND);
        machine.killed_at(step, &["cleanup"]);
        machine.recovers(step);
    });
}

/// Whoever uses a kept box and dies takes nothing with him: the sweep leaves it alone, and the next run works in it.
#[test]
fn a_run_on_a_kept_box_killed_at_each_step() {
    each(&[&[Step::WorkspaceLocked], USE].concat(), |machine, step| {
        let lease = machine.lease(&["warmup"]);
        let command = ["use", &lease, "sh", "-c", "cat src/main.txt; exit 3"];
        machine.killed_at(step, &command);
        machine.call(None, &["cleanup"]).expect_success();
        assert_eq!(
            machine.call(None, &["list"]).expect_success().stdout(),
            format!("{lease}\n"),
            "killed at {step}"
        );
        assert_eq!(
            machine.call(None, &command).expect_code(3).stdout(),
            "second\n",
            "killed at {step}"
        );
        machine.call(None, &["stop", &lease]).expect_success();
        machine.recovers(step);
    });
}

/// Killed while the command runs, at no step at all.
#[test]
fn a_run_killed_while_its_command_runs() {
    let machine = Machine::new();
    // A number of seconds that nobody else sleeps.
    let seconds = format!(
        "1{}",
        u32::from_str_radix(&crabbox_testkit::random_hex(3), 16).expect("hex digits")
    );
    let running = machine
        .environment
        .command(["run", "sleep", &seconds])
        .dir(machine.repository.root())
        .start();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while crabbox_testkit::processes::with_argument(&seconds).is_empty() {
        assert!(std::time::Instant::now() < deadline, "the command never started");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    running.signal(Signal::KILL);
    assert_eq!(running.wait().signal(), Some(9));
    machine.recovers(Step::CommandStarted);
}
