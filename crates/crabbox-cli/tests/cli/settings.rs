//! Commands that show and change settings, and what else looks at this machine only.

use std::fs;

use crate::support::TestEnv;

fn repository() -> TestEnv {
    let env = TestEnv::new();
    env.git(["init", "--quiet"]);
    env
}

fn json(text: &str) -> serde_json::Value {
    assert_eq!(text.lines().count(), 1, "JSON is one line: {text}");
    serde_json::from_str(text).unwrap()
}

#[test]
fn the_path_is_the_users_own_file() {
    let env = TestEnv::new().set("CRABBOX_CONFIG", "/elsewhere.yaml");
    let finished = env.run(["config", "path"]);
    assert_eq!(
        (finished.code, finished.stdout.as_str()),
        (0, "[ROOT]/home/.config/crabbox/config.yaml\n")
    );
}

#[test]
fn show_merges_files_variables_and_flags() {
    let env = repository().set("CRABBOX_TTL", "2h");
    env.write(
        ".crabbox.yaml",
        "class: standard\nttl: 1h\nprofile: ci\nsync:\n  exclude: [scratch]\n",
    );
    let shown = json(&env.run(["config", "show", "--json"]).stdout);
    assert_eq!(
        (shown["class"].as_str(), shown["profile"].as_str()),
        (Some("standard"), Some("ci")),
        "{shown}"
    );
    assert_eq!(
        (shown["ttl"].as_str(), shown["providerSelected"].as_bool()),
        (Some("2h0m0s"), Some(false))
    );
    let excludes = shown["sync"]["exclude"].as_array().unwrap();
    for pattern in ["node_modules", "scratch", ".git"] {
        assert!(
            excludes.iter().any(|known| known == pattern),
            "{pattern} is missing: {excludes:?}"
        );
    }
    let text = env.run(["config", "show"]).stdout;
    assert!(
        text.starts_with("config=[ROOT]/home/.config/crabbox/config.yaml\nprovider=- "),
        "{text}"
    );
}

#[test]
fn a_warning_names_the_place_and_the_cure() {
    let env = repository();
    env.write(".crabbox.yaml", "profil: ci\n");
    let finished = env.run(["config", "show", "--json"]);
    assert_eq!(finished.code, 0);
    assert_eq!(
        finished.stderr,
        "warning: [ROOT]/work/.crabbox.yaml:1: unknown key: `profil` (did you mean `profile`?)\n"
    );
}

#[test]
fn the_broker_is_written_without_touching_the_rest() {
    let env = TestEnv::new();
    let file = env.home().join(".config/crabbox/config.yaml");
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::File::create(&file).unwrap();
    let args = [
        "config",
        "set-broker",
        "--url",
        "https://broker.test",
        "--token-stdin",
        "--admin-token-stdin",
    ];
    let finished = env.run_with(args, "first-token\nsecond-token\n");
    assert_eq!(finished.code, 0, "{}", finished.shown());
    assert_eq!(
        finished.stdout,
        "wrote [ROOT]/home/.config/crabbox/config.yaml broker=https://broker.test mode=managed auth=configured \
         admin_auth=configured\n"
    );
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains("first-token") && text.contains("second-token"), "{text}");
    let shown = env.run(["config", "show", "--json"]).stdout;
    assert!(!shown.contains("-token"), "{shown}");
    let empty = env.run_with(
        ["config", "set-broker", "--url", "https://broker.test", "--token-stdin"],
        "\n",
    );
    assert_eq!((empty.code, empty.stdout.as_str()), (2, ""), "{}", empty.shown());
}

#[test]
fn a_broker_for_a_provider_that_does_not_exist_is_refused() {
    let env = TestEnv::new();
    let set = |more: &[&str]| {
        let args = ["config", "set-broker", "--url", "https://broker.test"];
        env.run(args.iter().chain(more))
    };
    let unknown = set(&["--mode", "registered", "--provider", "nope"]);
    assert_eq!(unknown.code, 2, "{}", unknown.shown());
    assert!(
        unknown.stderr.ends_with("unknown provider: `nope`\n"),
        "{}",
        unknown.stderr
    );
    let mode = set(&["--mode", "nope"]);
    assert!(
        mode.stderr.ends_with("bad value for --mode: `nope`\n"),
        "{}",
        mode.stderr
    );
    assert!(!env.home().join(".config").exists());
    for provider in ["local", "e2b"] {
        let known = set(&["--mode", "registered", "--provider", provider]);
        assert_eq!(known.code, 0, "{}", known.shown());
    }
}

#[cfg(unix)]
#[test]
fn doctor_finds_a_config_file_that_is_open_to_others() {
    use std::os::unix::fs::PermissionsExt as _;
    let env = repository();
    let written = env.run(["config", "set-broker", "--url", "https://broker.test"]);
    assert_eq!(written.code, 0, "{}", written.shown());
    let status = || json(&env.run(["doctor", "--json"]).stdout)["checks"][0]["status"].clone();
    assert_eq!(status(), "ok");
    let file = env.home().join(".config/crabbox/config.yaml");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    assert_eq!(status(), "failed");
    assert_eq!(env.run(["doctor"]).code, 1);
}

#[test]
fn the_plan_of_a_checkout() {
    let env = repository();
    env.write("a.txt", "12345");
    env.write("deep/er/b.txt", "123");
    env.write("node_modules/c.txt", "1");
    let plan = json(&env.run(["sync-plan", "--json", "--limit", "1"]).stdout);
    assert_eq!(plan["candidate"]["files"], 2, "{plan}");
    assert_eq!(plan["topFiles"][0]["path"], "a.txt");
    assert_eq!(plan["topFiles"].as_array().unwrap().len(), 1);
    insta::assert_snapshot!(env.run(["sync-plan"]).shown());
}

#[test]
fn empty_lists_are_lists() {
    let env = repository();
    for args in [&["history", "--json"][..], &["checkpoint", "list", "--json"]] {
        assert_eq!(env.run(args).stdout, "[]\n", "{args:?}");
    }
    assert_eq!(
        json(&env.run(["claims", "list", "--json"]).stdout)["claims"],
        serde_json::json!([])
    );
    assert_eq!(env.run(["checkpoint", "list"]).stdout, "no checkpoints\n");
    assert_eq!(env.run(["job", "list"]).stdout, "no jobs configured\n");
}

#[test]
fn a_damaged_claim_is_reported_with_status_2() {
    let env = TestEnv::new();
    let claims = env.state().join("claims");
    fs::create_dir_all(&claims).unwrap();
    fs::File::create(claims.join("cbx_0123456789ab.json")).unwrap();
    let finished = env.run(["claims", "list", "--json"]);
    assert_eq!((finished.code, finished.stderr.as_str()), (2, ""));
    assert_eq!(
        json(&finished.stdout)["problems"][0]["code"],
        "invalid_json",
        "{}",
        finished.stdout
    );
}

#[cfg(feature = "provider-local")]
#[test]
fn providers_describe_themselves() {
    let env = TestEnv::new();
    let list = json(&env.run(["providers", "--json"]).stdout);
    let local = list
        .as_array()
        .unwrap()
        .iter()
        .find(|entry| entry["provider"] == "local")
        .unwrap();
    assert_eq!(
        (local["kind"].as_str(), local["family"].as_str()),
        (Some("delegated-run"), Some("local"))
    );
    let described = json(&env.run(["providers", "describe", "local-sandbox", "-json"]).stdout);
    assert_eq!(described["provider"]["canonical"], "local", "{described}");
    assert_eq!(described["provider"]["inputAlias"], true);
    assert!(
        described["providerFlags"]
            .as_array()
            .unwrap()
            .iter()
            .any(|flag| flag["name"] == "local-network")
    );
}

#[cfg(feature = "provider-local")]
#[test]
fn doctor_is_json_even_when_it_fails() {
    let env = repository();
    let report = json(&env.run(["doctor", "--json"]).stdout);
    assert_eq!(report["provider"], "local", "{report}");
    assert!(
        report["checks"]
            .as_array()
            .unwrap()
            .iter()
            .all(|check| check["status"].is_string()),
        "{report}"
    );
    let failed = env.run(["doctor", "--json", "--provider", "aws"]);
    assert_eq!(failed.code, 1, "{}", failed.shown());
    assert_eq!(json(&failed.stdout)["ok"], false);
    assert!(failed.stderr.ends_with("doctor found problems\n"), "{}", failed.stderr);
    assert!(env.run(["doctor"]).stdout.starts_with("ok      "));
}
