//! What `config show`, the reference page and `init` print.

use crate::world::{AcmeBox, World};
use crabbox_config::{ShowContext, Template, reference};
use crabbox_core::section::Section as _;

fn world() -> World {
    World::new()
        .user("provider: acme-box\ncoordinator: https://me:hunter2@broker.test/x?y=hunter2\nbroker: {token: hunter2, access: {clientId: hunter2}}\nacmeBox: {token: hunter2, image: 24.04}\nssh: {fallbackPorts: []}\n")
        .repository("sync: {timeout: 90s, exclude: [dist]}\njobs: {b: {command: make}, a: {command: x}}\nprofiles: {default: {env: {A: b}}}\nworkRoot: \"a\\nb\"\n")
        .variable("CRABBOX_TTL", "2h")
        .flag("env", "allow", &["RUST_LOG"])
}

fn context() -> ShowContext {
    ShowContext {
        file: "/home/me/.config/crabbox/config.yaml".into(),
        excludes: vec!["dist".into(), ".git".into()],
        ..ShowContext::default()
    }
}

#[test]
fn text_has_the_promised_lines() {
    let world = world();
    let text = world.clean(&world.load().unwrap().config.show_text(&context()));
    assert!(!text.contains("hunter2"));
    insta::assert_snapshot!(text);
}

#[test]
fn json_has_the_promised_keys() {
    let world = world();
    let json = world.load().unwrap().config.show_json(&context());
    let text = world.clean(&serde_json::to_string_pretty(&json).unwrap());
    assert!(!text.contains("hunter2"));
    insta::assert_snapshot!(text);
}

#[test]
fn nothing_selected_is_an_empty_provider() {
    let json = World::new().load().unwrap().config.show_json(&ShowContext::default());
    assert_eq!(
        (&json["provider"], &json["providerSelected"], &json["providerSource"]),
        (&"".into(), &false.into(), &"compiled_default".into())
    );
    assert_eq!(
        (&json["brokerAuth"], &json["sources"]),
        (&"missing".into(), &serde_json::json!({}))
    );
}

#[test]
fn the_reference_page_names_every_key() {
    let page = reference(&[AcmeBox::SCHEMA]);
    insta::assert_snapshot!(page);
}

#[test]
fn init_writes_a_file_that_means_what_it_says() {
    let template = Template {
        repository: "crab pot".to_owned(),
        workflow: Some(".github/workflows/crabbox.yml".to_owned()),
        excludes: vec!["target".to_owned(), "dist".to_owned()],
        preflight_tools: vec!["cargo".to_owned()],
        command: Some("cargo test && echo \"done: #1\"".to_owned()),
    };
    let text = template.render();
    insta::assert_snapshot!(text);
    let world = World::new().repository(&text);
    assert_eq!(world.warnings(), "");
    let config = world.load().unwrap().config;
    assert_eq!(config.selection.profile, "crab pot-check");
    assert_eq!(
        config.sync.exclude,
        [".cache", ".turbo", "dist", "node_modules", "target"]
    );
    assert_eq!(
        config.job("detected").unwrap().command.as_deref(),
        Some("cargo test && echo \"done: #1\"")
    );
    assert_eq!(
        World::new()
            .repository(
                &Template {
                    repository: "x".to_owned(),
                    ..Template::default()
                }
                .render()
            )
            .warnings(),
        ""
    );
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config { cases: 64, failure_persistence: None, ..Default::default() })]
    /// What the report says, read back as a file, means the same.
    #[test]
    fn config_survives_being_shown(
        class in "[ -~]{1,12}",
        image in "\\PC{1,12}",
        excludes in proptest::collection::vec("[!-~]{1,8}", 0..4),
        seconds in 1_u64..1_000_000,
        port in 1_u16..,
        delete in proptest::bool::ANY,
        bytes in 1_u64..u64::from(u32::MAX),
        job in "[a-z.-]{1,8}",
        values in proptest::collection::btree_map("[A-Z][A-Z_]{0,6}", "[ -~]{0,8}", 0..4),
    ) {
        let file = serde_json::json!({
            "class": class, "acmeBox": {"image": image, "metadata": values}, "sync": {"exclude": excludes, "delete": delete, "warnBytes": bytes},
            "ttl": format!("{seconds}s"), "ssh": {"port": port}, "jobs": {job: {"command": image}}, "profiles": {"p": {"env": values}},
        });
        let first = World::new().user(&file.to_string()).load().unwrap().config.to_json();
        let second = World::new().user(&first.to_string()).load().unwrap();
        proptest::prop_assert_eq!(&second.warnings, &[]);
        let second = second.config.to_json();
        proptest::prop_assert_eq!(first, second);
    }
}
