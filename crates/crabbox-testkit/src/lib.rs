//! What tests of Crabbox are built from, and the suite that every provider passes.
//!
//! - [`behaviour`]: one list of behaviours of the contract, each a public function over a [`Fixture`](behaviour::Fixture), so
//!   that a provider outside this tree can run it too. [`delegated_behaviour!`] makes one test of each.
//! - [`program`]: what a person does with the built executable, from the first run to the last cleanup.
//!   [`program_behaviour!`] makes one test of each.
//! - [`TestEnv`]: the built executable in an empty environment with a home of its own.
//! - [`LeakGuard`] and [`SecretScan`]: nothing is left behind, and nothing secret is seen.
//! - [`Repository`]: checkouts to sync.
//!
//! Everything here fails a test by panicking.

pub mod behaviour;
mod environment;
mod invocation;
mod leaks;
pub mod processes;
pub mod program;
mod repository;
mod secrets;
mod snapshot;

#[doc(hidden)]
pub use insta;

pub use environment::{TestEnv, runtime};
pub use invocation::{Finished, Invocation, Running};
pub use leaks::LeakGuard;
pub use repository::Repository;
pub use secrets::SecretScan;
pub use snapshot::Normaliser;

/// Random lower-case hex digits, two for each byte.
pub fn random_hex(bytes: usize) -> String {
    let mut buffer = vec![0; bytes];
    getrandom::fill(&mut buffer).expect("the system gives random bytes");
    buffer.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Looks again and again until something holds, for at most 30 seconds.
///
/// # Panics
/// When it does not hold in time; `what` says what was waited for.
pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while !holds().await {
        assert!(std::time::Instant::now() < deadline, "waited in vain: {what}");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}
