//! Capacity, hydration, tailnet, static hosts and caches.

use std::path::PathBuf;

use crabbox_core::section::{FromSetting, Kind, SettingValue, wrong_shape};
use crabbox_core::{Error, Result, Section};
use serde_json::Value as Json;

use super::work::Port;

/// Which machines are asked for, and what happens when there are none.
#[derive(Clone, Debug, Section)]
#[section(name = "capacity")]
#[non_exhaustive]
pub struct Capacity {
    /// Market that machines are bought on: `spot` or `on-demand`.
    #[key(env = "CRABBOX_CAPACITY_MARKET", flag = "market", default = "spot")]
    pub market: String,
    /// How a coordinator chooses among candidates.
    #[key(env = "CRABBOX_CAPACITY_STRATEGY", default = "most-available")]
    pub strategy: String,
    /// What follows when no spot machine is to be had; anything that starts with `on-demand` tries that market.
    #[key(env = "CRABBOX_CAPACITY_FALLBACK", default = "on-demand-after-120s")]
    pub fallback: String,
    /// Regions to try, in order.
    #[key(env = "CRABBOX_CAPACITY_REGIONS")]
    pub regions: Vec<String>,
    /// Availability zones to try, in order.
    #[key(env = "CRABBOX_CAPACITY_AVAILABILITY_ZONES")]
    pub availability_zones: Vec<String>,
    /// Whether a failure for lack of capacity suggests other choices.
    #[key(env = "CRABBOX_CAPACITY_HINTS", default = true)]
    pub hints: bool,
}

/// The GitHub Actions workflow that prepares a box.
#[derive(Clone, Debug, Section)]
#[section(name = "actions")]
#[non_exhaustive]
pub struct Actions {
    /// Repository, as `owner/name`.
    #[key(env = "CRABBOX_ACTIONS_REPO")]
    pub repo: Option<String>,
    /// Workflow file.
    #[key(env = "CRABBOX_ACTIONS_WORKFLOW")]
    pub workflow: Option<String>,
    /// Job of the workflow.
    #[key(env = "CRABBOX_ACTIONS_JOB")]
    pub job: Option<String>,
    /// Git ref that the workflow runs on.
    #[key(env = "CRABBOX_ACTIONS_REF")]
    pub r#ref: Option<String>,
    /// Inputs of the workflow, each `name=value`.
    #[key]
    pub fields: Vec<String>,
    /// Labels of the runner.
    #[key(env = "CRABBOX_ACTIONS_RUNNER_LABELS")]
    pub runner_labels: Vec<String>,
    /// Version of the runner.
    #[key(env = "CRABBOX_ACTIONS_RUNNER_VERSION", default = "latest")]
    pub runner_version: String,
    /// Whether a runner takes one job only.
    #[key(env = "CRABBOX_ACTIONS_EPHEMERAL", default = true)]
    pub ephemeral: bool,
}

/// How boxes join a tailnet.
#[derive(Clone, Debug, Section)]
#[section(name = "tailscale")]
#[non_exhaustive]
pub struct Tailscale {
    /// Whether new boxes join.
    #[key(env = "CRABBOX_TAILSCALE", flag = "tailscale")]
    pub enabled: bool,
    /// Tags of new boxes.
    #[key(env = "CRABBOX_TAILSCALE_TAGS", flag = "tailscale-tags", default = "tag:crabbox")]
    pub tags: Tags,
    /// Name of a box in the tailnet; `{slug}`, `{id}` and `{provider}` are replaced.
    #[key(
        env = "CRABBOX_TAILSCALE_HOSTNAME_TEMPLATE",
        flag = "tailscale-hostname-template",
        default = "crabbox-{slug}"
    )]
    pub hostname_template: String,
    /// Variable that holds the key with which boxes join.
    #[key(
        env = "CRABBOX_TAILSCALE_AUTH_KEY_ENV",
        flag = "tailscale-auth-key-env",
        trust = operator,
        default = "CRABBOX_TAILSCALE_AUTH_KEY"
    )]
    pub auth_key_env: String,
    /// Exit node that the box's traffic leaves through.
    #[key(env = "CRABBOX_TAILSCALE_EXIT_NODE", flag = "tailscale-exit-node")]
    pub exit_node: Option<String>,
    /// Whether the box may reach the exit node's own network.
    #[key(
        env = "CRABBOX_TAILSCALE_EXIT_NODE_ALLOW_LAN_ACCESS",
        flag = "tailscale-exit-node-allow-lan-access"
    )]
    pub exit_node_allow_lan_access: bool,
}

/// Tags of a tailnet: `tag:` and up to 63 of `a-z 0-9 - _`, in lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tags(pub Vec<String>);

impl FromSetting for Tags {
    const KIND: Kind = Kind::List;

    fn from_setting(value: &SettingValue) -> Result<Self> {
        let SettingValue::List(list) = value else {
            return Err(wrong_shape("list", value));
        };
        let tags = list.iter().map(|text| {
            let tag = text.trim().to_ascii_lowercase();
            let good = tag.strip_prefix("tag:").is_some_and(|name| {
                (1..=63).contains(&name.len())
                    && name
                        .bytes()
                        .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_'))
            });
            if good {
                return Ok(tag);
            }
            Err(Error::usage(format!("not a tag: `{}`", text.escape_debug())).with_hint("write it as `tag:name`"))
        });
        tags.collect::<Result<_>>().map(Self)
    }
}

/// A machine that is already there.
#[derive(Clone, Debug, Section)]
#[section(name = "static")]
#[non_exhaustive]
pub struct Static {
    /// Id of its lease.
    #[key(env = "CRABBOX_STATIC_ID")]
    pub id: Option<String>,
    /// Name in listings.
    #[key(env = "CRABBOX_STATIC_NAME")]
    pub name: Option<String>,
    /// Address.
    #[key(env = "CRABBOX_STATIC_HOST", flag = "static-host", destination)]
    pub host: Option<String>,
    /// User.
    #[key(env = "CRABBOX_STATIC_USER", flag = "static-user")]
    pub user: Option<String>,
    /// Port of its SSH server.
    #[key(env = "CRABBOX_STATIC_PORT", flag = "static-port")]
    pub port: Option<Port>,
    /// Directory on it below which workspaces live.
    #[key(env = "CRABBOX_STATIC_WORK_ROOT", flag = "static-work-root")]
    pub work_root: Option<String>,
}

/// Caches that outlive a box.
#[derive(Clone, Debug, Section)]
#[section(name = "cache")]
#[non_exhaustive]
pub struct Cache {
    /// Whether pnpm's store is kept.
    #[key(env = "CRABBOX_CACHE_PNPM", default = true)]
    pub pnpm: bool,
    /// Whether npm's cache is kept.
    #[key(env = "CRABBOX_CACHE_NPM", default = true)]
    pub npm: bool,
    /// Whether container images are kept.
    #[key(env = "CRABBOX_CACHE_DOCKER", default = true)]
    pub docker: bool,
    /// Whether git objects are kept.
    #[key(env = "CRABBOX_CACHE_GIT", default = true)]
    pub git: bool,
    /// Gigabytes that caches may take.
    #[key(name = "maxGB", env = "CRABBOX_CACHE_MAX_GB", default = 80)]
    pub max_gb: u64,
    /// Whether caches are emptied when a lease is given back.
    #[key(env = "CRABBOX_CACHE_PURGE_ON_RELEASE")]
    pub purge_on_release: bool,
    /// Volumes, each with `key` and `path`, and if wanted `name`, `sizeGB` and `required`. In the variable
    /// `[name=]key:path`, comma-separated.
    #[key(env = "CRABBOX_CACHE_VOLUMES", merge = replace_when_present, default = "[]")]
    pub volumes: CacheVolumes,
    /// Volumes that the provider must have, each `[name=]key:path`.
    #[key(flag = "cache-volume", no_file)]
    pub required_volumes: Vec<String>,
}

impl Cache {
    /// Configured volumes, and those that a flag requires merged over them by key and path.
    ///
    /// # Errors
    ///
    /// `Usage` when a flag is malformed.
    pub fn all_volumes(&self) -> Result<Vec<CacheVolume>> {
        let mut volumes = self.volumes.0.clone();
        for text in &self.required_volumes {
            let required = CacheVolume {
                required: true,
                ..CacheVolume::parse(text).map_err(|error| error.context("--cache-volume"))?
            };
            match volumes
                .iter_mut()
                .find(|known| known.key == required.key && known.path == required.path)
            {
                Some(known) => {
                    *known = CacheVolume {
                        size_gb: known.size_gb,
                        ..required
                    }
                }
                None => volumes.push(required),
            }
        }
        Ok(volumes)
    }
}

/// A volume that outlives boxes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheVolume {
    /// Name for people.
    pub name: String,
    /// What identifies it at the provider; without `:`.
    pub key: String,
    /// Absolute path on the box.
    pub path: PathBuf,
    /// Size in gigabytes; 0 leaves it to the provider.
    pub size_gb: u64,
    /// Whether a provider without volumes is refused.
    pub required: bool,
}

impl CacheVolume {
    /// Reads `[name=]key:path`.
    ///
    /// # Errors
    ///
    /// `Usage` when the key is empty or the path is not absolute.
    pub fn parse(text: &str) -> Result<Self> {
        let (name, rest) = text.split_once('=').unwrap_or(("", text));
        let (key, path) = rest.split_once(':').ok_or_else(|| Self::refuse("not a volume", text))?;
        Self {
            name: name.trim().to_owned(),
            key: key.trim().to_owned(),
            path: path.trim().into(),
            ..Self::default()
        }
        .checked()
    }

    fn from_json(value: &Json) -> Result<Self> {
        let fields = match value {
            Json::String(text) => return Self::parse(text),
            Json::Object(fields) => fields,
            other => return Err(Self::refuse("not a volume", &other.to_string())),
        };
        let mut volume = Self::default();
        for (name, value) in fields {
            let text = || match value {
                Json::String(text) => Ok(text.clone()),
                Json::Number(number) => Ok(number.to_string()),
                _ => Err(Self::refuse(
                    &format!("{name} of a volume is not text"),
                    &value.to_string(),
                )),
            };
            match name.as_str() {
                "name" => volume.name = text()?,
                "key" => volume.key = text()?,
                "path" => volume.path = text()?.into(),
                "sizeGB" => {
                    let size = value.as_u64();
                    volume.size_gb = size
                        .ok_or_else(|| Self::refuse("sizeGB of a volume is not a whole number", &value.to_string()))?;
                }
                "required" => {
                    let required = value.as_bool();
                    volume.required = required.ok_or_else(|| {
                        Self::refuse("required of a volume is neither true nor false", &value.to_string())
                    })?;
                }
                unknown => return Err(Self::refuse("unknown key of a volume", unknown)),
            }
        }
        volume.checked()
    }

    fn checked(self) -> Result<Self> {
        if self.key.is_empty() || self.key.contains(':') {
            return Err(Self::refuse("key of a volume is empty or holds a colon", &self.key));
        }
        let path = self.path.to_string_lossy();
        // The path is one on the box, whatever this machine calls absolute.
        if !path.starts_with('/') && !path.get(1..3).is_some_and(|middle| middle == ":\\" || middle == ":/") {
            return Err(Self::refuse("path of a volume is not absolute", &path));
        }
        Ok(self)
    }

    fn refuse(what: &str, value: &str) -> Error {
        Error::usage(format!("{what}: `{}`", value.escape_debug()))
            .with_hint("a volume is `{key: name, path: /absolute, sizeGB: 10}`, or `key:/absolute` in short")
    }
}

/// The volumes of a file or variable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CacheVolumes(pub Vec<CacheVolume>);

impl FromSetting for CacheVolumes {
    const KIND: Kind = Kind::Any;

    fn from_setting(value: &SettingValue) -> Result<Self> {
        match value {
            SettingValue::Any(Json::Null) => Ok(Self::default()),
            SettingValue::Any(Json::String(text)) if text.eq_ignore_ascii_case("none") => Ok(Self::default()),
            SettingValue::Any(Json::String(text)) => {
                let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
                entries.map(CacheVolume::parse).collect::<Result<_>>().map(Self)
            }
            SettingValue::Any(Json::Array(items)) => items
                .iter()
                .map(CacheVolume::from_json)
                .collect::<Result<_>>()
                .map(Self),
            SettingValue::Any(other) => Err(CacheVolume::refuse("not a list of volumes", &other.to_string())),
            other => Err(wrong_shape("list of volumes", other)),
        }
    }

    fn when_absent() -> Option<Self> {
        Some(Self::default())
    }
}
