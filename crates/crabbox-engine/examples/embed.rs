//! A program of its own that runs a command in a box: `cargo run --package crabbox-engine --example embed`.

use std::process::ExitCode;

use crabbox_core::remote::Capture;
use crabbox_engine::api::RunRequest;
use crabbox_engine::{Engine, Registry};
use crabbox_provider_local::LocalProvider;

fn main() -> crabbox_core::Result<ExitCode> {
    let registry = Registry::new().with(LocalProvider).with_fallback("local");
    if let Some(code) = registry.dispatch_helper(&std::env::args_os().skip(1).collect::<Vec<_>>()) {
        return Ok(code);
    }
    let engine = Engine::open(registry, ".")?;
    let mut output = Capture::new(1 << 20);
    let ran = engine.run(RunRequest::command(["uname", "-a"]), &mut output);
    let outcome = tokio::runtime::Runtime::new()
        .expect("threads can be started")
        .block_on(ran)?;
    assert!(
        output.stdout().starts_with(b"Linux crabbox"),
        "the box has a name of its own"
    );
    Ok(ExitCode::from(outcome.exit_code))
}
