//! Every key, through every way that can set it.

use crabbox_core::section::Section as _;

use crate::world::{AcmeBox, World};
use crabbox_core::section::{KeySchema, Kind};
use crabbox_core::settings::Layer;

/// Path in a file, default, variables, flag: what users and other programs rely on.
const KEYS: &[(&str, &str, &[&str], &str)] = &[
    ("profile", "default", &["CRABBOX_PROFILE"], "profile"),
    ("provider", "", &["CRABBOX_PROVIDER"], "provider"),
    ("target", "linux", &["CRABBOX_TARGET", "CRABBOX_TARGET_OS"], "target"),
    ("architecture", "amd64", &["CRABBOX_ARCH"], "arch"),
    ("os", "ubuntu:26.04", &["CRABBOX_OS"], "os"),
    ("windows.mode", "normal", &["CRABBOX_WINDOWS_MODE"], "windows-mode"),
    ("class", "beast", &["CRABBOX_DEFAULT_CLASS"], "class"),
    ("serverType", "", &["CRABBOX_SERVER_TYPE"], "type"),
    ("hostId", "", &["CRABBOX_HOST_ID", "CRABBOX_AWS_MAC_HOST_ID"], ""),
    ("desktop", "", &["CRABBOX_DESKTOP"], "desktop"),
    ("browser", "", &["CRABBOX_BROWSER"], "browser"),
    ("code", "", &["CRABBOX_CODE"], "code"),
    ("desktopEnv", "xfce", &["CRABBOX_DESKTOP_ENV"], "desktop-env"),
    ("network", "auto", &["CRABBOX_NETWORK"], "network"),
    ("workRoot", "", &["CRABBOX_WORK_ROOT"], ""),
    ("lease.ttl", "90m", &["CRABBOX_TTL"], "ttl"),
    ("lease.idleTimeout", "30m", &["CRABBOX_IDLE_TIMEOUT"], "idle-timeout"),
    ("broker.url", "", &["CRABBOX_COORDINATOR"], ""),
    ("broker.mode", "managed", &["CRABBOX_COORDINATOR_MODE"], ""),
    ("broker.autoWebVNC", "true", &["CRABBOX_COORDINATOR_AUTO_WEBVNC"], ""),
    (
        "broker.loginRedirectOrigins",
        "",
        &["CRABBOX_BROKER_LOGIN_REDIRECT_ORIGINS"],
        "",
    ),
    ("broker.token", "", &["CRABBOX_COORDINATOR_TOKEN"], ""),
    (
        "broker.adminToken",
        "",
        &["CRABBOX_COORDINATOR_ADMIN_TOKEN", "CRABBOX_ADMIN_TOKEN"],
        "",
    ),
    ("broker.provider", "", &[], ""),
    (
        "broker.access.clientId",
        "",
        &["CRABBOX_ACCESS_CLIENT_ID", "CF_ACCESS_CLIENT_ID"],
        "",
    ),
    (
        "broker.access.clientSecret",
        "",
        &["CRABBOX_ACCESS_CLIENT_SECRET", "CF_ACCESS_CLIENT_SECRET"],
        "",
    ),
    (
        "broker.access.token",
        "",
        &["CRABBOX_ACCESS_TOKEN", "CF_ACCESS_TOKEN"],
        "",
    ),
    ("ssh.user", "crabbox", &["CRABBOX_SSH_USER"], ""),
    ("ssh.key", "~/.ssh/id_ed25519", &["CRABBOX_SSH_KEY"], ""),
    ("ssh.port", "2222", &["CRABBOX_SSH_PORT"], "ssh-port"),
    ("ssh.fallbackPorts", "22", &["CRABBOX_SSH_FALLBACK_PORTS"], ""),
    ("ssh.transport", "builtin", &["CRABBOX_SSH_TRANSPORT"], ""),
    ("sync.source", "auto", &["CRABBOX_SYNC_SOURCE"], ""),
    ("sync.exclude", "", &[], ""),
    ("sync.include", "", &[], ""),
    ("sync.delete", "true", &["CRABBOX_SYNC_DELETE"], ""),
    ("sync.checksum", "", &["CRABBOX_SYNC_CHECKSUM"], "checksum"),
    ("sync.gitSeed", "true", &["CRABBOX_SYNC_GIT_SEED"], ""),
    ("sync.fingerprint", "true", &["CRABBOX_SYNC_FINGERPRINT"], ""),
    ("sync.baseRef", "", &["CRABBOX_SYNC_BASE_REF"], ""),
    ("sync.timeout", "15m", &["CRABBOX_SYNC_TIMEOUT"], ""),
    ("sync.warnFiles", "50000", &["CRABBOX_SYNC_WARN_FILES"], ""),
    ("sync.warnBytes", "5GiB", &["CRABBOX_SYNC_WARN_BYTES"], ""),
    ("sync.failFiles", "150000", &["CRABBOX_SYNC_FAIL_FILES"], ""),
    ("sync.failBytes", "20GiB", &["CRABBOX_SYNC_FAIL_BYTES"], ""),
    ("sync.allowLarge", "", &["CRABBOX_SYNC_ALLOW_LARGE"], "force-sync-large"),
    (
        "run.preflightTools",
        "",
        &["CRABBOX_PREFLIGHT_TOOLS"],
        "preflight-tools",
    ),
    ("env.allow", "CI,NODE_OPTIONS", &["CRABBOX_ENV_ALLOW"], "allow-env"),
    ("results.junit", "", &["CRABBOX_RESULTS_JUNIT"], "junit"),
    ("results.auto", "", &["CRABBOX_RESULTS_AUTO"], "results-auto"),
    (
        "results.failOnFailures",
        "",
        &["CRABBOX_RESULTS_FAIL_ON_FAILURES"],
        "fail-on-test-failures",
    ),
    ("shard.maxCount", "0", &[], ""),
    ("capacity.market", "spot", &["CRABBOX_CAPACITY_MARKET"], "market"),
    (
        "capacity.strategy",
        "most-available",
        &["CRABBOX_CAPACITY_STRATEGY"],
        "",
    ),
    (
        "capacity.fallback",
        "on-demand-after-120s",
        &["CRABBOX_CAPACITY_FALLBACK"],
        "",
    ),
    ("capacity.regions", "", &["CRABBOX_CAPACITY_REGIONS"], ""),
    (
        "capacity.availabilityZones",
        "",
        &["CRABBOX_CAPACITY_AVAILABILITY_ZONES"],
        "",
    ),
    ("capacity.hints", "true", &["CRABBOX_CAPACITY_HINTS"], ""),
    ("actions.repo", "", &["CRABBOX_ACTIONS_REPO"], ""),
    ("actions.workflow", "", &["CRABBOX_ACTIONS_WORKFLOW"], ""),
    ("actions.job", "", &["CRABBOX_ACTIONS_JOB"], ""),
    ("actions.ref", "", &["CRABBOX_ACTIONS_REF"], ""),
    ("actions.fields", "", &[], ""),
    ("actions.runnerLabels", "", &["CRABBOX_ACTIONS_RUNNER_LABELS"], ""),
    (
        "actions.runnerVersion",
        "latest",
        &["CRABBOX_ACTIONS_RUNNER_VERSION"],
        "",
    ),
    ("actions.ephemeral", "true", &["CRABBOX_ACTIONS_EPHEMERAL"], ""),
    ("tailscale.enabled", "", &["CRABBOX_TAILSCALE"], "tailscale"),
    (
        "tailscale.tags",
        "tag:crabbox",
        &["CRABBOX_TAILSCALE_TAGS"],
        "tailscale-tags",
    ),
    (
        "tailscale.hostnameTemplate",
        "crabbox-{slug}",
        &["CRABBOX_TAILSCALE_HOSTNAME_TEMPLATE"],
        "tailscale-hostname-template",
    ),
    (
        "tailscale.authKeyEnv",
        "CRABBOX_TAILSCALE_AUTH_KEY",
        &["CRABBOX_TAILSCALE_AUTH_KEY_ENV"],
        "tailscale-auth-key-env",
    ),
    (
        "tailscale.exitNode",
        "",
        &["CRABBOX_TAILSCALE_EXIT_NODE"],
        "tailscale-exit-node",
    ),
    (
        "tailscale.exitNodeAllowLanAccess",
        "",
        &["CRABBOX_TAILSCALE_EXIT_NODE_ALLOW_LAN_ACCESS"],
        "tailscale-exit-node-allow-lan-access",
    ),
    ("static.id", "", &["CRABBOX_STATIC_ID"], ""),
    ("static.name", "", &["CRABBOX_STATIC_NAME"], ""),
    ("static.host", "", &["CRABBOX_STATIC_HOST"], "static-host"),
    ("static.user", "", &["CRABBOX_STATIC_USER"], "static-user"),
    ("static.port", "", &["CRABBOX_STATIC_PORT"], "static-port"),
    ("static.workRoot", "", &["CRABBOX_STATIC_WORK_ROOT"], "static-work-root"),
    ("cache.pnpm", "true", &["CRABBOX_CACHE_PNPM"], ""),
    ("cache.npm", "true", &["CRABBOX_CACHE_NPM"], ""),
    ("cache.docker", "true", &["CRABBOX_CACHE_DOCKER"], ""),
    ("cache.git", "true", &["CRABBOX_CACHE_GIT"], ""),
    ("cache.maxGB", "80", &["CRABBOX_CACHE_MAX_GB"], ""),
    ("cache.purgeOnRelease", "", &["CRABBOX_CACHE_PURGE_ON_RELEASE"], ""),
    ("cache.volumes", "[]", &["CRABBOX_CACHE_VOLUMES"], ""),
];

/// Every declared key of a section with one place, with its section.
fn declared() -> Vec<(String, &'static KeySchema)> {
    let loaded = World::new().load().unwrap();
    let single = loaded
        .config
        .sections()
        .filter(|(path, _)| path.first().is_none_or(|first| first != "acmeBox"));
    single
        .flat_map(|(path, values)| values.schema().keys.iter().map(move |key| (path.join("."), key)))
        .collect()
}

#[test]
fn the_declarations_are_those_that_users_rely_on() {
    let mut found: Vec<_> = declared()
        .iter()
        .filter(|(_, key)| !key.no_file)
        .map(|(section, key)| {
            (
                key.path(section),
                key.default.unwrap_or(""),
                key.environment,
                key.flag.unwrap_or(""),
            )
        })
        .collect();
    let mut expected: Vec<_> = KEYS
        .iter()
        .map(|(path, default, environment, flag)| (path.to_string(), *default, *environment, *flag))
        .collect();
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
}

/// A value of a key's kind that is not its default, as text, and as YAML.
fn sample(path: &str, key: &KeySchema) -> (String, String) {
    let same = |text: &str| (text.to_owned(), text.to_owned());
    match (path, key.kind) {
        ("broker.url", _) => same("https://broker.test"),
        ("broker.tokenCommand", _) => same("[\"print-token\"]"),
        ("ssh.port" | "static.port", _) => same("2022"),
        ("ssh.fallbackPorts", _) => ("2022,22".to_owned(), "[2022, 22]".to_owned()),
        ("tailscale.tags", _) => ("tag:a,tag:b".to_owned(), "[tag:a, tag:b]".to_owned()),
        ("cache.volumes", _) => ("n=k:/p".to_owned(), "[{name: n, key: k, path: /p}]".to_owned()),
        ("cache.requiredVolumes", _) => same("k:/p"),
        (_, Kind::Boolean) => same(if key.default == Some("true") { "false" } else { "true" }),
        (_, Kind::Integer) => same("7"),
        (_, Kind::Float) => same("0.25"),
        (_, Kind::Duration | Kind::DurationOrZero) => same("1h1m0s"),
        (_, Kind::Bytes) => same("12345"),
        (_, Kind::List) => ("one,two".to_owned(), "[one, two]".to_owned()),
        (_, Kind::Choice(choices)) => same(choices.last().unwrap().name),
        (_, Kind::Path) => same("/some/path"),
        (_, Kind::Text) => same("some-text"),
        (_, Kind::Origin | Kind::Map | Kind::Any) => panic!("no sample for {path}"),
    }
}

fn nest(path: &str, value: &str) -> String {
    let segments: Vec<&str> = path.split('.').collect();
    let depth = segments.len() - 1;
    let lines = segments
        .iter()
        .enumerate()
        .map(|(level, segment)| format!("{}{segment}:", "  ".repeat(level)));
    format!("{} {value}\n", lines.take(depth + 1).collect::<Vec<_>>().join("\n"))
}

/// Other keys that a value needs beside it.
fn companions(world: World, path: &str) -> World {
    match path {
        "windows.mode" => world.variable("CRABBOX_TARGET", "windows"),
        "broker.mode" => world.variable("CRABBOX_COORDINATOR", "https://broker.test"),
        _ => world,
    }
}

fn value(world: &World, path: &str) -> (String, Layer) {
    let loaded = world.load().unwrap_or_else(|error| panic!("{path}: {error}"));
    let config = loaded.config;
    let sourced = config
        .sections()
        .find_map(|(section, values)| {
            let section = section.join(".");
            let key = if section.is_empty() {
                path
            } else {
                path.strip_prefix(&section)?.strip_prefix('.')?
            };
            values.sourced(key)
        })
        .unwrap_or_else(|| panic!("nothing set {path}"));
    (sourced.value.to_text(), sourced.provenance.layer)
}

fn same(path: &str, found: &str, text: &str, yaml: &str) {
    let json = |text: &str| serde_json::from_str::<serde_json::Value>(text).ok();
    let from_yaml = serde_json::json!([{"name": "n", "key": "k", "path": "/p"}]);
    let good = found == text || found == yaml || found == format!("\"{text}\"") || json(found) == Some(from_yaml);
    assert!(good, "{path}: {found} is neither {text} nor {yaml}");
}

#[test]
fn every_key_is_read_from_files() {
    for (section, key) in declared().iter().filter(|(_, key)| !key.no_file) {
        let path = key.path(section);
        let (text, yaml) = sample(&path, key);
        let names =
            std::iter::once(path.clone()).chain(key.aliases.iter().map(|alias| match alias.strip_prefix('/') {
                Some(absolute) => absolute.to_owned(),
                None if section.is_empty() => (*alias).to_owned(),
                None => format!("{section}.{alias}"),
            }));
        for name in names {
            let world = companions(World::new(), &path).user(&nest(&name, &yaml));
            let (found, layer) = value(&world, &path);
            same(&name, &found, &text, &yaml);
            assert_eq!(layer, Layer::UserFile, "{name}");
            assert_eq!(world.warnings(), "", "{name}");
        }
    }
}

#[test]
fn every_key_is_read_from_its_variables_in_order() {
    for (section, key) in declared() {
        let path = key.path(&section);
        let (text, yaml) = sample(&path, key);
        for (index, name) in key.environment.iter().enumerate() {
            let world = companions(World::new(), &path).variable(name, &text);
            // A later name of the same key loses, an empty one does not count.
            let world = key
                .environment
                .iter()
                .skip(index + 1)
                .fold(world, |world, later| world.variable(later, "x"));
            let lists = matches!(key.kind, Kind::List | Kind::Any);
            let world = if lists {
                world
            } else {
                key.environment
                    .iter()
                    .take(index)
                    .fold(world, |world, earlier| world.variable(earlier, " "))
            };
            let (found, layer) = value(&world, &path);
            same(&path, &found, &text, &yaml);
            assert_eq!(layer, Layer::Environment, "{name}");
            assert_eq!(world.source(&path), format!("environment {name}"));
        }
    }
}

#[test]
fn every_key_with_a_flag_is_read_from_it() {
    for (section, key) in declared().iter().filter(|(_, key)| key.flag.is_some()) {
        let path = key.path(section);
        let (text, yaml) = sample(&path, key);
        let world = companions(World::new(), &path);
        let world = key
            .environment
            .iter()
            .filter(|name| **name != "CRABBOX_TARGET")
            .fold(world, |world, name| world.variable(name, &text));
        let world = world.flag(section, key.name, &[&text]);
        let (found, layer) = value(&world, &path);
        same(&path, &found, &text, &yaml);
        assert_eq!(layer, Layer::Flag, "{path}");
        assert_eq!(world.source(&path), format!("flag --{}", key.flag.unwrap()));
    }
}

#[test]
fn no_secret_has_a_flag() {
    for (section, key) in declared() {
        assert!(!key.secret || key.flag.is_none(), "{}", key.path(&section));
    }
}

#[test]
fn every_flag_is_offered_with_its_section() {
    let offered: Vec<String> = crabbox_config::flag_keys(&[AcmeBox::SCHEMA])
        .map(|(section, key)| format!("{} {}", key.path(section), key.flag.unwrap()))
        .collect();
    let mut expected: Vec<String> = KEYS
        .iter()
        .filter(|(.., flag)| !flag.is_empty())
        .map(|(path, .., flag)| format!("{path} {flag}"))
        .collect();
    expected.extend([
        "cache.requiredVolumes cache-volume".to_owned(),
        "acmeBox.region acme-box-region".to_owned(),
    ]);
    expected.sort();
    let mut sorted = offered.clone();
    sorted.sort();
    assert_eq!(sorted, expected);
}
