//! Settings of the provider.

use crabbox_core::Section;

/// Section `local`.
#[derive(Clone, Debug, Section)]
#[section(name = "local")]
#[non_exhaustive]
pub struct LocalConfig {
    /// What a box can reach: `host` is the network of this machine, `none` is nothing but its own loopback. A profile
    /// that demands no egress wins.
    #[key(env = "CRABBOX_LOCAL_NETWORK", flag = "local-network", values = ["host", "none"], default = "host", trust = operator)]
    pub network: String,
    /// What separates a box from this machine: `container` demands namespaces, `none` does without, and `auto` takes
    /// namespaces where the host allows them.
    #[key(env = "CRABBOX_LOCAL_ISOLATION", flag = "local-isolation", values = ["auto", "container", "none"], default = "auto", trust = operator)]
    pub isolation: String,
    /// Whether toolchains below your home that `PATH` uses, such as `~/.cargo/bin`, are visible read-only.
    #[key(env = "CRABBOX_LOCAL_TOOLCHAINS", flag = "local-toolchains", values = ["auto", "none"], default = "auto", trust = operator)]
    pub toolchains: String,
    /// Further absolute paths of this machine that are visible read-only at the same place.
    #[key(env = "CRABBOX_LOCAL_EXPOSE", flag = "local-expose", trust = operator, merge = append_unique)]
    pub expose: Vec<String>,
    /// Most processes and threads of a box.
    #[key(env = "CRABBOX_LOCAL_PIDS", flag = "local-pids", default = 4096, trust = at_most)]
    pub pids: u64,
    /// Most memory of a box, where this machine lets us limit it.
    #[key(env = "CRABBOX_LOCAL_MEMORY", flag = "local-memory", kind = bytes, trust = at_most)]
    pub memory: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crabbox_core::settings::Settings;

    #[test]
    fn the_section_is_sound_and_has_safe_defaults() {
        LocalConfig::SCHEMA.check().unwrap();
        let config: LocalConfig = Settings::default().section().unwrap();
        assert_eq!((config.network.as_str(), config.isolation.as_str()), ("host", "auto"));
        assert_eq!((config.pids, config.memory), (4096, None));
        assert!(config.expose.is_empty());
    }
}
