//! Which options of `run` a delegated provider can honour, as one function of its features and the request.

use crate::error::{Error, Result};
use crate::remote::is_safe_relative;
use crate::spec::{Feature, FeatureSet, ProviderKind, ProviderSpec};

/// The options of one run that not every provider can honour.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct RunOptions {
    /// `--pool`.
    pub pool: bool,
    /// `--require-artifact-schema`.
    pub artifact_schema: bool,
    /// The profile has a `doctor` section.
    pub profile_doctor: bool,
    /// `--no-sync`.
    pub no_sync: bool,
    /// `--sync-only`.
    pub sync_only: bool,
    /// `--checksum` given as a flag.
    pub checksum: bool,
    /// `--force-sync-large`.
    pub force_sync_large: bool,
    /// `--full-resync` or `--fresh-sync`.
    pub full_resync: bool,
    /// `--env-helper`.
    pub env_helper: bool,
    /// `--capture-stdout`.
    pub capture_stdout: bool,
    /// `--capture-stderr`.
    pub capture_stderr: bool,
    /// `--capture-on-fail`.
    pub capture_on_fail: bool,
    /// Remote halves of `--download`.
    pub downloads: Vec<String>,
    /// `--artifact-glob`.
    pub artifact_glob: bool,
    /// Values of `--require-artifact`.
    pub required_artifacts: Vec<String>,
    /// `--emit-proof`.
    pub emit_proof: bool,
    /// `--lease-output`.
    pub lease_output: bool,
    /// `--stop-after`.
    pub stop_after: bool,
    /// `--fresh-pr`.
    pub fresh_pr: bool,
    /// `--script` or `--script-stdin`.
    pub script: bool,
    /// `--shell`.
    pub shell: bool,
    /// A trailing command.
    pub command: bool,
}

/// Checks the options of a run against what a delegated provider can honour.
///
/// A provider whose kind leaves the whole run to its own API honours few of them. Where the engine drives a delegated
/// provider step by step (`engine_owned`), it owns stream and evidence itself, and only those options are refused that need
/// a machine reached over SSH.
///
/// # Errors
/// `Usage` for the first option that cannot be honoured, in the order pool, schema, doctor, sync, run. Called before any
/// credential is read and before anything is paid for.
pub fn validate_delegated(spec: &ProviderSpec, options: &RunOptions, engine_owned: bool) -> Result<()> {
    if spec.kind != ProviderKind::DelegatedRun {
        return Ok(());
    }
    let features = spec.features();
    let name = spec.name;
    let sync = |given: bool, flag: &str| refuse_if(given, || format!("{name} delegates sync; {flag} is not supported"));
    let run = |given: bool, flag: &str| {
        refuse_if(given, || {
            format!("{name} delegates run execution; {flag} is not supported")
        })
    };
    let has = |feature: Feature| features.contains(feature);

    refuse_if(options.pool, || {
        "--pool requires a brokered SSH lease provider".to_owned()
    })?;
    refuse_if(options.artifact_schema, || {
        format!("--require-artifact-schema is not supported for provider={name} yet; use an SSH-backed provider")
    })?;
    run(options.profile_doctor, "a profile doctor")?;

    sync(options.sync_only && !has(Feature::ArchiveSync), "--sync-only")?;
    sync(
        options.force_sync_large && !has(Feature::ArchiveSync),
        "--force-sync-large",
    )?;
    sync(options.checksum && !engine_owned, "--checksum")?;
    sync(options.full_resync && !engine_owned, "--full-resync")?;

    run(options.env_helper, "--env-helper")?;
    run(options.capture_stdout && !engine_owned, "--capture-stdout")?;
    run(options.capture_stderr && !engine_owned, "--capture-stderr")?;
    run(options.capture_on_fail && !engine_owned, "--capture-on-fail")?;
    run(options.stop_after && !engine_owned, "--stop-after")?;
    run(options.fresh_pr, "--fresh-pr")?;
    downloads(name, features, options)?;
    run(options.artifact_glob && !has(Feature::RunArtifacts), "--artifact-glob")?;
    run(options.emit_proof && !has(Feature::RunProof), "--emit-proof")?;
    run(options.lease_output && !has(Feature::RunSession), "--lease-output")?;
    script(name, features, options, engine_owned)
}

fn downloads(name: &str, features: FeatureSet, options: &RunOptions) -> Result<()> {
    let can_download = features.contains(Feature::RunDownloads);
    refuse_if(!options.downloads.is_empty() && !can_download, || {
        format!("{name} delegates run execution; --download is not supported")
    })?;
    for path in &options.downloads {
        refuse_if(!is_safe_relative(path), || {
            format!(
                "{name} downloads one file below the workspace; unsafe path: `{}`",
                path.escape_debug()
            )
        })?;
    }
    if options.required_artifacts.is_empty() || features.contains(Feature::RunArtifacts) {
        return Ok(());
    }
    refuse_if(!can_download, || {
        format!("{name} delegates run execution; --require-artifact is not supported")
    })?;
    for path in &options.required_artifacts {
        let literal = is_safe_relative(path) && !path.contains(['*', '?', '[']);
        refuse_if(!literal, || {
            format!(
                "{name} accepts exact relative paths for --require-artifact only: `{}`",
                path.escape_debug()
            )
        })?;
    }
    Ok(())
}

fn script(name: &str, features: FeatureSet, options: &RunOptions, engine_owned: bool) -> Result<()> {
    if !features.contains(Feature::ModuleRun) {
        return refuse_if(options.script && !engine_owned, || {
            format!("{name} delegates run execution; --script is not supported")
        });
    }
    refuse_if(options.script && options.command, || {
        format!("{name} executes module source; a trailing command is not supported")
    })?;
    refuse_if(options.script && options.shell, || {
        format!("{name} executes module source; --shell is not supported")
    })
}

fn refuse_if(refuse: bool, message: impl FnOnce() -> String) -> Result<()> {
    if !refuse {
        return Ok(());
    }
    Err(Error::usage(message()).with_hint("leave the option out or choose a provider that supports it"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Capabilities;
    use crate::section::SectionSchema;
    use crate::spec::{CatalogFacts, CoordinatorMode, Egress, IsolationLevel, Persistence, Target, TtlEnforcement};

    static SECTION: SectionSchema = SectionSchema::empty("acme");

    fn spec(extra: &'static [Feature]) -> ProviderSpec {
        ProviderSpec {
            name: "acme",
            aliases: &[],
            family: "acme",
            kind: ProviderKind::DelegatedRun,
            targets: &[Target::LINUX],
            capabilities: Capabilities::NONE,
            extra_features: FeatureSet::of(extra),
            isolation_level: IsolationLevel::Container,
            persistence: Persistence::Ephemeral,
            egress: Egress::Open,
            ttl: TtlEnforcement::Provider,
            coordinator: CoordinatorMode::Never,
            classes: None,
            work_root: "/work",
            section: &SECTION,
            immutable_labels: &[],
            outlives_host: true,
            catalog: CatalogFacts {
                category: "delegated-sandbox",
                location: "provider-managed",
                summary: "",
            },
        }
    }

    fn refused(extra: &'static [Feature], change: impl FnOnce(&mut RunOptions)) -> Option<String> {
        let mut options = RunOptions::default();
        change(&mut options);
        validate_delegated(&spec(extra), &options, false)
            .err()
            .map(|error| error.to_string())
    }

    #[test]
    fn every_option_is_refused_without_its_feature() {
        type Change = fn(&mut RunOptions);
        let cases: [(Change, &str, &str); 15] = [
            (|o| o.sync_only = true, "sync", "--sync-only"),
            (|o| o.force_sync_large = true, "sync", "--force-sync-large"),
            (|o| o.checksum = true, "sync", "--checksum"),
            (|o| o.full_resync = true, "sync", "--full-resync"),
            (|o| o.env_helper = true, "run execution", "--env-helper"),
            (|o| o.capture_stdout = true, "run execution", "--capture-stdout"),
            (|o| o.capture_stderr = true, "run execution", "--capture-stderr"),
            (|o| o.capture_on_fail = true, "run execution", "--capture-on-fail"),
            (|o| o.stop_after = true, "run execution", "--stop-after"),
            (|o| o.fresh_pr = true, "run execution", "--fresh-pr"),
            (|o| o.downloads = vec!["a".into()], "run execution", "--download"),
            (|o| o.artifact_glob = true, "run execution", "--artifact-glob"),
            (
                |o| o.required_artifacts = vec!["a".into()],
                "run execution",
                "--require-artifact",
            ),
            (|o| o.emit_proof = true, "run execution", "--emit-proof"),
            (|o| o.script = true, "run execution", "--script"),
        ];
        for (change, what, flag) in cases {
            let expected = format!("acme delegates {what}; {flag} is not supported");
            assert_eq!(refused(&[], change), Some(expected));
        }
        assert_eq!(
            refused(&[], |o| o.pool = true).unwrap(),
            "--pool requires a brokered SSH lease provider"
        );
    }

    #[test]
    fn features_admit_their_options() {
        assert_eq!(refused(&[Feature::ArchiveSync], |o| o.sync_only = true), None);
        assert_eq!(
            refused(&[Feature::RunDownloads], |o| o.downloads = vec!["out/a.txt".into()]),
            None
        );
        assert!(refused(&[Feature::RunDownloads], |o| o.downloads = vec!["../a".into()]).is_some());
        assert!(
            refused(&[Feature::RunDownloads], |o| o.required_artifacts =
                vec!["*.txt".into()])
            .is_some()
        );
        assert_eq!(
            refused(&[Feature::RunArtifacts], |o| o.required_artifacts =
                vec!["*.txt".into()]),
            None
        );
        assert_eq!(refused(&[Feature::ModuleRun], |o| o.script = true), None);
        assert!(refused(&[Feature::ModuleRun], |o| (o.script, o.command) = (true, true)).is_some());
    }

    #[test]
    fn what_the_engine_owns_is_admitted() {
        let mut options = RunOptions {
            capture_stdout: true,
            stop_after: true,
            checksum: true,
            ..RunOptions::default()
        };
        assert!(validate_delegated(&spec(&[]), &options, true).is_ok());
        options.env_helper = true;
        assert!(validate_delegated(&spec(&[]), &options, true).is_err());
    }
}
