//! The file that config-writing commands change.

use std::fs::read_to_string;

use crate::world::World;
use crabbox_config::{BrokerChange, BrokerMode, ConfigFile, permissions_problem, remove_broker_token};
use crabbox_core::secret::Secret;

fn change() -> BrokerChange {
    BrokerChange {
        url: " https://me:hunter2@broker.test ".to_owned(),
        provider: Some("Hetzner".to_owned()),
        token: Some(Secret::from("s3cret: #1")),
        ..BrokerChange::default()
    }
}

#[test]
fn a_new_file_is_made_for_its_owner_only() {
    let world = World::new();
    let path = world.path("home/.config/crabbox/config.yaml");
    let written = change().write(&path).unwrap();
    assert_eq!(
        world.clean(&written.to_string()),
        "wrote [dir]/home/.config/crabbox/config.yaml broker=https://<redacted>@broker.test mode=managed auth=configured admin_auth=missing"
    );
    insta::assert_snapshot!(read_to_string(&path).unwrap(), @r#"
    broker:
      url: https://me:hunter2@broker.test
      provider: hetzner
      token: "s3cret: #1"
    provider: hetzner
    "#);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        assert_eq!(permissions_problem(&path), None);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(
            permissions_problem(&path).as_deref(),
            Some("permissions 0644 want 0600")
        );
    }
    let config = world.load().unwrap().config;
    assert_eq!(
        config.broker().unwrap().token.as_ref().map(Secret::expose),
        Some("s3cret: #1")
    );
    assert_eq!(config.provider.unwrap().name, "hetzner");
}

#[test]
fn everything_else_in_the_file_stays() {
    let world = World::new().user("# Keep me.\nfromTheFuture: [1, 2] # and me\nbroker: # here\n  url: https://old.test\n  mode: registered\nclass: fast\n");
    let path = world.path("home/.config/crabbox/config.yaml");
    let written = BrokerChange {
        provider: None,
        admin_token: Some(Secret::from("a")),
        auto_web_vnc: Some(false),
        login_redirect_origins: Some(vec!["https://x.test".to_owned()]),
        ..change()
    }
    .write(&path)
    .unwrap();
    assert_eq!(
        (written.mode, written.admin_auth),
        (BrokerMode::Registered, "configured")
    );
    insta::assert_snapshot!(read_to_string(&path).unwrap(), @r#"
    # Keep me.
    fromTheFuture: [1, 2] # and me
    broker: # here
      url: https://me:hunter2@broker.test
      mode: registered
      autoWebVNC: false
      loginRedirectOrigins: [https://x.test]
      token: "s3cret: #1"
      adminToken: a
    class: fast
    "#);
    remove_broker_token(&path).unwrap();
    let text = read_to_string(&path).unwrap();
    assert!(!text.contains("s3cret") && text.contains("adminToken: a") && text.contains("# Keep me."));
}

#[test]
fn logging_out_without_a_file_makes_none() {
    let world = World::new();
    let path = world.path("home/.config/crabbox/config.yaml");
    remove_broker_token(&path).unwrap();
    assert!(!path.exists());
    let world = world.user("coordinatorToken: t\nbroker:\n  token: u\n");
    remove_broker_token(&path).unwrap();
    assert_eq!(read_to_string(&path).unwrap(), "broker:\n");
    assert_eq!(world.load().unwrap().config.broker().unwrap().auth_state(), "missing");
}

#[test]
fn mistakes_leave_the_file_alone() {
    let world = World::new().user("broker: &b {url: https://old.test}\nx-copy: *b\n");
    let path = world.path("home/.config/crabbox/config.yaml");
    let before = read_to_string(&path).unwrap();
    let errors = [
        change().write(&path),
        BrokerChange {
            url: String::new(),
            ..change()
        }
        .write(&path),
        BrokerChange {
            url: "broker.test".to_owned(),
            ..change()
        }
        .write(&path),
        BrokerChange {
            provider: Some("e2b".to_owned()),
            ..change()
        }
        .write(&path),
    ];
    let report: Vec<String> = errors
        .iter()
        .map(|result| world.describe(result.as_ref().unwrap_err()))
        .collect();
    insta::assert_snapshot!(report.join("\n"), @"
    edit config [dir]/home/.config/crabbox/config.yaml: the file cannot be edited without changing more than this key: `broker.url`
      hint: change it by hand, or write it as plain `key: value` lines without anchors
    coordinator is not an http or https URL
      hint: give it with `--url https://host`
    coordinator is not an http or https URL
      hint: give it with `--url https://host`
    a coordinator cannot manage this provider: `e2b`
      hint: choose one of aws, azure, daytona, gcp, hetzner, or give `--mode registered`
    ");
    assert_eq!(read_to_string(&path).unwrap(), before);
    let names: Vec<_> = std::fs::read_dir(path.parent().unwrap())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names, ["config.yaml"]);
}

#[test]
fn a_change_by_somebody_else_is_not_lost() {
    let world = World::new().user("class: a\n");
    let path = world.path("home/.config/crabbox/config.yaml");
    let mut file = ConfigFile::open(&path).unwrap();
    file.set(&["class"], "b").unwrap();
    let world = world.user("class: c\n");
    assert!(
        world
            .describe(&file.save().unwrap_err())
            .starts_with("config changed meanwhile")
    );
    assert_eq!(read_to_string(&path).unwrap(), "class: c\n");
}

#[cfg(unix)]
#[test]
fn links_stay_links() {
    let world = World::new().file("dotfiles/real.yaml", "class: a\n");
    let path = world.path("home/config.yaml");
    std::os::unix::fs::symlink("../dotfiles/middle.yaml", &path).unwrap();
    std::os::unix::fs::symlink("real.yaml", world.path("dotfiles/middle.yaml")).unwrap();
    let mut file = ConfigFile::open(&path).unwrap();
    file.set(&["class"], "b").unwrap();
    file.save().unwrap();
    assert!(path.symlink_metadata().unwrap().is_symlink());
    assert_eq!(read_to_string(world.path("dotfiles/real.yaml")).unwrap(), "class: b\n");
    let circle = world.path("home/circle.yaml");
    std::os::unix::fs::symlink("circle.yaml", &circle).unwrap();
    assert!(ConfigFile::open(&circle).is_err());
}

#[test]
fn a_byte_order_mark_is_no_part_of_a_key() {
    let world = World::new().user("\u{feff}class: a\n");
    let path = world.path("home/.config/crabbox/config.yaml");
    let mut file = ConfigFile::open(&path).unwrap();
    file.set(&["class"], "b").unwrap();
    file.save().unwrap();
    assert_eq!(read_to_string(&path).unwrap(), "class: b\n");
}
