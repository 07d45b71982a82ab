//! Every kind of bad input ends in one clear line with a cure and the right status, before anything was created.

use crate::support::{Finished, TestEnv};

/// Runs the binary, proves that it created nothing, and returns what it said.
#[track_caller]
fn refused(env: &TestEnv, args: &[&str], code: i32) -> String {
    let before = env.files();
    let finished = env.run(args);
    assert_eq!(env.files(), before, "{args:?} created something\n{}", finished.shown());
    clear(args, &finished, code)
}

/// Proves that the last line is clear and has a cure before it.
#[track_caller]
fn clear(args: &[&str], finished: &Finished, code: i32) -> String {
    assert_eq!(finished.code, code, "{args:?}\n{}", finished.shown());
    assert_eq!(finished.stdout, "", "{args:?}");
    let lines: Vec<&str> = finished.stderr.lines().collect();
    let [.., hint, message] = lines.as_slice() else {
        panic!("{args:?} has no cure: {lines:?}")
    };
    assert!(hint.starts_with("hint: "), "{args:?}: {hint}");
    assert!(
        !message.starts_with("hint: ") && !message.ends_with('.'),
        "{args:?}: {message}"
    );
    finished.shown()
}

fn repository() -> TestEnv {
    let env = TestEnv::new();
    env.git(["init", "--quiet"]);
    env.write("a.txt", "a\n");
    env
}

#[test]
fn arguments() {
    let env = repository();
    let mut shown = String::new();
    for args in [
        &["run", "--timig-json", "--", "true"][..],
        &["run", "--slug"],
        &["run"],
        &["run", "--"],
        &["run", ""],
        &["run", "--shell", "--", " "],
        &["run", "--stop-after", "sometimes", "--", "true"],
        &["run", "--keep=maybe", "--", "true"],
        &["run", "--ttl", "soon", "--", "true"],
        &["run", "--ttl", "0", "--", "true"],
        &["run", "--slug", "a", "--id", "b", "--", "true"],
        &["run", "--slug", "!!!", "--", "true"],
        &["run", "--full-resync", "--no-sync", "--", "true"],
        &["run", "--sync-only", "--no-sync"],
        &["run", "--script", "a.txt", "--script-stdin"],
        &["run", "--download", "nowhere", "--", "true"],
        &["run", "--preset-var", "x", "--preset", "p", "--", "true"],
        &["run", "--preset", "nope"],
        &["run", "--target", "solaris", "--", "true"],
        &["run", "--target", "windows", "--", "true"],
        &["rnu"],
        &["--nope"],
        &["version", "extra"],
        &["checkpoint", "frok"],
        &["checkpoint", "fork"],
        &["checkpoint", "fork", "chk_../../etc"],
        &["checkpoint", "prune"],
        &["checkpoint", "prune", "--older-than", "7w"],
        &["stop"],
        &["stop", "a", "--id", "b"],
        &["stop", "a", "b"],
        &["status", "--wait-timeout", "5", "a"],
        &["logs"],
        &["logs", "xyz"],
        &["events", "run_0123456789ab", "--limit", "0"],
        &["cp", "--id", "a", "b", "c"],
        &["cp", "a", "SANDBOX:b"],
        &["sync-plan", "--limit", "none"],
        &["history", "--limit", "-1"],
        &["checkpoint", "fork", "chk_0123456789abcdef", "--count", "0"],
        &["completion", "csh"],
        &["config", "set-broker"],
        &["config", "set-broker", "--url", "broker"],
        &["history", "--error-format", "xml"],
        &["job", "run", "nope"],
    ] {
        shown.push_str(&format!("$ crabbox {}\n{}\n", args.join(" "), refused(&env, args, 2)));
    }
    insta::assert_snapshot!(shown);
}

#[test]
fn files_and_directories() {
    let mut shown = String::new();
    let mut case = |name: &str, env: &TestEnv, args: &[&str], code: i32| {
        shown.push_str(&format!(
            "# {name}\n$ crabbox {}\n{}\n",
            args.join(" "),
            refused(env, args, code)
        ));
    };
    let env = repository();
    case("missing script", &env, &["run", "--script", "nope.sh"], 2);
    case(
        "missing environment file",
        &env,
        &["run", "--env-from-profile", "nope.env", "--", "true"],
        2,
    );
    case(
        "capture below a file",
        &env,
        &["run", "--capture-stdout", "a.txt/out", "--", "true"],
        2,
    );
    case(
        "two outputs in one file",
        &env,
        &["run", "--capture-stdout", "o", "--capture-stderr", "./o", "--", "true"],
        2,
    );
    let env = TestEnv::new();
    env.write("a.txt", "a\n");
    case("not a repository", &env, &["run", "--", "true"], 6);
    case("not a repository", &env, &["sync-plan"], 6);
    let env = repository().set("XDG_STATE_HOME", "/dev/null/state");
    case("state below a file", &env, &["run", "--", "true"], 2);
    let env = repository().set("XDG_STATE_HOME", "state");
    case("relative state", &env, &["run", "--", "true"], 2);
    insta::assert_snapshot!(shown);
}

#[test]
fn config() {
    let mut shown = String::new();
    for (name, text) in [
        ("bad duration", "ttl: soon\n"),
        ("wrong type", "sync:\n  delete: perhaps\n"),
        ("duplicate key", "profile: a\nprofile: b\n"),
        ("not YAML", "profile: [a\n"),
        ("not a mapping", "- a\n- b\n"),
        ("unknown value", "target: solaris\n"),
        ("unknown provider", "provider: nowhere\n"),
    ] {
        let env = repository();
        env.write(".crabbox.yaml", text);
        shown.push_str(&format!("# {name}\n{}\n", refused(&env, &["run", "--", "true"], 2)));
    }
    let env = repository();
    env.write(".crabbox.yaml", "sync:\n  exlude: [a]\n");
    shown.push_str(&format!("# unknown key\n{}\n", refused(&env, &["config", "check"], 2)));
    let env = repository().set("CRABBOX_TTL", "soon");
    shown.push_str(&format!(
        "# bad variable\n{}\n",
        refused(&env, &["run", "--", "true"], 2)
    ));
    insta::assert_snapshot!(shown);
}

#[test]
fn providers() {
    let env = repository();
    let mut shown = String::new();
    for args in [
        &["run", "--provider", "lcoal", "--", "true"][..],
        &["run", "--provider", "nowhere", "--", "true"],
        &["run", "--provider", "aws", "--", "true"],
        &["warmup", "--provider", "hetzner"],
        &["providers", "describe", "aws"],
        &["config", "show", "--provider", "aws"],
    ] {
        shown.push_str(&format!("$ crabbox {}\n{}\n", args.join(" "), refused(&env, args, 2)));
    }
    insta::assert_snapshot!(shown);
}

#[test]
fn names_that_nothing_answers_to() {
    let env = repository();
    let mut shown = String::new();
    for args in [
        &["status", "amber-crab"][..],
        &["inspect", "amber-crab"],
        &["stop", "amber-crab"],
        &["pause", "amber-crab"],
        &["heartbeat", "amber-crab"],
        &["cp", "--id", "amber-crab", "a.txt", "SANDBOX:a.txt"],
        &["logs", "run_0123456789ab"],
        &["events", "run_0123456789ab"],
        &["results", "run_0123456789ab"],
        &["checkpoint", "inspect", "chk_0123456789abcdef"],
        &["checkpoint", "fork", "chk_0123456789abcdef"],
        &["checkpoint", "delete", "chk_0123456789abcdef"],
    ] {
        shown.push_str(&format!("$ crabbox {}\n{}\n", args.join(" "), refused(&env, args, 4)));
    }
    // A run that is refused this late is in the history; nothing else is.
    for args in [
        &["run", "--id", "amber-crab", "--", "true"][..],
        &["run", "--id", "cbx_0123456789ab", "--", "true"],
    ] {
        let finished = env.run(args);
        let said = clear(args, &finished, 4);
        let last: Vec<&str> = said.lines().rev().take(2).collect();
        shown.push_str(&format!("$ crabbox {}\n{}\n{}\n\n", args.join(" "), last[1], last[0]));
    }
    let state = "home/.config/crabbox/state";
    let others: Vec<_> = env
        .files()
        .into_iter()
        .filter(|file| file.starts_with(state) && file != state)
        .collect();
    assert!(others.iter().all(|file| file.contains("/runs")), "{others:?}");
    insta::assert_snapshot!(shown);
}
