//! Rules about manifests: which way arrows point, and that nothing is declared twice.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use toml_edit::{DocumentMut, Item};

use super::{Finding, Report};
use crate::files;
use crate::workspace::{Dependency, Member, PROVIDER_PREFIX, Workspace};

/// What each crate may depend on among ours, in every table. Arrows point from the command line down to the contract.
const ARROWS: [(&str, &[&str]); 14] = [
    ("crabbox-derive", &[]),
    ("crabbox-core", &["crabbox-derive"]),
    ("crabbox-config", &["crabbox-core", "crabbox-derive"]),
    ("crabbox-state", &["crabbox-core"]),
    ("crabbox-sync", &["crabbox-core"]),
    ("crabbox-ssh", &["crabbox-core"]),
    ("crabbox-evidence", &["crabbox-core"]),
    (
        "crabbox-engine",
        &[
            "crabbox-core",
            "crabbox-config",
            "crabbox-state",
            "crabbox-sync",
            "crabbox-ssh",
            "crabbox-evidence",
        ],
    ),
    ("crabbox-provider-kit", &["crabbox-core", "crabbox-derive"]),
    (
        "crabbox-testkit",
        &[
            "crabbox-core",
            "crabbox-config",
            "crabbox-state",
            "crabbox-sync",
            "crabbox-evidence",
            "crabbox-engine",
            "crabbox-provider-kit",
            "crabbox-provider-local",
        ],
    ),
    ("crabbox-broker-api", &["crabbox-core"]),
    ("crabbox-coordinator", &["crabbox-core", "crabbox-broker-api"]),
    (
        "crabbox-cli",
        &[
            "crabbox-core",
            "crabbox-config",
            "crabbox-state",
            "crabbox-sync",
            "crabbox-ssh",
            "crabbox-evidence",
            "crabbox-engine",
            "crabbox-provider-kit",
            "crabbox-broker-api",
        ],
    ),
    (
        PROVIDER_PREFIX,
        &["crabbox-core", "crabbox-provider-kit", "crabbox-derive"],
    ),
];

/// What tests may use on top of a crate's arrows.
const TEST_ONLY: [&str; 1] = ["crabbox-testkit"];

/// Package keys that members take from the workspace.
const INHERITED: [&str; 6] = ["version", "edition", "rust-version", "license", "repository", "publish"];

pub(super) fn check(workspace: &Workspace, report: &mut Report) {
    for member in &workspace.members {
        package(member, report);
        if member.name == "xtask" {
            continue;
        }
        let Some(allowed) = arrows(member) else {
            let message = "no arrows are declared for this crate; add it to ARROWS in xtask/src/tidy/manifests.rs";
            report.errors.push(Finding::new(place(member), message));
            continue;
        };
        for dependency in member.dependencies() {
            arrow(member, &dependency, allowed, report);
        }
    }
}

/// Every version that the root manifest names is used by a member.
pub(super) fn check_versions(workspace: &Workspace, report: &mut Report) -> Result<()> {
    let path = workspace.root.join("Cargo.toml");
    let manifest: DocumentMut = files::read(&path)?.parse().context("cannot parse the root manifest")?;
    let members = workspace.members.iter();
    let used: BTreeSet<&str> = members
        .flat_map(Member::dependencies)
        .map(|dependency| dependency.name)
        .collect();
    let declared = manifest
        .get("workspace")
        .and_then(|table| table.get("dependencies"))
        .and_then(Item::as_table_like);
    for (name, _) in declared.into_iter().flat_map(|table| table.iter()) {
        if !used.contains(name) {
            report.errors.push(Finding::new(
                "Cargo.toml",
                format!("no member uses the dependency `{name}`"),
            ));
        }
    }
    Ok(())
}

fn arrows(member: &Member) -> Option<&'static [&'static str]> {
    let key = if member.provider_name().is_some() {
        PROVIDER_PREFIX
    } else {
        member.name.as_str()
    };
    ARROWS
        .iter()
        .find(|(name, _)| *name == key)
        .map(|(_, allowed)| *allowed)
}

fn arrow(member: &Member, dependency: &Dependency<'_>, allowed: &[&str], report: &mut Report) {
    let name = dependency.name;
    if !name.starts_with("crabbox-") {
        return;
    }
    let in_tests = dependency.table == "dev-dependencies";
    let is_own = name == member.name;
    // The command line names providers, the engine's and the kit's own tests run against the reference one.
    let is_provider_user = name.starts_with(PROVIDER_PREFIX)
        && name != "crabbox-provider-kit"
        && (member.name == "crabbox-cli" || (in_tests && member.provider_name().is_none()));
    if allowed.contains(&name) || is_provider_user || (in_tests && (is_own || TEST_ONLY.contains(&name))) {
        return;
    }
    let message = format!("{} may not depend on {name} ({})", member.name, dependency.table);
    report.errors.push(Finding::new(place(member), message));
}

fn package(member: &Member, report: &mut Report) {
    let place = place(member);
    let package = &member.manifest["package"];
    for key in INHERITED {
        if package
            .get(key)
            .and_then(|item| item.get("workspace"))
            .and_then(Item::as_bool)
            != Some(true)
        {
            report.errors.push(Finding::new(
                &place,
                format!("write `{key}.workspace = true` in [package]"),
            ));
        }
    }
    if package
        .get("description")
        .and_then(Item::as_str)
        .is_none_or(|text| text.trim().is_empty())
    {
        report.errors.push(Finding::new(
            &place,
            "the description is empty: one sentence says what the crate is for",
        ));
    }
    let lints = member
        .manifest
        .get("lints")
        .and_then(|lints| lints.get("workspace"))
        .and_then(Item::as_bool);
    if lints != Some(true) {
        report
            .errors
            .push(Finding::new(&place, "write `[lints] workspace = true`"));
    }
    for dependency in member.dependencies() {
        if dependency.item.get("workspace").and_then(Item::as_bool) != Some(true) {
            let message = format!(
                "inherit `{}` with `workspace = true`; the root manifest names versions",
                dependency.name
            );
            report.errors.push(Finding::new(&place, message));
        }
        let ships = dependency.table != "dev-dependencies";
        if ships
            && member.provider_name().is_some()
            && dependency.name == "crabbox-core"
            && enables(&dependency, "authority")
        {
            let message = "a provider never enables `authority`: what may be destroyed is the engine's to say";
            report.errors.push(Finding::new(&place, message));
        }
    }
}

fn enables(dependency: &Dependency<'_>, feature: &str) -> bool {
    let features = dependency.item.get("features").and_then(Item::as_array);
    features
        .into_iter()
        .flatten()
        .any(|value| value.as_str() == Some(feature))
}

fn place(member: &Member) -> String {
    format!("{}/Cargo.toml", member.directory)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{Report, check};
    use crate::files;
    use crate::workspace::Workspace;

    const PACKAGE: &str = "version.workspace = true\nedition.workspace = true\nrust-version.workspace = true\n\
        license.workspace = true\nrepository.workspace = true\npublish.workspace = true\n";

    fn findings(directory: &str, name: &str, description: &str, rest: &str) -> Vec<String> {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join(directory);
        fs::create_dir_all(&path).unwrap();
        let text = format!("[package]\nname = \"{name}\"\n{PACKAGE}description = \"{description}\"\n{rest}");
        files::write(&path.join("Cargo.toml"), &text).unwrap();
        let mut report = Report::default();
        check(&Workspace::load_from(root.path()).unwrap(), &mut report);
        report.errors.into_iter().map(|finding| finding.message).collect()
    }

    const LINTS: &str = "[lints]\nworkspace = true\n";

    #[test]
    fn a_sound_provider_has_no_findings() {
        let rest = format!("{LINTS}[dependencies]\ncrabbox-core.workspace = true\nserde.workspace = true\n");
        assert!(findings("crates/providers/acme", "crabbox-provider-acme", "Acme", &rest).is_empty());
    }

    #[test]
    fn a_provider_may_not_reach_the_engine_even_per_target() {
        let rest = format!("{LINTS}[target.'cfg(unix)'.dependencies]\ncrabbox-engine.workspace = true\n");
        let found = findings("crates/providers/acme", "crabbox-provider-acme", "Acme", &rest);
        assert_eq!(
            found,
            ["crabbox-provider-acme may not depend on crabbox-engine (dependencies)"]
        );
    }

    #[test]
    fn a_provider_may_not_take_authority() {
        let rest =
            format!("{LINTS}[dependencies]\ncrabbox-core = {{ workspace = true, features = [\"authority\"] }}\n");
        let found = findings("crates/providers/acme", "crabbox-provider-acme", "Acme", &rest);
        assert_eq!(
            found,
            ["a provider never enables `authority`: what may be destroyed is the engine's to say"]
        );
    }

    #[test]
    fn the_kit_is_no_provider_and_the_engine_names_none() {
        let rest = format!(
            "{LINTS}[dependencies]\ncrabbox-provider-kit.workspace = true\ncrabbox-provider-local.workspace = true\n"
        );
        let found = findings("crates/crabbox-engine", "crabbox-engine", "Engine", &rest);
        assert_eq!(
            found,
            [
                "crabbox-engine may not depend on crabbox-provider-kit (dependencies)",
                "crabbox-engine may not depend on crabbox-provider-local (dependencies)"
            ]
        );
    }

    #[test]
    fn versions_lints_and_descriptions_are_demanded() {
        let found = findings(
            "crates/crabbox-state",
            "crabbox-state",
            "",
            "[dependencies]\nserde = \"1\"\n",
        );
        assert_eq!(found.len(), 3, "{found:?}");
    }

    #[test]
    fn an_unknown_crate_needs_arrows() {
        let found = findings("crates/crabbox-new", "crabbox-new", "New", LINTS);
        assert_eq!(
            found,
            ["no arrows are declared for this crate; add it to ARROWS in xtask/src/tidy/manifests.rs"]
        );
    }
}
