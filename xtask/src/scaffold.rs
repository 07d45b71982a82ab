//! `new-provider`: a crate in the shape every provider has.

use std::fs;

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;

use crate::files;
use crate::generate;
use crate::process::{self, say};
use crate::workspace::Workspace;

/// Which of the two mandatory shapes the provider takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProviderKind {
    /// Leases machines that Crabbox reaches over SSH.
    SshLease,
    /// Runs commands and takes files itself.
    DelegatedRun,
}

const COMMON: [(&str, &str); 4] = [
    ("Cargo.toml", include_str!("../templates/provider/Cargo.toml.template")),
    (
        "src/config.rs",
        include_str!("../templates/provider/config.rs.template"),
    ),
    ("src/api.rs", include_str!("../templates/provider/api.rs.template")),
    (
        "tests/emulator/mod.rs",
        include_str!("../templates/provider/emulator.rs.template"),
    ),
];
const SSH_LEASE: [(&str, &str); 3] = [
    (
        "src/lib.rs",
        include_str!("../templates/provider/lib.ssh-lease.rs.template"),
    ),
    (
        "src/backend.rs",
        include_str!("../templates/provider/backend.ssh-lease.rs.template"),
    ),
    (
        "tests/behaviour.rs",
        include_str!("../templates/provider/behaviour.ssh-lease.rs.template"),
    ),
];
const DELEGATED_RUN: [(&str, &str); 3] = [
    (
        "src/lib.rs",
        include_str!("../templates/provider/lib.delegated-run.rs.template"),
    ),
    (
        "src/backend.rs",
        include_str!("../templates/provider/backend.delegated-run.rs.template"),
    ),
    (
        "tests/behaviour.rs",
        include_str!("../templates/provider/behaviour.delegated-run.rs.template"),
    ),
];
const PAGE: &str = include_str!("../templates/provider/page.md.template");

/// Spellings that follow from one kebab-case name.
#[derive(Debug, PartialEq, Eq)]
pub struct Names {
    kebab: String,
    snake: String,
    camel: String,
    pascal: String,
    screaming: String,
}

impl Names {
    /// Derives every spelling.
    ///
    /// # Errors
    /// When the name is not kebab-case: lower-case letters and digits, single hyphens, a letter first.
    pub fn parse(name: &str) -> Result<Self> {
        let parts: Vec<&str> = name.split('-').collect();
        let is_part = |part: &&str| {
            !part.is_empty()
                && part
                    .chars()
                    .all(|character| character.is_ascii_lowercase() || character.is_ascii_digit())
        };
        if !parts.iter().all(is_part) || !name.starts_with(|first: char| first.is_ascii_lowercase()) {
            bail!("not a kebab-case name, such as acme-box: `{name}`");
        }
        let pascal: String = parts.iter().map(|part| part[..1].to_uppercase() + &part[1..]).collect();
        let camel = pascal[..1].to_lowercase() + &pascal[1..];
        let snake = name.replace('-', "_");
        Ok(Self {
            kebab: name.to_owned(),
            screaming: snake.to_uppercase(),
            snake,
            camel,
            pascal,
        })
    }

    fn fill(&self, template: &str) -> String {
        template
            .replace("{{kebab}}", &self.kebab)
            .replace("{{snake}}", &self.snake)
            .replace("{{camel}}", &self.camel)
            .replace("{{Pascal}}", &self.pascal)
            .replace("{{SCREAMING}}", &self.screaming)
    }
}

/// Writes the crate and its page, then wires it.
///
/// # Errors
/// When the name is not kebab-case, the crate exists, or a file cannot be written.
pub fn run(workspace: &Workspace, name: &str, kind: ProviderKind) -> Result<()> {
    let names = Names::parse(name)?;
    let directory = workspace.root.join("crates/providers").join(name);
    if directory.exists() {
        bail!("a provider of this name exists: `{}`", directory.display());
    }
    let own = match kind {
        ProviderKind::SshLease => SSH_LEASE,
        ProviderKind::DelegatedRun => DELEGATED_RUN,
    };
    for (file, template) in COMMON.iter().chain(&own) {
        files::write(&directory.join(file), &names.fill(template))?;
    }
    let page = workspace.root.join(format!("docs/providers/{name}.md"));
    if !page.exists() {
        files::write(&page, &names.fill(PAGE))?;
    }
    let workspace = Workspace::load_from(&workspace.root).context("the new crate does not read back")?;
    generate::wiring::run(&workspace, false)?;
    let package = format!("crabbox-provider-{name}");
    process::cargo(&workspace.root, &["fmt", "--package", &package])?;
    say(&format!(
        "created crates/providers/{name}; next: `cargo test --package {package}` lists what is still red"
    ));
    Ok(())
}

/// Scaffolds one provider of each kind into a copy of the checkout and compiles them, tests included.
///
/// # Errors
/// When the copy cannot be made or a scaffold does not compile.
pub fn check(workspace: &Workspace) -> Result<()> {
    let copy = workspace.root.join("target/scaffold-check");
    if copy.exists() {
        fs::remove_dir_all(&copy).context("cannot remove the copy of the run before")?;
    }
    for file in files::tracked(&workspace.root)? {
        let to = copy.join(&file);
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::copy(workspace.root.join(&file), &to).with_context(|| format!("cannot copy {}", file.display()))?;
    }
    let copied = Workspace::load_from(&copy)?;
    run(&copied, "scaffold-lease", ProviderKind::SshLease)?;
    run(
        &Workspace::load_from(&copy)?,
        "scaffold-run",
        ProviderKind::DelegatedRun,
    )?;
    // Sharing the target directory shares every compiled dependency; only the copies of our own crates are built again.
    let target = process::target_directory()?.display().to_string();
    for package in ["crabbox-provider-scaffold-lease", "crabbox-provider-scaffold-run"] {
        process::cargo(
            &copy,
            &[
                "check",
                "--package",
                package,
                "--all-targets",
                "--quiet",
                "--target-dir",
                &target,
            ],
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{COMMON, DELEGATED_RUN, Names, PAGE, SSH_LEASE};

    #[test]
    fn every_placeholder_of_every_template_is_known() {
        let names = Names::parse("acme-box").unwrap();
        for (file, template) in COMMON
            .iter()
            .chain(&SSH_LEASE)
            .chain(&DELEGATED_RUN)
            .chain(&[("page", PAGE)])
        {
            assert!(!template.is_empty(), "{file}");
            assert!(!names.fill(template).contains("{{"), "{file}");
        }
    }

    #[test]
    fn one_name_gives_all_others() {
        let names = Names::parse("acme-box2").unwrap();
        assert_eq!(
            names.fill("{{kebab}} {{snake}} {{camel}} {{Pascal}} {{SCREAMING}}"),
            "acme-box2 acme_box2 acmeBox2 AcmeBox2 ACME_BOX2"
        );
    }

    #[test]
    fn other_spellings_are_refused() {
        for name in ["", "Acme", "acme_box", "-acme", "acme-", "a--b", "2box"] {
            assert!(Names::parse(name).is_err(), "{name}");
        }
    }
}
