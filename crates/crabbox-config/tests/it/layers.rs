//! Which layer wins, how lists and mappings meet, and what a repository may not do.

use std::time::Duration;

use crate::world::{AcmeBox, World};
use crabbox_config::{DesktopEnvironment, Port, Ports, ProviderSource, StopPolicy, SyncSource};
use crabbox_core::section::Section as _;
use crabbox_core::spec::{Egress, IsolationLevel, OperatingSystem, TtlEnforcement};

#[test]
fn later_layers_win_and_say_where_they_are() {
    let world = World::new();
    assert_eq!(world.source("sync.timeout"), "default ");
    let world = world.user("# mine\nsync:\n  timeout: 1m\n");
    assert_eq!(
        world.source("sync.timeout"),
        "user_file [dir]/home/.config/crabbox/config.yaml:3"
    );
    let world = world.file("repo/crabbox.yaml", "sync: {timeout: 2m}\n");
    assert_eq!(
        world.source("sync.timeout"),
        "repository_file [dir]/repo/crabbox.yaml:1"
    );
    let world = world.repository("\nsync: {timeout: 3m}\n");
    assert_eq!(
        world.source("sync.timeout"),
        "repository_file [dir]/repo/.crabbox.yaml:2"
    );
    let world = world.below("a/b").file("repo/a/crabbox.yaml", "sync: {timeout: 4m}\n");
    assert_eq!(
        world.source("sync.timeout"),
        "repository_file [dir]/repo/a/crabbox.yaml:1"
    );
    let world = world.variable("CRABBOX_SYNC_TIMEOUT", "5m");
    assert_eq!(world.source("sync.timeout"), "environment CRABBOX_SYNC_TIMEOUT");
    assert_eq!(world.load().unwrap().config.sync.timeout, Duration::from_secs(300));
    let found: Vec<bool> = world.load().unwrap().files.iter().map(|file| file.found).collect();
    assert_eq!(found, [true, true, true, true, false, false, false]);
}

#[test]
fn an_explicit_file_replaces_all_others() {
    let world = World::new()
        .user("class: user\n")
        .repository("class: repo\n")
        .file("c.yaml", "profile: ci\n");
    let path = world.path("c.yaml");
    let world = world.variable("CRABBOX_CONFIG", path.to_str().unwrap());
    let config = world.load().unwrap().config;
    assert_eq!(
        (config.selection.class.as_str(), config.selection.profile.as_str()),
        ("beast", "ci")
    );
    assert_eq!(world.source("profile"), "user_file [dir]/c.yaml:1");
    let inside = World::new()
        .repository("class: repo\n")
        .variable("CRABBOX_CONFIG", ".crabbox.yaml");
    assert_eq!(inside.source("class"), "repository_file [dir]/repo/.crabbox.yaml:1");
}

#[test]
fn nothing_does_not_clear_a_lower_layer_unless_presence_counts() {
    let user = "class: fast\nsync: {warnFiles: 9, delete: true}\nresults: {junit: [a.xml]}\nssh: {fallbackPorts: [2022]}\nshard: {maxCount: 3}\ncache: {maxGB: 5, volumes: [{key: k, path: /p}]}\n";
    let repository = "class: \"\"\nsync: {warnFiles: 0, delete: false}\nresults: {junit: []}\nssh: {fallbackPorts: []}\nshard: {maxCount: 0}\ncache: {maxGB: 0, volumes: []}\nenv:\n";
    let config = World::new().user(user).repository(repository).load().unwrap().config;
    assert_eq!(
        (
            config.selection.class.as_str(),
            config.sync.warn_files,
            config.cache.max_gb
        ),
        ("fast", 9, 5)
    );
    assert_eq!(config.results.junit, ["a.xml"]);
    assert_eq!((config.sync.delete, config.shard.max_count), (false, 0));
    assert_eq!(
        (config.ssh.fallback_ports, config.cache.volumes.0.len()),
        (Ports(vec![]), 0)
    );
    let config = World::new()
        .user(user)
        .variable("CRABBOX_SSH_FALLBACK_PORTS", "None")
        .variable("CRABBOX_CACHE_VOLUMES", "")
        .load()
        .unwrap()
        .config;
    assert_eq!(
        (config.ssh.fallback_ports, config.cache.volumes.0.len()),
        (Ports(vec![]), 0)
    );
}

#[test]
fn lists_append_or_replace_as_declared() {
    let world = World::new()
        .user("sync:\n  excludes: [c]\n  exclude: [a, b, a]\n  include: [i]\nenv: {allow: [A, B]}\n")
        .repository("sync:\n  exclude: ['!a']\n  includes: [i, j]\nenv: {allow: [C, C]}\nactions: {fields: [k=v]}\n");
    let config = world.load().unwrap().config;
    assert_eq!(config.sync.exclude, ["a", "b", "a", "c", "!a"]);
    assert_eq!(config.sync.include, ["i", "j"]);
    assert_eq!(config.forwarding.allow, ["C"]);
    assert_eq!(config.actions.fields, ["k=v"]);
    assert_eq!(
        world.source("sync.exclude"),
        "repository_file [dir]/repo/.crabbox.yaml:2"
    );
}

#[test]
fn the_environment_allowlist_follows_its_own_rules() {
    let file = "profile: ci\nenv: {allow: [FILE, '*', 'PRE_*', '1bad']}\nprofiles:\n  ci:\n    envAllow: [OWN]\n    env: {allow: [NESTED], MODE: x, N: 1}\n";
    let config = World::new().repository(file).load().unwrap().config;
    assert_eq!(config.environment_allow(), ["FILE", "PRE_*", "OWN", "NESTED"]);
    assert_eq!(
        config
            .profile()
            .unwrap()
            .env
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect::<Vec<_>>(),
        ["MODE=x", "N=1"]
    );
    let replaced = World::new()
        .repository(file)
        .variable("CRABBOX_ENV_ALLOW", "ONLY")
        .flag("env", "allow", &["MORE", "EVEN"]);
    assert_eq!(
        replaced.load().unwrap().config.environment_allow(),
        ["ONLY", "MORE", "EVEN"]
    );
    let default = World::new().flag("env", "allow", &["MORE,EVEN"]).load().unwrap().config;
    assert_eq!(default.environment_allow(), ["CI", "NODE_OPTIONS", "MORE", "EVEN"]);
}

#[test]
fn profiles_presets_and_jobs_merge_per_field() {
    let user = "profiles:\n  my.ci:\n    env: {A: user, B: user}\n    artifactGlobs: [u/*]\n    envAllow: [X]\n    require: {isolation: vm, egress: none, ttl: box}\n    presets:\n      smoke: {command: own}\npresets:\n  smoke: {command: top}\n  other: {command: 'true', shell: true}\nproofTemplates: {p: {notTested: much}}\njobs:\n  build: {command: make, ttl: 1h, hydrate: {actions: true, waitTimeout: 5m}}\n";
    let repository = "profiles:\n  my.ci:\n    env: {B: repo}\n    artifactGlobs: [r/*]\n    envAllow: [Y, X]\njobs:\n  build:\n    targetOS: mac\n    type: m1\n    stop: never\n    desktopEnv: gnome\n  check: {}\n";
    let world = World::new()
        .user(user)
        .repository(repository)
        .variable("CRABBOX_PROFILE", "my.ci");
    let config = world.load().unwrap().config;
    let profile = config.profile().unwrap();
    assert_eq!(profile.env.values().collect::<Vec<_>>(), ["user", "repo"]);
    assert_eq!(
        (profile.artifact_globs.as_slice(), profile.env_allow.as_slice()),
        (&["r/*".to_owned()][..], &["X".to_owned(), "Y".to_owned()][..])
    );
    assert_eq!(profile.require_isolation, Some(IsolationLevel::VirtualMachine));
    assert_eq!(
        (profile.require_egress, profile.require_persistence, profile.require_ttl),
        (Some(Egress::None), None, Some(TtlEnforcement::Box))
    );
    assert_eq!(config.preset("smoke").unwrap().command.as_deref(), Some("own"));
    assert!(config.preset("other").unwrap().shell);
    assert!(config.preset("none").is_none());
    assert_eq!(config.proof_template("p").unwrap().not_tested.as_deref(), Some("much"));
    let job = config.job("build").unwrap();
    assert_eq!(
        (job.command.as_deref(), job.ttl, job.target),
        (
            Some("make"),
            Some(Duration::from_secs(3600)),
            Some(OperatingSystem::Macos)
        )
    );
    assert_eq!(
        (job.server_type.as_deref(), job.stop, job.desktop_env),
        (Some("m1"), StopPolicy::Never, Some(DesktopEnvironment::Gnome))
    );
    assert!(job.hydrate_actions);
    assert!(config.job("check").is_err(), "an empty block is no job");
    assert_eq!(
        world.source("profiles.my.ci.env"),
        "repository_file [dir]/repo/.crabbox.yaml:3"
    );
    let error = config.job("biuld").unwrap_err();
    assert_eq!(
        (error.to_string().as_str(), error.hint()),
        ("unknown job: `biuld`", Some("did you mean `build`?"))
    );
}

#[test]
fn the_provider_is_selected_only_by_somebody() {
    let select = |world: World| world.load().unwrap().config.provider;
    assert_eq!(select(World::new()), None);
    let chosen = |world: World| {
        select(world)
            .map(|provider| (provider.name, provider.source, provider.from_broker))
            .unwrap()
    };
    assert_eq!(
        chosen(World::new().user("provider: ' AWS '\n")),
        ("aws".into(), ProviderSource::UserConfig, false)
    );
    assert_eq!(
        chosen(World::new().repository("provider: aws\n")).1,
        ProviderSource::RepoConfig
    );
    assert_eq!(
        chosen(World::new().user("broker: {provider: gcp}\n")),
        ("gcp".into(), ProviderSource::UserConfig, true)
    );
    assert_eq!(
        chosen(World::new().user("broker: {provider: gcp}\nprovider: aws\n")),
        ("aws".into(), ProviderSource::UserConfig, false)
    );
    let world = World::new()
        .user("broker: {provider: gcp}\n")
        .variable("CRABBOX_PROVIDER", "local");
    assert_eq!(chosen(world), ("local".into(), ProviderSource::Environment, false));
    let world = World::new()
        .variable("CRABBOX_PROVIDER", "local")
        .flag("", "provider", &["e2b"]);
    assert_eq!(chosen(world), ("e2b".into(), ProviderSource::Flag, false));
}

#[test]
fn texts_stay_texts_and_spellings_are_understood() {
    let file = "acmeBox: {image: 24.04, ports: [80, 443], metadata: {a: 1, b: yes}, mounts: [{x: 1}]}\ntargetOS: Darwin\narchitecture: x64\nos: ubuntu2404\nsync: {delete: no, source: directory, warnBytes: 1_000}\nssh: {key: ~/k, port: \"22\"}\nstatic: {port: 2022}\ntailscale: {network: public}\nttl: 1h\nlease: {ttl: 2h}\n";
    let world = World::new().user(file);
    let config = world.load().unwrap().config;
    let acme: AcmeBox = config
        .provider_settings("acme-box", AcmeBox::SCHEMA)
        .unwrap()
        .section()
        .unwrap();
    assert_eq!(
        (acme.image.as_deref(), acme.region.as_str(), acme.cpus, acme.share),
        (Some("24.04"), "eu1", 4, 0.5)
    );
    assert_eq!(
        (acme.ports.as_slice(), acme.metadata["b"].as_str()),
        (&["80".to_owned(), "443".to_owned()][..], "yes")
    );
    assert_eq!(acme.mounts, Some(serde_json::json!([{"x": 1}])));
    assert_eq!(config.selection.target, OperatingSystem::Macos);
    assert_eq!(
        (config.selection.architecture.as_str(), config.selection.os.as_str()),
        ("amd64", "ubuntu:24.04")
    );
    assert_eq!(
        (config.sync.delete, config.sync.source, config.sync.warn_bytes),
        (false, SyncSource::Directory, 1000)
    );
    assert_eq!((config.ssh.key, config.ssh.port), (world.path("home/k"), Port(22)));
    assert_eq!(
        (config.selection.network.as_str(), config.selection.ttl),
        ("public", Duration::from_secs(7200))
    );
    assert_eq!(config.selection.work_root.as_deref(), None);
    let default = World::new();
    assert_eq!(
        default.load().unwrap().config.ssh.key,
        default.path("home/.ssh/id_ed25519")
    );
    let literal = World::new().variable("CRABBOX_SSH_KEY", "~/k").load().unwrap().config;
    assert_eq!(literal.ssh.key.to_str(), Some("~/k"));
}

#[test]
fn volumes_come_from_files_variables_and_flags() {
    let file = "cache:\n  volumes:\n    - {name: pnpm, key: store, path: /var/cache/pnpm, sizeGB: 20}\n    - {key: other, path: /o, required: true}\n";
    let config = World::new()
        .user(file)
        .flag("cache", "requiredVolumes", &["store:/var/cache/pnpm", "n=new:/n"])
        .load()
        .unwrap()
        .config;
    let volumes = config.cache.all_volumes().unwrap();
    let shown: Vec<_> = volumes
        .iter()
        .map(|volume| (volume.key.as_str(), volume.size_gb, volume.required))
        .collect();
    assert_eq!(shown, [("store", 20, true), ("other", 0, true), ("new", 0, true)]);
    let config = World::new()
        .user(file)
        .variable("CRABBOX_CACHE_VOLUMES", "a:/a, n=b:/b")
        .load()
        .unwrap()
        .config;
    assert_eq!(
        config
            .cache
            .volumes
            .0
            .iter()
            .map(|volume| volume.key.as_str())
            .collect::<Vec<_>>(),
        ["a", "b"]
    );
}

#[test]
fn a_repository_cannot_choose_programs_credentials_or_caps() {
    let file = "broker: {loginRedirectOrigins: [https://evil.test]}\nssh: {transport: openssh}\ntailscale: {authKeyEnv: AWS_SECRET_ACCESS_KEY}\nacmeBox:\n  cliPath: /tmp/evil\n  allowPurchase: true\n  attest: false\n  limit: 50\nenv:\n  allow: [CI, HCLOUD_TOKEN, 'AWS_*', ACME_TOKEN]\nprofiles:\n  default: {envAllow: [CRABBOX_COORDINATOR_TOKEN, RUST_LOG], env: {allow: [GH_TOKEN]}}\n";
    let world = World::new().repository(file);
    insta::assert_snapshot!(world.warnings());
    let config = world.load().unwrap().config;
    assert_eq!(config.environment_allow(), ["CI", "RUST_LOG"]);
    let acme = |world: World| {
        world
            .load()
            .unwrap()
            .config
            .provider_settings("acme-box", AcmeBox::SCHEMA)
            .unwrap()
            .section::<AcmeBox>()
    };
    let own = acme(
        World::new()
            .repository(file)
            .user("acmeBox: {cliPath: /bin/acme, allowPurchase: true, attest: true}\n"),
    )
    .unwrap();
    assert_eq!(
        (own.cli_path.as_deref(), own.allow_purchase, own.attest, own.limit),
        (Some("/bin/acme"), true, true, 50)
    );
    // What narrows is welcome, and a cap holds against every other layer.
    let narrowed = World::new()
        .user("acmeBox: {allowPurchase: true, limit: 200}\n")
        .repository("acmeBox: {allowPurchase: false, attest: true, limit: 150}\n")
        .flag("acmeBox", "limit", &["500"]);
    assert_eq!(narrowed.warnings(), "");
    let narrowed = acme(narrowed).unwrap();
    assert_eq!(
        (narrowed.allow_purchase, narrowed.attest, narrowed.limit),
        (false, true, 150)
    );
    assert_eq!(
        acme(
            World::new()
                .repository("acmeBox: {limit: 150}\n")
                .flag("acmeBox", "limit", &["70"])
        )
        .unwrap()
        .limit,
        70
    );
    let bounded = |user: &str, repository: &str| {
        let acme = acme(World::new().user(user).repository(repository)).unwrap();
        (acme.limit, acme.memory)
    };
    assert_eq!(
        bounded("", "acmeBox: {limit: 900, memory: 1GiB}\n"),
        (100, Some(1 << 30)),
        "a bound raises nothing"
    );
    assert_eq!(
        bounded("acmeBox: {memory: 2GiB}\n", "acmeBox: {memory: 1GiB}\n").1,
        Some(1 << 30)
    );
    assert_eq!(
        bounded("acmeBox: {memory: 1GiB}\n", "acmeBox: {memory: 2GiB}\n").1,
        Some(1 << 30)
    );
    // The user's own file may do all of it.
    let user = World::new().user(file);
    assert_eq!(user.warnings(), "");
    assert!(
        user.load()
            .unwrap()
            .config
            .environment_allow()
            .contains(&"AWS_*".to_owned())
    );
}

#[test]
fn an_operators_credential_does_not_follow_a_repository() {
    let world = World::new().repository("acmeBox: {apiUrl: https://evil.test}\nbroker: {url: https://evil.test}\n");
    let config = world
        .variable("ACME_TOKEN", "t")
        .variable("CRABBOX_COORDINATOR_TOKEN", "t")
        .load()
        .unwrap()
        .config;
    let settings = config.provider_settings("acme-box", AcmeBox::SCHEMA).unwrap();
    assert_eq!(
        settings.section::<AcmeBox>().unwrap_err().to_string(),
        "provider=acme-box refuses repository-configured apiUrl with inherited credentials"
    );
    let error = config.broker().unwrap_err();
    assert_eq!(
        error.to_string(),
        "provider=coordinator refuses repository-configured url with inherited credentials"
    );
    assert_eq!(
        error.hint(),
        Some("set `CRABBOX_COORDINATOR` to approve the destination")
    );
    let approved = World::new()
        .repository("acmeBox: {apiUrl: https://evil.test}\n")
        .variable("CRABBOX_ACME_BOX_API_URL", "https://Good.test/")
        .variable("ACME_TOKEN", "t");
    let settings = approved
        .load()
        .unwrap()
        .config
        .provider_settings("acme-box", AcmeBox::SCHEMA);
    let acme: AcmeBox = settings.unwrap().section().unwrap();
    assert_eq!(
        (acme.api_url.as_str(), acme.token.unwrap().expose()),
        ("https://good.test", "t")
    );
    let own = World::new()
        .repository("broker: {url: https://b.test, token: t}\n")
        .load()
        .unwrap()
        .config;
    assert_eq!(own.broker().unwrap().auth_state(), "configured");
    let command = World::new()
        .repository("coordinator: https://b.test\n")
        .variable("CRABBOX_COORDINATOR_TOKEN_COMMAND", "[\"t\"]");
    assert!(command.load().unwrap().config.broker().is_err());
}

#[test]
fn known_variables_of_credentials_are_listed() {
    let config = World::new().load().unwrap().config;
    let secrets: Vec<_> = config.secret_variables().collect();
    assert!(secrets.contains(&"ACME_TOKEN") && secrets.contains(&"CRABBOX_COORDINATOR_TOKEN"));
    assert!(config.is_credential_variable("ACME_TOKEN") && !config.is_credential_variable("CI"));
    let all = config.credential_variables();
    assert!(
        ["ACME_TOKEN", "HCLOUD_TOKEN", "CRABBOX_COORDINATOR_TOKEN"]
            .iter()
            .all(|name| all.contains(name))
    );
}

#[cfg(unix)]
#[test]
fn a_repositorys_host_gets_a_repositorys_key_only() {
    let key = |world: World| world.load().unwrap().config.static_key(&world.path("repo"));
    let host = "static: {host: evil.test}\n";
    let refused = "repository-configured static.host needs a key inside the repository";
    for file in [
        "",
        "ssh: {key: ~/.ssh/id_ed25519}\n",
        "ssh: {key: ../home/key}\n",
        "ssh: {key: keys/link}\n",
        "ssh: {key: keys}\n",
    ] {
        let world = World::new()
            .repository(&format!("{host}{file}"))
            .file("home/key", "k")
            .file("repo/keys/own", "k");
        std::os::unix::fs::symlink("../../home/key", world.path("repo/keys/link")).unwrap();
        let error = key(world).unwrap_err();
        assert!(error.to_string().ends_with(refused), "{file}: {error}");
    }
    let own = World::new()
        .repository(&format!("{host}ssh: {{key: keys/own}}\n"))
        .file("repo/keys/own", "k");
    assert!(key(own).unwrap().ends_with("repo/keys/own"));
    let approved = World::new()
        .repository(host)
        .variable("CRABBOX_STATIC_HOST", "evil.test");
    assert!(key(approved).unwrap().ends_with("home/.ssh/id_ed25519"));
}

#[test]
fn any_name_of_a_key_leads_to_its_source() {
    let world = World::new().user("ttl: 1h\ncoordinator: https://b.test\n");
    assert!(
        ["ttl", "lease.ttl", "coordinator", "broker.url"]
            .iter()
            .all(|path| world.load().unwrap().config.is_set(path))
    );
    assert!(!world.load().unwrap().config.is_set("idleTimeout"));
}
