//! Everything about a run that can be refused, refused before anything is created or touched.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use crabbox_config::PresetCommand;
use crabbox_core::options::{RunOptions, validate_delegated};
use crabbox_core::remote::RemotePath;
use crabbox_core::{Error, ErrorKind, IntoError as _, ProviderSpec, Result, RunId, Slug};
use crabbox_evidence::command::{Command, Script, ScriptSource, Word};
use crabbox_evidence::downloads::Download;
use crabbox_evidence::env::Forwarding;
use crabbox_evidence::private_file::{Output, OutputKind, OutputSet};
use crabbox_state::random;

use crate::acquire::LeasePlan;
use crate::api::{CommandSource, RunRequest, ScriptReader, StopAfter};
use crate::checkout::Checkout;
use crate::engine::Engine;
use crate::workspace::SyncWish;

/// Largest script that is uploaded.
const MAX_SCRIPT_BYTES: u64 = 16 * 1024 * 1024;

/// Which box a run uses.
pub(crate) enum Choice {
    /// One that exists: id or slug.
    Existing(String),
    /// A new one.
    New { plan: Box<LeasePlan>, slug: Option<Slug> },
}

/// How test results are found and judged.
pub(crate) struct ResultsWish {
    pub(crate) files: Vec<String>,
    pub(crate) auto: bool,
    pub(crate) fail_on_failures: bool,
}

/// A run that nothing speaks against.
pub(crate) struct RunPlan {
    pub(crate) run: RunId,
    pub(crate) checkout: Checkout,
    pub(crate) command: Option<Command>,
    /// A script that is still to be read, and its arguments.
    pub(crate) script: Option<(ScriptReader, Vec<String>)>,
    pub(crate) choice: Choice,
    pub(crate) forwarding: Forwarding,
    pub(crate) forwarding_lines: Vec<String>,
    pub(crate) sync: Option<SyncWish>,
    pub(crate) force_large: bool,
    /// Every sync sends the whole checkout.
    pub(crate) whole: bool,
    /// Recorded in the bundle, changes nothing.
    pub(crate) capture_on_fail: bool,
    pub(crate) preflight: Option<Vec<String>>,
    pub(crate) results: ResultsWish,
    pub(crate) downloads: Vec<Download>,
    pub(crate) capture_stdout: Option<PathBuf>,
    pub(crate) capture_stderr: Option<PathBuf>,
    pub(crate) lease_output: Option<PathBuf>,
    pub(crate) timing_record: Option<PathBuf>,
    pub(crate) idle_timeout: Option<Duration>,
    pub(crate) stop_after: StopAfter,
    pub(crate) keep: bool,
    pub(crate) keep_on_failure: bool,
    pub(crate) reclaim: bool,
    pub(crate) label: String,
    pub(crate) workdir: Option<RemotePath>,
    pub(crate) stdin: Option<Bytes>,
    pub(crate) secrets: Vec<String>,
}

impl Engine {
    /// Validates a run in the order that users of the Go implementation see.
    pub(crate) fn plan_run(&self, mut request: RunRequest) -> Result<RunPlan> {
        let slug = slug(&request)?;
        let preset = self.expand_preset(&mut request)?;
        refuse_without_command(&request)?;
        conflicts(&request)?;
        let outputs = self.local_outputs(&request)?;
        let allowlist = self.allowlist(&request.allow_env)?;
        let preflight = self.preflight_tools(&request)?;
        let checkout = self.source()?;
        let script = match &request.command {
            CommandSource::ScriptReader { script, args } => Some((script.clone(), args.clone())),
            _ => None,
        };
        let command = command(&mut request, &preset.literal_words)?;
        let (forwarding, secrets) = self.forwarding(&request, &allowlist, preset.env)?;
        let forwarding_lines = self.forwarding_lines(&request, &forwarding, &allowlist);
        let run = random::run_id()?;
        let workdir = request.workdir.as_deref().map(str::parse).transpose()?;
        let (choice, spec) = self.choose(&request, slug)?;
        validate_delegated(spec, &options(&request, command.is_some() || script.is_some()), true)?;
        lease_output_policy(spec, &request)?;

        let sync = self.settings().sync();
        let wish = SyncWish {
            delete: sync.delete,
            checksum: request.checksum.unwrap_or(sync.checksum),
            full: request.full_resync,
            timeout: sync.timeout,
            debug: request.debug,
        };
        let results = &self.shared.config.config.results;
        Ok(RunPlan {
            run,
            checkout,
            command,
            script,
            choice,
            forwarding,
            forwarding_lines,
            sync: (!request.no_sync).then_some(wish),
            force_large: request.force_sync_large,
            capture_on_fail: request.capture_on_fail,
            whole: !spec.capabilities.host_workspace,
            preflight,
            results: ResultsWish {
                files: request.junit.unwrap_or_else(|| results.junit.clone()),
                auto: request.results_auto.unwrap_or(results.auto),
                fail_on_failures: request.fail_on_test_failures.unwrap_or(results.fail_on_failures),
            },
            downloads: outputs.downloads,
            capture_stdout: request.capture_stdout.map(|path| self.shared.directory.join(path)),
            capture_stderr: request.capture_stderr.map(|path| self.shared.directory.join(path)),
            lease_output: request.lease_output.map(|path| self.shared.directory.join(path)),
            timing_record: request.timing_record.map(|path| self.shared.directory.join(path)),
            idle_timeout: request.idle_timeout,
            stop_after: request.stop_after,
            keep: request.keep,
            keep_on_failure: request.keep_on_failure,
            reclaim: request.reclaim,
            label: request.label.unwrap_or_default(),
            workdir,
            stdin: request.stdin,
            secrets,
        })
    }

    /// The box of the run and its provider's spec, without looking at the provider.
    fn choose(&self, request: &RunRequest, slug: Option<Slug>) -> Result<(Choice, &'static ProviderSpec)> {
        let Some(id) = &request.id else {
            let plan = self.lease_plan()?;
            let spec = plan.spec();
            return Ok((
                Choice::New {
                    plan: Box::new(plan),
                    slug,
                },
                spec,
            ));
        };
        let spec = match self.claimed_provider(id)? {
            Some(spec) => spec,
            None => self.selected()?.0.spec(),
        };
        Ok((Choice::Existing(id.clone()), spec))
    }

    /// Every local file that the run will write, checked against each other and against the disk.
    fn local_outputs(&self, request: &RunRequest) -> Result<Outputs> {
        let at = |path: &Path| self.shared.directory.join(path);
        let downloads = request
            .downloads
            .iter()
            .map(|text| {
                let mut download = Download::parse(text)?;
                download.local = at(&download.local);
                Ok(download)
            })
            .collect::<Result<Vec<_>>>()?;
        let mut set = OutputSet::default();
        for (label, kind, path) in [
            (
                "--capture-stdout",
                OutputKind::InExistingDirectory,
                &request.capture_stdout,
            ),
            (
                "--capture-stderr",
                OutputKind::InExistingDirectory,
                &request.capture_stderr,
            ),
            ("--lease-output", OutputKind::InExistingDirectory, &request.lease_output),
            (
                "--timing-record",
                OutputKind::CreatesDirectories,
                &request.timing_record,
            ),
        ] {
            if let Some(path) = path {
                set.add(
                    &self.shared.directory,
                    Output {
                        label: label.to_owned(),
                        path: path.clone(),
                        kind,
                    },
                )?;
            }
        }
        for download in &downloads {
            set.add(&self.shared.directory, download.output())?;
        }
        Ok(Outputs { downloads })
    }

    fn preflight_tools(&self, request: &RunRequest) -> Result<Option<Vec<String>>> {
        if !request.preflight && request.preflight_tools.is_none() {
            return Ok(None);
        }
        let configured = &self.shared.config.config.run.preflight_tools;
        let wanted: Vec<String> = match &request.preflight_tools {
            Some(list) => list
                .split(',')
                .map(|tool| tool.trim().to_owned())
                .filter(|tool| !tool.is_empty())
                .collect(),
            None => configured.clone(),
        };
        super::preflight::tools(&wanted).map(Some)
    }
}

struct Outputs {
    downloads: Vec<Download>,
}

fn slug(request: &RunRequest) -> Result<Option<Slug>> {
    match (&request.slug, &request.id) {
        (Some(_), Some(_)) => Err(Error::usage("--slug names a new lease and --id an existing one")
            .with_hint("use only one of --slug and --id")),
        (Some(slug), None) => slug.parse().map(Some),
        (None, _) => Ok(None),
    }
}

fn refuse_without_command(request: &RunRequest) -> Result<()> {
    let empty = match &request.command {
        CommandSource::None => true,
        CommandSource::Words(words) | CommandSource::Shell(words) => words.is_empty(),
        CommandSource::ScriptFile { .. } | CommandSource::ScriptBytes { .. } | CommandSource::ScriptReader { .. } => {
            false
        }
    };
    if empty && !request.sync_only {
        return Err(Error::usage("no command to run").with_hint(
            "put the command after `--`: `crabbox run -- cargo test`, or use --script, --script-stdin or --sync-only",
        ));
    }
    Ok(())
}

fn conflicts(request: &RunRequest) -> Result<()> {
    let script = matches!(
        request.command,
        CommandSource::ScriptFile { .. } | CommandSource::ScriptBytes { .. } | CommandSource::ScriptReader { .. }
    );
    let has_command = !matches!(request.command, CommandSource::None);
    for (conflict, message, cure) in [
        (
            request.full_resync && request.no_sync,
            "--full-resync and --no-sync exclude each other",
            "use one of them",
        ),
        (
            request.sync_only && request.no_sync,
            "--sync-only and --no-sync exclude each other",
            "use one of them",
        ),
        (
            script && request.sync_only,
            "--script and --sync-only exclude each other",
            "use one of them",
        ),
        (
            has_command && request.sync_only,
            "--sync-only runs no command",
            "leave the command or --sync-only out",
        ),
    ] {
        if conflict {
            return Err(Error::usage(message).with_hint(cure));
        }
    }
    Ok(())
}

/// The command of a script that was given as a stream.
pub(super) fn script_command(script: Bytes, args: &[String]) -> Result<Command> {
    let script = Script::new(ScriptSource::Stdin, script.to_vec())?;
    let args: Vec<Word> = args
        .iter()
        .map(|text| Word {
            text: text.clone(),
            literal: false,
        })
        .collect();
    Command::from_script(script, &args)
}

fn command(request: &mut RunRequest, literal: &BTreeSet<usize>) -> Result<Option<Command>> {
    let words = |words: Vec<String>| -> Vec<Word> {
        let word = |(index, text)| Word {
            text,
            literal: literal.contains(&index),
        };
        words.into_iter().enumerate().map(word).collect()
    };
    match std::mem::take(&mut request.command) {
        // A script that is a stream is read when nothing speaks against the run any more.
        CommandSource::None | CommandSource::ScriptReader { .. } => Ok(None),
        CommandSource::Words(given) => Command::from_words(&words(given), false).map(Some),
        CommandSource::Shell(given) => Command::from_words(&words(given), true).map(Some),
        CommandSource::ScriptFile { path, args } => {
            let shown = path.display().to_string();
            let failed = || format!("read script `{shown}`");
            let length = std::fs::metadata(&path).or_error(ErrorKind::Usage, failed)?.len();
            if length > MAX_SCRIPT_BYTES {
                return Err(Error::usage(format!("script is larger than 16 MiB: `{shown}`"))
                    .with_hint("put large data into the checkout and let the script read it there"));
            }
            let bytes = std::fs::read(&path).or_error(ErrorKind::Usage, failed)?;
            let script = Script::new(ScriptSource::File(shown.clone()), bytes)?;
            Command::from_script(script, &words(args)).map(Some)
        }
        CommandSource::ScriptBytes { script, args } => script_command(script, &args).map(Some),
    }
}

fn options(request: &RunRequest, command: bool) -> RunOptions {
    let mut options = RunOptions::default();
    options.no_sync = request.no_sync;
    options.sync_only = request.sync_only;
    options.checksum = request.checksum.is_some();
    options.force_sync_large = request.force_sync_large;
    options.full_resync = request.full_resync;
    options.capture_stdout = request.capture_stdout.is_some();
    options.capture_stderr = request.capture_stderr.is_some();
    options.capture_on_fail = request.capture_on_fail;
    options.lease_output = request.lease_output.is_some();
    options.stop_after = request.stop_after != StopAfter::Auto;
    options.command = command;
    options.downloads = request
        .downloads
        .iter()
        .filter_map(|text| text.split_once('='))
        .map(|(remote, _)| remote.to_owned())
        .collect();
    options
}

/// A session handle is worth nothing when its box may go before anybody reads it.
fn lease_output_policy(spec: &ProviderSpec, request: &RunRequest) -> Result<()> {
    if request.lease_output.is_none() {
        return Ok(());
    }
    if !spec.features().contains(crabbox_core::Feature::RunSession) {
        return Err(Error::usage(format!(
            "provider {} has no session handles for --lease-output",
            spec.name
        ))
        .with_hint("choose a provider with the feature run-session"));
    }
    let may_release = match request.stop_after {
        StopAfter::Never => false,
        StopAfter::Auto => request.id.is_none() && !request.keep,
        StopAfter::Always | StopAfter::Success | StopAfter::Failure => true,
    };
    if may_release {
        return Err(
            Error::usage("--lease-output needs a lease that this run does not release")
                .with_hint("add --keep, or --stop-after never"),
        );
    }
    Ok(())
}

/// What a preset adds to a run.
#[derive(Default)]
pub(crate) struct PresetEffect {
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) literal_words: BTreeSet<usize>,
}

impl Engine {
    fn expand_preset(&self, request: &mut RunRequest) -> Result<PresetEffect> {
        let Some(name) = request.preset.clone() else {
            if request.scenario.is_some() || !request.preset_vars.is_empty() {
                return Err(Error::usage("--scenario and --preset-var need a preset").with_hint("add --preset NAME"));
            }
            return Ok(PresetEffect::default());
        };
        if !matches!(request.command, CommandSource::None) {
            return Err(Error::usage("--preset brings its own command").with_hint("leave the command out"));
        }
        let mut variables = request.preset_vars.clone();
        if let Some(scenario) = &request.scenario {
            variables.insert("scenario".to_owned(), scenario.clone());
        }
        let preset = self.shared.config.config.preset(&name).ok_or_else(|| {
            Error::usage(format!("unknown preset: `{}`", name.escape_debug()))
                .with_hint("name one from `presets` or the profile's `presets` in your config")
        })?;
        let expanded = preset.expand(&name, &variables)?;
        request.preflight |= expanded.preflight;
        let mut literal_words = BTreeSet::new();
        request.command = match expanded.command {
            PresetCommand::Shell(line) => {
                self.info(format!("expanded preset {name}: {line}"));
                CommandSource::Shell(vec![line])
            }
            PresetCommand::Words(words) => {
                let texts = words.iter().map(|word| word.text.as_str());
                self.info(format!(
                    "expanded preset {name}: {}",
                    crabbox_evidence::command::join(texts)
                ));
                literal_words.extend(
                    words
                        .iter()
                        .enumerate()
                        .filter(|(_, word)| word.literal)
                        .map(|(index, _)| index),
                );
                CommandSource::Words(words.into_iter().map(|word| word.text).collect())
            }
        };
        Ok(PresetEffect {
            env: expanded.env,
            literal_words,
        })
    }

    /// The provider of the claim that an identifier stands for, without looking at the provider.
    fn claimed_provider(&self, identifier: &str) -> Result<Option<&'static ProviderSpec>> {
        match self.find_claim(identifier)? {
            Some(claim) => {
                let provider = Arc::clone(self.shared.registry.get(claim.provider_name())?);
                Ok(Some(provider.spec()))
            }
            None => Ok(None),
        }
    }
}
