//! Every sort of bad input: one line, the place, and a cure.

use crate::world::World;
use insta::assert_snapshot;

#[test]
fn bad_files() {
    let cases = [
        ("acmeBox: {cpus: 70000}\n", "a number out of its type's range"),
        ("sync:\n  timeout: soon\n", "a bad duration"),
        ("ttl: 0s\n", "a zero duration"),
        ("ttl: 90\n", "a duration without unit"),
        ("sync: {timeout: [1m]}\n", "a list for a duration"),
        ("\n\nssh:\n  port: many\n", "text for a number"),
        ("ssh: {port: 70000}\n", "a number out of range"),
        ("sync: {warnFiles: \"many\"}\n", "quoted text for a number"),
        ("ssh: {fallbackPorts: [22, http]}\n", "a word for a port"),
        ("sync: {delete: maybe}\n", "neither true nor false"),
        ("sync: {delete: \"true\"}\n", "a quoted boolean"),
        ("sync: {warnBytes: much}\n", "bad bytes"),
        ("sync: {exclude: {a: b}}\n", "a mapping for a list"),
        ("sync: {exclude: [[a]]}\n", "a list in a list"),
        ("sync: yes\n", "a scalar for a section"),
        ("sync: [exclude]\n", "a list for a section"),
        ("profiles: {ci: {env: [A]}}\n", "a list for a profile's environment"),
        ("profiles: {ci: {env: {A: [b]}}}\n", "a list for a variable"),
        (
            "profiles: {ci: {require: {isolation: docker}}}\n",
            "an unknown isolation",
        ),
        ("jobs: {build: {stop: sometimes}}\n", "an unknown stop policy"),
        ("jobs: {build: {ttl: x}}\n", "a bad duration of a job"),
        ("target: beos\n", "an unknown target"),
        ("os: debian\n", "an unknown image"),
        ("windows: {mode: wsl}\n", "a windows mode without windows"),
        ("target: macos\ndesktopEnv: gnome\n", "a desktop without linux"),
        ("broker: {mode: registered}\n", "registered without a coordinator"),
        (
            "broker: {url: 'ftp://user:hunter2@h'}\n",
            "a coordinator that is no web address",
        ),
        ("cache: {volumes: [{key: k, path: relative}]}\n", "a relative volume"),
        (
            "cache: {volumes: [{key: k, path: /p, sise: 1}]}\n",
            "an unknown key of a volume",
        ),
        ("tailscale: {tags: [crab]}\n", "a bad tag"),
        ("acmeBox: {apiUrl: 'http://user:hunter2@h'}\n", "an unsafe address"),
        ("acmeBox: {token: [hunter2]}\n", "a list for a secret"),
        ("acmeBox: {share: half}\n", "a bad number"),
        ("class: a\nclass: b\n", "a duplicate key"),
        ("class: [a\n", "bad YAML"),
        ("sync:\n\ttimeout: 1m\n", "a tab"),
        ("- class\n", "a list at the top"),
        ("just text\n", "text at the top"),
    ];
    let mut report = String::new();
    for (text, what) in cases {
        let world = World::new().user(text);
        let error = world.error();
        assert!(!error.contains("hunter2"), "{error}");
        report += &format!("# {what}\n{error}\n");
    }
    assert_snapshot!(report);
}

#[test]
fn bad_variables_and_flags() {
    let mut report = String::new();
    for (name, value) in [
        ("CRABBOX_TTL", "soon"),
        ("CRABBOX_SSH_PORT", "x"),
        ("CRABBOX_SSH_PORT", "0x16"),
        ("CRABBOX_SYNC_DELETE", "maybe"),
        ("CRABBOX_TARGET", "beos"),
        ("CRABBOX_WINDOWS_MODE", "wsl2"),
        ("CRABBOX_COORDINATOR_TOKEN_COMMAND", "hunter2"),
        ("CRABBOX_COORDINATOR_TOKEN_COMMAND", "[\"hunter2\\n\"]"),
        ("CRABBOX_ACME_BOX_API_URL", "http://u:hunter2@h"),
        ("CRABBOX_CACHE_VOLUMES", "nothing"),
    ] {
        let error = World::new().variable(name, value).error();
        assert!(!error.contains("hunter2"), "{error}");
        report += &format!("{error}\n");
    }
    for (section, key, value) in [
        ("", "lease.ttl", "-5m"),
        ("", "class", ""),
        ("ssh", "port", "99999"),
        ("cache", "requiredVolumes", "x"),
    ] {
        let world = World::new().flag(section, key, &[value]);
        report += &match world.load() {
            Ok(_) => format!("{key}={value}: accepted\n"),
            Err(error) => format!("{}\n", world.describe(&error)),
        };
    }
    assert_snapshot!(report);
}

#[test]
fn unreadable_files() {
    let world = World::new();
    std::fs::create_dir_all(world.path("home/.config/crabbox/config.yaml")).unwrap();
    assert_snapshot!(world.error(), @"
    read config [dir]/home/.config/crabbox/config.yaml: Is a directory (os error 21)
      hint: make it a UTF-8 text file that you can read, or remove it
    ");
    let large = World::new().user(&format!("# {}\n", "x".repeat(1024 * 1024)));
    assert!(large.error().contains("larger than 1048576 bytes"));
    let world = World::new().user("");
    std::io::Write::write_all(
        &mut std::fs::File::create(world.path("home/.config/crabbox/config.yaml")).unwrap(),
        b"a: \xff\n",
    )
    .unwrap();
    assert_snapshot!(world.error(), @"
    read config [dir]/home/.config/crabbox/config.yaml: stream did not contain valid UTF-8
      hint: make it a UTF-8 text file that you can read, or remove it
    ");
}

#[test]
fn unknown_keys_are_warnings_that_fail_the_check() {
    let world = World::new().user(
        "sync:\n  timout: 1m\n  exlude: [a]\nClass: fast\nprofils: {}\nprofiles:\n  ci:\n    enviroment: {A: b}\n    require: {isolate: vm}\njobs: {b: {comand: x}}\nacmebox: {regon: x}\nacmeBox: {regon: x}\negress: {allow: []}\nhetzner: {anything: 1}\nazur: {location: x}\nx-anchors: {a: 1}\n---\nmore: 1\n",
    );
    assert_snapshot!(world.warnings());
    let loaded = world.load().unwrap();
    let error = loaded.check().unwrap_err();
    assert_eq!(error.kind().exit_code(), 2);
    assert!(error.hint().unwrap().ends_with("(and 11 more)"), "{:?}", error.hint());
}
