//! `crabbox init`: what it writes is read back without a warning.

use std::fs;

use crate::support::TestEnv;

#[test]
fn the_file_is_accepted_by_config_check() {
    let env = TestEnv::new();
    env.git(["init", "--quiet"]);
    let finished = env.run(["init"]);
    assert_eq!(
        (finished.code, finished.stdout.as_str()),
        (0, "wrote [ROOT]/work/.crabbox.yaml\n")
    );
    let check = env.run(["config", "check"]);
    assert_eq!((check.code, check.stderr.as_str()), (0, ""), "{}", check.stdout);
    insta::assert_snapshot!(
        "init-template",
        fs::read_to_string(env.work().join(".crabbox.yaml")).unwrap()
    );
}

#[test]
fn detected_jobs_are_jobs() {
    let env = TestEnv::new();
    env.write("Cargo.toml", "[package]\nname = \"a\"\n");
    env.write("web/package.json", r#"{"scripts":{"test":"node --test"}}"#);
    env.git(["init", "--quiet"]);
    let finished = env.run(["init", "--detect"]);
    assert_eq!(finished.code, 0, "{}", finished.stderr);
    let check = env.run(["config", "check"]);
    assert_eq!((check.code, check.stderr.as_str()), (0, ""));
    insta::assert_snapshot!(env.run(["job", "list"]).shown(), @r"
    exit: 0
    --- stdout
    cargo provider=- target=- hydrate_actions=false stop=auto
    detected provider=- target=- hydrate_actions=false stop=auto
    npm provider=- target=- hydrate_actions=false stop=auto
    ");
    insta::assert_snapshot!(env.run(["job", "run", "detected", "--dry-run"]).shown(), @r"
    exit: 0
    --- stdout
    # job detected
    crabbox warmup --keep=true
    crabbox run --id <lease> --shell -- 'cargo test && (cd web && npm install && npm run test)'
    crabbox stop <lease>
    ");
}

#[test]
fn an_existing_file_is_kept_unless_forced() {
    let env = TestEnv::new();
    env.write(".crabbox.yaml", "profile: mine\n");
    let finished = env.run(["init"]);
    insta::assert_snapshot!(finished.shown(), @r"
    exit: 2
    --- stderr
    hint: use --force to replace it, or --config to write another file
    file exists already: `[ROOT]/work/.crabbox.yaml`
    ");
    assert_eq!(
        fs::read_to_string(env.work().join(".crabbox.yaml")).unwrap(),
        "profile: mine\n"
    );
    assert_eq!(env.run(["init", "--force"]).code, 0);
    assert!(
        fs::read_to_string(env.work().join(".crabbox.yaml"))
            .unwrap()
            .contains("work-check")
    );
}

#[test]
fn the_file_stays_in_the_repository() {
    let env = TestEnv::new();
    for path in ["../elsewhere.yaml", "/tmp/elsewhere.yaml", "."] {
        let finished = env.run(["init", "--config", path]);
        assert_eq!(finished.code, 2, "{path}: {}", finished.stdout);
    }
}
