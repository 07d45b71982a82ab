//! A build without the embedded sandbox.

use crate::support::TestEnv;

fn repository() -> TestEnv {
    let env = TestEnv::new();
    env.git(["init", "--quiet"]);
    env
}

#[test]
fn nothing_serves_until_a_provider_is_chosen() {
    let env = repository();
    for args in [&["run", "--", "true"][..], &["warmup"], &["list"]] {
        let finished = env.run(args);
        assert_eq!(finished.code, 2, "{}", finished.shown());
        assert!(
            finished
                .stderr
                .contains("hint: choose one with --provider, CRABBOX_PROVIDER"),
            "{}",
            finished.stderr
        );
        assert!(
            finished.stderr.ends_with("no provider selected\n"),
            "{}",
            finished.stderr
        );
    }
    assert!(env.files().is_empty(), "{:?}", env.files());
}

#[test]
fn a_provider_that_was_left_out_names_the_cure() {
    let env = repository().set("CRABBOX_PROVIDER", "aws");
    let finished = env.run(["run", "--", "true"]);
    assert_eq!(finished.code, 2, "{}", finished.shown());
    assert!(
        finished.stderr.contains("hint: rebuild with `--features provider-aws`"),
        "{}",
        finished.stderr
    );
    assert!(
        finished.stderr.ends_with("provider not in this build: `aws`\n"),
        "{}",
        finished.stderr
    );
}

#[test]
fn what_needs_no_provider_works() {
    let env = repository();
    env.write("a.txt", "a\n");
    assert_eq!(env.run(["sync-plan"]).code, 0);
    assert_eq!(env.run(["providers"]).code, 0);
    assert_eq!(env.run(["history", "--json"]).stdout, "[]\n");
    assert_eq!(env.run(["claims", "list"]).code, 0);
    assert!(!env.state().join("claims").exists());
}
