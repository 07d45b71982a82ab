//! Which value a variable gets, when several sources name it.

use std::collections::{BTreeMap, BTreeSet};

use super::{Allowlist, Decision, Profile, is_valid_name};

const RESERVED: [&str; 3] = ["CRABBOX_LEASE_ID", "CRABBOX_RUN_ID", "CRABBOX_SLUG"];

/// Variables that every command gets, and that nobody else may set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reserved {
    /// `CRABBOX_LEASE_ID`.
    pub lease_id: String,
    /// `CRABBOX_RUN_ID`.
    pub run_id: String,
    /// `CRABBOX_SLUG`.
    pub slug: String,
}

impl Reserved {
    /// Whether a name is reserved, in any case.
    pub fn is_reserved(name: &str) -> bool {
        RESERVED.iter().any(|reserved| reserved.eq_ignore_ascii_case(name))
    }

    /// Sets the variables after removing every spelling of them.
    pub fn apply(&self, env: &mut BTreeMap<String, String>) {
        env.retain(|name, _| !Self::is_reserved(name));
        for (name, value) in RESERVED.into_iter().zip([&self.lease_id, &self.run_id, &self.slug]) {
            env.insert(name.to_owned(), value.clone());
        }
    }
}

/// Sources of variables, weakest first. Fields left at their default add nothing.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Variables of this machine.
    pub local: BTreeMap<String, String>,
    /// Profile files of `--env-from-profile`; the allowlist filters them like local variables.
    pub profile: Profile,
    /// Literal values of the selected config profile.
    pub config_profile: BTreeMap<String, String>,
    /// Literal values of the selected preset.
    pub preset: BTreeMap<String, String>,
    /// Names that the provider forbids in any command's environment, compared without case.
    pub denied: BTreeSet<String>,
}

/// What travels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forwarding {
    /// Variables of the uploaded profile file; inline values win over it.
    pub uploaded: BTreeMap<String, String>,
    /// Variables given with the command.
    pub inline: BTreeMap<String, String>,
    /// Names that only a repository file asked for and that hold a credential. Worth a warning.
    pub refused: Vec<String>,
}

impl Selection {
    /// Decides. Invalid, reserved and denied names travel from no source.
    pub fn choose(&self, allowlist: &Allowlist) -> Forwarding {
        let mut refused = BTreeSet::new();
        let denied: BTreeSet<String> = self.denied.iter().map(|name| name.to_ascii_uppercase()).collect();
        let usable = |name: &str| {
            is_valid_name(name) && !Reserved::is_reserved(name) && !denied.contains(&name.to_ascii_uppercase())
        };
        let mut allowed = |name: &str| match allowlist.decide(name) {
            Decision::Allowed => true,
            Decision::Refused => {
                refused.insert(name.to_owned());
                false
            }
            Decision::Unlisted => false,
        };
        let uploaded: BTreeMap<String, String> = self
            .profile
            .variables
            .iter()
            .filter(|(name, _)| usable(name) && allowed(name))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        let mut inline: BTreeMap<String, String> = self
            .local
            .iter()
            .filter(|(name, _)| usable(name) && allowed(name) && !uploaded.contains_key(*name))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        for layer in [&self.config_profile, &self.preset] {
            inline.extend(
                layer
                    .iter()
                    .filter(|(name, _)| usable(name))
                    .map(|(name, value)| (name.clone(), value.clone())),
            );
        }
        Forwarding {
            uploaded,
            inline,
            refused: refused.into_iter().collect(),
        }
    }
}

impl Forwarding {
    /// Adds what the box can do (`CRABBOX_DESKTOP`, `DISPLAY`, …) and then the reserved variables, which win over all.
    #[must_use]
    pub fn with_box(mut self, capabilities: &BTreeMap<String, String>, reserved: &Reserved) -> Self {
        self.inline.extend(capabilities.clone());
        self.uploaded.retain(|name, _| !Reserved::is_reserved(name));
        reserved.apply(&mut self.inline);
        self
    }

    /// One map with the value that the command sees.
    pub fn effective(&self) -> BTreeMap<String, String> {
        let mut env = self.uploaded.clone();
        env.extend(self.inline.clone());
        env
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{Reserved, Selection};
    use crate::env::{Allowlist, Author, Profile};

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn later_sources_win_and_nothing_unlisted_travels() {
        let mut allowlist = Allowlist::new(["HCLOUD_TOKEN"]);
        allowlist.allow(["A", "B", "C", "CRABBOX_*", "DENIED"], Author::Operator);
        allowlist.allow(["HCLOUD_TOKEN"], Author::Repository);
        let selection = Selection {
            local: map(&[
                ("A", "local"),
                ("B", "local"),
                ("C", "local"),
                ("HOME", "/root"),
                ("HCLOUD_TOKEN", "secret"),
                ("Crabbox_Slug", "mine"),
                ("CRABBOX_X", "1"),
                ("denied", "x"),
                ("DENIED", "x"),
            ]),
            profile: Profile::parse("B=profile\nCRABBOX_RUN_ID=mine\nUNLISTED=x\nHCLOUD_TOKEN=x\n"),
            config_profile: map(&[("C", "config"), ("D", "config"), ("bad-name", "x")]),
            preset: map(&[("D", "preset"), ("crabbox_lease_id", "mine")]),
            denied: ["denied".to_owned()].into(),
        };
        let forwarding = selection.choose(&allowlist);
        assert_eq!(forwarding.uploaded, map(&[("B", "profile")]));
        assert_eq!(
            forwarding.inline,
            map(&[("A", "local"), ("C", "config"), ("CRABBOX_X", "1"), ("D", "preset")])
        );
        assert_eq!(forwarding.refused, ["HCLOUD_TOKEN"]);

        let reserved = Reserved {
            lease_id: "cbx_1".into(),
            run_id: "run_1".into(),
            slug: "amber-crab".into(),
        };
        let effective = forwarding
            .with_box(&map(&[("A", "box"), ("BROWSER", "/b")]), &reserved)
            .effective();
        assert_eq!(
            effective,
            map(&[
                ("A", "box"),
                ("B", "profile"),
                ("BROWSER", "/b"),
                ("C", "config"),
                ("CRABBOX_LEASE_ID", "cbx_1"),
                ("CRABBOX_RUN_ID", "run_1"),
                ("CRABBOX_SLUG", "amber-crab"),
                ("CRABBOX_X", "1"),
                ("D", "preset"),
            ])
        );
    }
}
