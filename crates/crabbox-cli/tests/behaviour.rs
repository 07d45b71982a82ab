//! What a person does with the executable, with the embedded default provider and nothing configured.
#![cfg(target_os = "linux")]
#![cfg(feature = "provider-local")]

use crabbox_testkit::program::Program;

crabbox_testkit::program_behaviour!(program);

fn program() -> Program {
    Program {
        binary: env!("CARGO_BIN_EXE_crabbox").into(),
        config: String::new(),
    }
}
