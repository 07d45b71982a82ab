//! Provider wiring: the features, dependencies and registration list that follow from `crates/providers`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::Result;

use super::CURE;
use crate::files::{Generated, Region};
use crate::workspace::{PROVIDER_PREFIX, Workspace};

/// Writes or checks the wiring of every provider crate.
///
/// # Errors
/// When a file or marker is missing, a file cannot be written, or checking finds a difference.
pub fn run(workspace: &Workspace, check: bool) -> Result<()> {
    let root = &workspace.root;
    let names: Vec<&str> = workspace.providers().map(|(name, _)| name).collect();
    let mut generated = Generated::new(check);
    generated.region(
        &root.join("Cargo.toml"),
        &Region {
            name: "provider crates",
        },
        &crates(&names),
    )?;
    let manifest = root.join("crates/crabbox-cli/Cargo.toml");
    generated.region(
        &manifest,
        &Region {
            name: "provider features",
        },
        &features(workspace),
    )?;
    generated.region(
        &manifest,
        &Region {
            name: "provider dependencies",
        },
        &dependencies(&names),
    )?;
    let registration = root.join("crates/crabbox-cli/src/providers.rs");
    generated.region(
        &registration,
        &Region {
            name: "provider registration",
        },
        &registrations(&names),
    )?;
    generated.finish(root, CURE)
}

fn crates(names: &[&str]) -> String {
    lines(names, |name| {
        format!("{PROVIDER_PREFIX}{name} = {{ path = \"crates/providers/{name}\" }}")
    })
}

fn dependencies(names: &[&str]) -> String {
    lines(names, |name| {
        format!("{PROVIDER_PREFIX}{name} = {{ workspace = true, optional = true }}")
    })
}

/// One feature per provider, one per group that a provider's `package.metadata.crabbox.groups` names, and all of them.
fn features(workspace: &Workspace) -> String {
    let mut text = String::new();
    let mut groups: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, member) in workspace.providers() {
        let _ = writeln!(text, "provider-{name} = [\"dep:{PROVIDER_PREFIX}{name}\"]");
        let named = member
            .metadata_list("groups")
            .into_iter()
            .map(|group| format!("providers-{group}"));
        for group in named.chain(["providers-all".to_owned()]) {
            groups
                .entry(group)
                .or_default()
                .push(format!("  \"provider-{name}\",\n"));
        }
    }
    for (group, entries) in groups {
        let _ = writeln!(text, "{group} = [\n{}]", entries.concat());
    }
    text
}

fn registrations(names: &[&str]) -> String {
    lines(names, |name| {
        let module = format!("{PROVIDER_PREFIX}{name}").replace('-', "_");
        format!(
            "#[cfg(feature = \"provider-{name}\")]\nlet registry = registry.with({module}::{}Provider);",
            pascal(name)
        )
    })
}

/// `acme-box` becomes `AcmeBox`.
fn pascal(name: &str) -> String {
    let upper = |part: &str| {
        part.chars()
            .take(1)
            .flat_map(char::to_uppercase)
            .chain(part.chars().skip(1))
            .collect()
    };
    name.split('-').map::<String, _>(upper).collect()
}

fn lines(names: &[&str], line: impl Fn(&str) -> String) -> String {
    let mut text = String::new();
    for name in names {
        text.push_str(&line(name));
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{features, registrations};
    use crate::files;
    use crate::workspace::Workspace;

    #[test]
    fn features_follow_crates_and_their_groups() {
        let root = tempfile::tempdir().unwrap();
        for (name, groups) in [("acme-box", "[\"clouds\"]"), ("local", "[\"sandbox\", \"clouds\"]")] {
            let directory = root.path().join("crates/providers").join(name);
            fs::create_dir_all(&directory).unwrap();
            let text = format!(
                "[package]\nname = \"crabbox-provider-{name}\"\n[package.metadata.crabbox]\ngroups = {groups}\n"
            );
            files::write(&directory.join("Cargo.toml"), &text).unwrap();
        }
        let text = features(&Workspace::load_from(root.path()).unwrap());
        let expected = r#"provider-acme-box = ["dep:crabbox-provider-acme-box"]
provider-local = ["dep:crabbox-provider-local"]
providers-all = [
  "provider-acme-box",
  "provider-local",
]
providers-clouds = [
  "provider-acme-box",
  "provider-local",
]
providers-sandbox = [
  "provider-local",
]
"#;
        assert_eq!(text, expected);
    }

    #[test]
    fn registration_is_one_guarded_call_per_feature() {
        let expected = "#[cfg(feature = \"provider-acme-box\")]\nlet registry = registry.with(crabbox_provider_acme_box::AcmeBoxProvider);\n";
        assert_eq!(registrations(&["acme-box"]), expected);
    }
}
