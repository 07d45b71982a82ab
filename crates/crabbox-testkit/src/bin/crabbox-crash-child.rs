//! Embeds the engine and the `local` provider, and kills itself at a named step.
//!
//! `crabbox-crash-child [--at STEP] WORKFLOW`, in the checkout to sync. Workflows are `run COMMAND…`,
//! `use LEASE COMMAND…`, `warmup`, `stop LEASE`, `cleanup` and `list`. A shell could
//! kill the real executable only at some moment; this one is killed right after the effect of exactly the step that is
//! asked for, by a signal that it cannot handle.

use std::ffi::OsString;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use crabbox_core::remote::{OutputSink, OutputStream};
use crabbox_core::{Error, Result};
use crabbox_engine::api::{ListRequest, RunRequest, StopRequest, WarmupRequest};
use crabbox_engine::{Engine, Event, EventSink, Registry, Step, process_environment};
use crabbox_provider_local::LocalProvider;

fn main() -> ExitCode {
    let registry = Registry::new().with(LocalProvider).with_fallback("local");
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    if let Some(code) = registry.dispatch_helper(&arguments) {
        return code;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let arguments = arguments
        .iter()
        .map(|argument| argument.to_string_lossy().into_owned())
        .collect();
    match runtime.map_err(|cause| Error::other("no runtime").with_source(cause)) {
        Ok(runtime) => runtime.block_on(async {
            workflow(registry, arguments)
                .await
                .unwrap_or_else(|error| failed(&error))
        }),
        Err(error) => failed(&error),
    }
}

fn failed(error: &Error) -> ExitCode {
    // Whoever reads this has closed it, or it is read.
    let _unread = writeln!(std::io::stderr(), "{error}");
    ExitCode::from(error.kind().exit_code())
}

async fn workflow(registry: Registry, mut arguments: Vec<String>) -> Result<ExitCode> {
    let mut at = None;
    if arguments.first().is_some_and(|word| word == "--at") {
        let name = arguments.get(1).cloned().unwrap_or_default();
        let step = Step::ALL.iter().find(|step| step.as_str() == name);
        at = Some(*step.ok_or_else(|| Error::usage(format!("no such step: `{name}`")))?);
        arguments.drain(..2);
    }
    let engine = Engine::open_with(registry, Path::new("."), process_environment())?
        .events(Arc::new(Killer(at)))
        .build();
    let mut words = arguments.into_iter();
    let word = words.next().unwrap_or_default();
    let rest: Vec<String> = words.collect();
    let code = match word.as_str() {
        "run" => run(&engine, None, rest).await?,
        "use" => run(&engine, rest.first().cloned(), rest.into_iter().skip(1).collect()).await?,
        "warmup" => {
            let outcome = engine.warmup(WarmupRequest::default()).await?;
            say(outcome.lease.lease.as_str());
            0
        }
        "stop" => {
            let mut request = StopRequest::default();
            request.id = rest.into_iter().next().unwrap_or_default();
            engine.stop(request).await?;
            0
        }
        "cleanup" => {
            let report = engine.cleanup(false).await?;
            for item in &report.items {
                say(&format!("{} {} {}", item.action, item.server, item.reason));
            }
            if let Some(item) = report.items.into_iter().find(|item| item.error.is_some()) {
                return Err(item.error.unwrap_or_else(|| Error::other("it was just seen")));
            }
            0
        }
        "list" => {
            for view in engine.list(ListRequest::default()).await?.leases {
                say(view.machine.labels.get("lease").unwrap_or("-"));
            }
            0
        }
        other => return Err(Error::usage(format!("no such workflow: `{other}`"))),
    };
    Ok(ExitCode::from(code))
}

async fn run(engine: &Engine, lease: Option<String>, words: Vec<String>) -> Result<u8> {
    let mut request = RunRequest::command(words);
    request.id = lease;
    let outcome = engine.run(request, &mut Through).await?;
    match outcome.error {
        Some(error) => Err(error),
        None => Ok(outcome.exit_code),
    }
}

fn say(line: &str) {
    // Whoever reads this has closed it, or it is read.
    let _unread = writeln!(std::io::stdout(), "{line}");
}

/// Kills this process at a step.
struct Killer(Option<Step>);

impl EventSink for Killer {
    fn event(&self, event: &Event) {
        if matches!(event, Event::Step(step) if Some(*step) == self.0) {
            // It cannot fail, and what comes after it is never reached.
            let _dead = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        }
    }
}

/// Passes output through.
struct Through;

#[async_trait]
impl OutputSink for Through {
    async fn write(&mut self, stream: OutputStream, chunk: Bytes) -> Result<()> {
        let written = match stream {
            OutputStream::Stdout => std::io::stdout().write_all(&chunk),
            OutputStream::Stderr => std::io::stderr().write_all(&chunk),
        };
        written.map_err(|cause| Error::other("output").with_source(cause))
    }
}
