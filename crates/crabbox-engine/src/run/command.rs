//! The command of a run: what prepares it, and the command itself.

use std::collections::BTreeMap;
use std::time::Instant;

use crabbox_core::remote::{ExecRequest, ExecStatus, OutputSink, Stdin, Upload};
use crabbox_core::{Error, Result};
use crabbox_evidence::command::{Command, Delivery, Invocation, Program, Shell};
use crabbox_evidence::env::Reserved;
use crabbox_evidence::junit::Discovery;
use crabbox_evidence::private_file::PrivateFile;
use crabbox_evidence::stream::OutputCollector;
use crabbox_state::runs::EventInput;

use super::Run;
use super::output::FanOut;
use crate::event::Event;
use crate::step::Step;

impl Run<'_> {
    /// Prepares and runs the command. It is started at most once.
    pub(super) async fn command(&mut self, command: &Command, output: &mut dyn OutputSink) -> Result<ExecStatus> {
        self.preflight().await?;
        self.upload_script(command).await?;
        self.mark_results().await?;
        if !self.plan.forwarding_lines.is_empty() {
            self.engine.emit(Event::EnvironmentForwarded {
                lines: self.plan.forwarding_lines.clone(),
            });
        }
        let env = self.environment();
        let request = self.request(command, env);

        let capture = |path: &Option<std::path::PathBuf>| path.as_deref().map(PrivateFile::create_live).transpose();
        let (stdout, stderr) = (capture(&self.plan.capture_stdout)?, capture(&self.plan.capture_stderr)?);
        for (name, path) in [
            ("stdout", &self.plan.capture_stdout),
            ("stderr", &self.plan.capture_stderr),
        ] {
            if let Some(path) = path {
                self.engine.info(format!("capturing {name} to {}", path.display()));
            }
        }
        self.record.event(EventInput::new("command.started"))?;
        self.engine.emit(Event::CommandStarted {
            host: self.lease.info.host_or_provider().to_owned(),
            display: command.display().to_owned(),
        });
        let started = Instant::now();
        let mut sink = FanOut::new(
            self.engine,
            output,
            OutputCollector::new(stdout, stderr, started),
            &self.record,
        );
        self.engine.step(Step::CommandStarted);
        let ended = self.remote.exec(request, &mut sink).await;
        self.engine.step(Step::CommandFinished);
        let mut collected = sink.finish();
        let elapsed = started.elapsed();
        if let Ok(status) = &ended {
            self.engine.emit(Event::CommandFinished {
                code: status.code,
                elapsed,
            });
        }
        // What the command printed is kept even when a capture broke; the broken capture still fails the run.
        let broken = std::mem::take(&mut collected.capture_errors).into_iter().next();
        self.output = Some(collected);
        match (ended, broken) {
            (Ok(_), Some(error)) => Err(error),
            (ended, _) => ended,
        }
    }

    fn request(&self, command: &Command, env: BTreeMap<String, String>) -> ExecRequest {
        // A program with its arguments needs no shell: the box starts it where and with what it should run.
        let argv = command.direct().unwrap_or_else(|| {
            let invocation = Invocation {
                workdir: self.workdir.to_string(),
                env_files: Vec::new(),
                env: env.clone(),
                delivery: Delivery::Transport,
            };
            command.wrap(&invocation, Shell::Auto)
        });
        let stdin = self.plan.stdin.clone().map_or(Stdin::Empty, Stdin::Bytes);
        ExecRequest::new(argv)
            .in_dir(self.workdir.clone())
            .with_env(env)
            .with_stdin(stdin)
            .with_cancel(self.engine.shared.cancel.clone())
    }

    fn environment(&self) -> BTreeMap<String, String> {
        let reserved = Reserved {
            lease_id: self.lease.id().to_string(),
            run_id: self.plan.run.to_string(),
            slug: self
                .lease
                .info
                .slug
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
        };
        self.plan
            .forwarding
            .clone()
            .with_box(&BTreeMap::new(), &reserved)
            .effective()
    }

    async fn upload_script(&self, command: &Command) -> Result<()> {
        let Program::Script { script, .. } = command.program() else {
            return Ok(());
        };
        let path = self.workdir.join(script.remote_path())?;
        let upload = Upload::from_bytes(script.bytes().to_vec(), 0o700);
        let uploaded = self.remote.upload(&path, upload);
        self.engine
            .unless_cancelled(uploaded)
            .await
            .map_err(|error| error.context("upload script"))?;
        self.record.event(EventInput::new("script.uploaded"))?;
        let source = match script.source() {
            crabbox_evidence::command::ScriptSource::File(path) => path.as_str(),
            crabbox_evidence::command::ScriptSource::Stdin => "stdin",
        };
        self.engine.info(format!("uploaded script {source} -> {path}"));
        Ok(())
    }

    /// Touches the marker that tells this run's reports from older ones.
    async fn mark_results(&self) -> Result<()> {
        if !self.plan.results.auto {
            return Ok(());
        }
        let request = ExecRequest::script(&Discovery::marker_script(), [""; 0]).in_dir(self.workdir.clone());
        let marked = self.engine.unless_cancelled(self.remote.output(request)).await;
        marked
            .map(drop)
            .map_err(|error: Error| error.context("mark the start of the run"))
    }
}
