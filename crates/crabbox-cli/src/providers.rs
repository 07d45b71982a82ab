//! The providers of this build. The lists are written by `cargo xtask gen` from the crates under `crates/providers`.

use std::sync::Arc;

use crabbox_core::Provider;

/// Names of every provider that this source tree can build, whether or not this build holds it.
pub const KNOWN: &[&str] = &[
    // <generated: provider names>
    "local",
    // </generated>
];

/// Every provider of this build, in alphabetical order.
pub fn compiled() -> Vec<Arc<dyn Provider>> {
    let providers: &[Arc<dyn Provider>] = &[
        // <generated: provider registration>
        #[cfg(feature = "provider-local")]
        Arc::new(crabbox_provider_local::provider()),
        // </generated>
    ];
    providers.to_vec()
}
