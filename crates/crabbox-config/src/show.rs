//! What `config show` prints: effective values without secrets, and where they came from.

use std::fmt::Write as _;
use std::path::PathBuf;

use crabbox_core::secret::display_url;
use crabbox_core::section::{KeySchema, Kind, SettingValue};
use crabbox_core::settings::{Layer, SectionValues};
use serde_json::{Map, Value as Json, json};

use crate::config::{Config, ProviderSource};

/// What a report needs besides the configuration.
#[derive(Clone, Debug, Default)]
pub struct ShowContext {
    /// The user's file.
    pub file: PathBuf,
    /// Exclude patterns with the built-in ones, in order; the configured ones alone when empty.
    pub excludes: Vec<String>,
    /// The machine type that the class stands for, when none was given.
    pub server_type: Option<String>,
    /// Account or project that the provider's resources belong to.
    pub provider_scope: String,
    /// Whether the provider accepts lease ids of the caller's choice.
    pub idempotent_lease_id: bool,
    /// Address at which leases are registered.
    pub coordinator_registration_url: String,
    /// Address of the desktop viewer's agent.
    pub webvnc_agent_base_url: String,
}

impl Config {
    /// Every value that was set or has a default, under its path in a file, without secrets.
    pub fn to_json(&self) -> Json {
        let mut root = Map::new();
        for (path, values) in self.sections() {
            for key in values.schema().keys.iter().filter(|key| !key.secret && !key.no_file) {
                if let Some(sourced) = values.sourced(key.name) {
                    let full: Vec<&str> = path.iter().map(String::as_str).chain(key.name.split('.')).collect();
                    place(&mut root, &full, sourced.value.to_json());
                }
            }
        }
        Json::Object(root)
    }

    /// The report as JSON.
    pub fn show_json(&self, context: &ShowContext) -> Json {
        let selection = &self.selection;
        let broker = self.unchecked_broker();
        let provider = self.provider.as_ref();
        let mut root = Map::new();
        let mut put = |name: &str, value: Json| {
            root.insert(name.to_owned(), value);
        };
        put("profile", selection.profile.as_str().into());
        put("provider", provider.map_or("", |provider| &provider.name).into());
        put("providerSelected", provider.is_some().into());
        put("providerSource", self.provider_source().as_str().into());
        put("target", selection.target.as_str().into());
        put("architecture", selection.architecture.as_str().into());
        put("os", selection.os.as_str().into());
        put("windowsMode", selection.windows_mode.as_str().into());
        put("class", selection.class.as_str().into());
        put("serverType", self.server_type(context).into());
        put("serverTypeExplicit", selection.server_type.is_some().into());
        put(
            "coordinator",
            display_url(broker.url.as_deref().unwrap_or_default()).into(),
        );
        put("brokerMode", broker.mode.as_str().into());
        put("brokerAutoWebVNC", broker.auto_web_vnc.into());
        put("brokerLoginRedirectOrigins", self.redirect_origins().into());
        put("brokerAuth", broker.auth_state().into());
        put("brokerAdminAuth", broker.admin_auth_state().into());
        put("accessAuth", broker.access_auth_state().into());
        put("sshKey", self.ssh.key.to_string_lossy().into());
        put("sshUser", self.ssh.user.as_str().into());
        put("sshPort", self.ssh.port.to_string().into());
        put("sshFallbackPorts", self.fallback_ports().into());
        put("sshTransport", self.ssh.transport.as_str().into());
        put("workRoot", selection.work_root_or_default().into());
        for name in ["sync", "env", "run", "capacity", "actions"] {
            let mut section = self.section_json(name);
            if name == "sync"
                && !context.excludes.is_empty()
                && let Json::Object(section) = &mut section
            {
                section.insert("exclude".to_owned(), context.excludes.clone().into());
            }
            put(name, section);
        }
        for schema in self.provider_sections() {
            put(schema.name, self.section_json(schema.name));
        }
        for name in ["static", "results", "cache"] {
            put(name, self.section_json(name));
        }
        for name in ["jobs", "profiles", "presets", "proofTemplates"] {
            put(name, self.named_json(name));
        }
        put("desktop", selection.desktop.into());
        put("desktopEnv", selection.desktop_env.as_str().into());
        put("browser", selection.browser.into());
        put("code", selection.code.into());
        put("network", selection.network.as_str().into());
        put("hostId", selection.host_id.as_deref().unwrap_or_default().into());
        put("ttl", crabbox_core::duration::format(selection.ttl).into());
        put(
            "idleTimeout",
            crabbox_core::duration::format(selection.idle_timeout).into(),
        );
        for name in ["tailscale", "shard"] {
            put(name, self.section_json(name));
        }
        put("providerScope", context.provider_scope.as_str().into());
        put("idempotentLeaseId", context.idempotent_lease_id.into());
        put(
            "coordinatorRegistrationUrl",
            display_url(&context.coordinator_registration_url).into(),
        );
        put("webvncAgentBaseUrl", display_url(&context.webvnc_agent_base_url).into());
        put("sources", self.sources_json());
        Json::Object(root)
    }

    /// The report as `key=value` lines, the last of them one per value that something set.
    pub fn show_text(&self, context: &ShowContext) -> String {
        let selection = &self.selection;
        let broker = self.unchecked_broker();
        let capacity = &self.capacity;
        let actions = &self.actions;
        let text = |value: Option<&String>| dash(value.map_or("", String::as_str)).to_owned();
        let list = |values: &[String]| dash(&values.join(",")).to_owned();
        let mut lines = Lines::default();
        lines.line("", &[("config", context.file.display().to_string())]);
        lines.line(
            "",
            &[
                (
                    "provider",
                    self.provider
                        .as_ref()
                        .map_or_else(String::new, |provider| provider.name.clone()),
                ),
                ("provider_selected", self.provider.is_some().to_string()),
                ("provider_source", self.provider_source().to_string()),
                ("target", selection.target.to_string()),
                ("arch", selection.architecture.to_string()),
                ("os", selection.os.clone()),
                ("windows_mode", selection.windows_mode.to_string()),
                ("class", selection.class.clone()),
                ("type", self.server_type(context)),
                ("profile", selection.profile.clone()),
            ],
        );
        lines.line(
            "",
            &[
                ("broker", display_url(broker.url.as_deref().unwrap_or_default())),
                ("mode", broker.mode.to_string()),
                ("auto_webvnc", broker.auto_web_vnc.to_string()),
                ("login_redirect_origins", self.redirect_origins().join(",")),
                ("auth", broker.auth_state().to_owned()),
                ("admin_auth", broker.admin_auth_state().to_owned()),
            ],
        );
        lines.line("", &[("access_auth", broker.access_auth_state().to_owned())]);
        let host = text(self.static_host.host.as_ref());
        lines.line(
            "",
            &[
                ("ssh", format!("{}@{host}:{}", self.ssh.user, self.ssh.port)),
                ("fallback_ports", self.fallback_ports().join(",")),
                ("key", self.ssh.key.display().to_string()),
            ],
        );
        let excludes = if context.excludes.is_empty() {
            self.sync.exclude.len()
        } else {
            context.excludes.len()
        };
        lines.line(
            "sync",
            &[
                ("delete", self.sync.delete.to_string()),
                ("checksum", self.sync.checksum.to_string()),
                ("git_seed", self.sync.git_seed.to_string()),
                ("fingerprint", self.sync.fingerprint.to_string()),
                ("base_ref", text(self.sync.base_ref.as_ref())),
                ("excludes", excludes.to_string()),
                ("includes", self.sync.include.len().to_string()),
                ("timeout", crabbox_core::duration::format(self.sync.timeout)),
            ],
        );
        lines.line("env", &[("allow", list(&self.forwarding.allow))]);
        lines.line("run", &[("preflight_tools", list(&self.run.preflight_tools))]);
        lines.line(
            "capacity",
            &[
                ("market", capacity.market.clone()),
                ("strategy", capacity.strategy.clone()),
                ("fallback", capacity.fallback.clone()),
                ("regions", list(&capacity.regions)),
                ("hints", capacity.hints.to_string()),
            ],
        );
        lines.line(
            "actions",
            &[
                ("repo", text(actions.repo.as_ref())),
                ("workflow", text(actions.workflow.as_ref())),
                ("job", text(actions.job.as_ref())),
                ("ref", text(actions.r#ref.as_ref())),
                ("runner_version", actions.runner_version.clone()),
                ("ephemeral", actions.ephemeral.to_string()),
                ("labels", list(&actions.runner_labels)),
            ],
        );
        let generic = ["static", "results", "cache", "tailscale", "shard"];
        for name in self.provider_sections().iter().map(|schema| schema.name).chain(generic) {
            if let Some(values) = self.values(name) {
                let pairs: Vec<(String, String)> = values
                    .schema()
                    .keys
                    .iter()
                    .map(|key| (snake_case(key.name), shown_text(key, values)))
                    .collect();
                let pairs: Vec<(&str, String)> = pairs
                    .iter()
                    .map(|(name, value)| (name.as_str(), value.clone()))
                    .collect();
                lines.line(name, &pairs);
            }
        }
        lines.line("", &[("jobs", self.jobs.keys().cloned().collect::<Vec<_>>().join(","))]);
        if let Json::Object(sources) = self.sources_json() {
            for (path, source) in sources {
                let word = |name: &str| source[name].as_str().unwrap_or_default().to_owned();
                lines.line(
                    "source",
                    &[(
                        &path,
                        format!("{} {}", word("layer"), word("place")).trim_end().to_owned(),
                    )],
                );
            }
        }
        lines.0
    }

    fn provider_source(&self) -> ProviderSource {
        self.provider
            .as_ref()
            .map_or(ProviderSource::CompiledDefault, |provider| provider.source)
    }

    fn server_type(&self, context: &ShowContext) -> String {
        self.selection
            .server_type
            .clone()
            .or_else(|| context.server_type.clone())
            .unwrap_or_default()
    }

    fn redirect_origins(&self) -> Vec<String> {
        self.unchecked_broker()
            .login_redirect_origins
            .iter()
            .map(|origin| display_url(origin))
            .collect()
    }

    fn fallback_ports(&self) -> Vec<String> {
        self.ssh.fallback_ports.0.iter().map(u16::to_string).collect()
    }

    fn section_json(&self, section: &str) -> Json {
        let mut root = Map::new();
        if let Some(values) = self.values(section) {
            for key in values.schema().keys {
                let path: Vec<&str> = key.name.split('.').collect();
                place(&mut root, &path, shown_json(key, values));
            }
        }
        Json::Object(root)
    }

    fn named_json(&self, parent: &str) -> Json {
        let mut root = Map::new();
        for (path, values) in self.sections() {
            let [first, below @ ..] = path else { continue };
            if first != parent || below.is_empty() {
                continue;
            }
            for key in values.schema().keys {
                if values.sourced(key.name).is_some() {
                    let full: Vec<&str> = below.iter().map(String::as_str).chain(key.name.split('.')).collect();
                    place(&mut root, &full, shown_json(key, values));
                }
            }
        }
        Json::Object(root)
    }

    fn sources_json(&self) -> Json {
        let mut sources = Map::new();
        for (path, values) in self.sections() {
            for key in values.schema().keys {
                let Some(sourced) = values.sourced(key.name) else {
                    continue;
                };
                if sourced.provenance.layer != Layer::Default {
                    let provenance = &sourced.provenance;
                    let source = json!({"layer": provenance.layer.as_str(), "place": &*provenance.place});
                    sources.insert(key.path(&path.join(".")), source);
                }
            }
        }
        Json::Object(sources)
    }
}

/// A value fit to be shown; a secret is a word for whether it is there.
fn shown_json(key: &KeySchema, values: &SectionValues) -> Json {
    let sourced = values.sourced(key.name);
    if key.secret {
        return state(sourced.is_some_and(|sourced| !sourced.value.is_empty())).into();
    }
    match sourced {
        Some(sourced) if key.destination => match &sourced.value {
            SettingValue::Text(text) if text.contains("://") => display_url(text).into(),
            value => value.to_json(),
        },
        Some(sourced) => sourced.value.to_json(),
        None => match key.kind {
            Kind::Boolean => false.into(),
            Kind::List => Json::Array(Vec::new()),
            Kind::Map => Json::Object(Map::new()),
            Kind::Text | Kind::Choice(_) | Kind::Origin | Kind::Path | Kind::Duration | Kind::DurationOrZero => {
                "".into()
            }
            Kind::Integer | Kind::Float | Kind::Bytes => 0.into(),
            Kind::Any => Json::Null,
        },
    }
}

fn shown_text(key: &KeySchema, values: &SectionValues) -> String {
    match shown_json(key, values) {
        Json::String(text) => text,
        Json::Null => String::new(),
        Json::Array(items) => items
            .iter()
            .map(|item| item.as_str().map_or_else(|| item.to_string(), str::to_owned))
            .collect::<Vec<_>>()
            .join(","),
        Json::Object(entries) => entries
            .iter()
            .map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or_default()))
            .collect::<Vec<_>>()
            .join(","),
        other => other.to_string(),
    }
}

const fn state(configured: bool) -> &'static str {
    if configured { "configured" } else { "missing" }
}

#[derive(Default)]
struct Lines(String);

impl Lines {
    fn line(&mut self, head: &str, pairs: &[(&str, String)]) {
        let mut separator = if head.is_empty() { "" } else { " " };
        self.0.push_str(head);
        for (name, value) in pairs {
            // One value stays one value: what could end the line is escaped.
            let value = value
                .escape_debug()
                .to_string()
                .replace("\\\"", "\"")
                .replace("\\'", "'");
            // Writing to a text cannot fail.
            let _ = write!(self.0, "{separator}{name}={}", dash(&value));
            separator = " ";
        }
        self.0.push('\n');
    }
}

fn dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}

/// `autoWebVNC` → `auto_web_vnc`, `access.clientId` → `access_client_id`.
pub(crate) fn snake_case(name: &str) -> String {
    let characters: Vec<char> = name.chars().collect();
    let mut text = String::new();
    for (index, character) in characters.iter().enumerate() {
        if *character == '.' {
            text.push('_');
            continue;
        }
        let after_lower = index > 0 && (characters[index - 1].is_lowercase() || characters[index - 1].is_ascii_digit());
        let before_lower = index > 0
            && characters[index - 1].is_uppercase()
            && characters.get(index + 1).is_some_and(|next| next.is_lowercase());
        if character.is_uppercase() && (after_lower || before_lower) {
            text.push('_');
        }
        text.extend(character.to_lowercase());
    }
    text
}

fn place(root: &mut Map<String, Json>, path: &[&str], value: Json) {
    match path {
        [] => {}
        [last] => {
            root.insert((*last).to_owned(), value);
        }
        [first, rest @ ..] => {
            let below = root
                .entry((*first).to_owned())
                .or_insert_with(|| Json::Object(Map::new()));
            if let Json::Object(below) = below {
                place(below, rest, value);
            }
        }
    }
}
