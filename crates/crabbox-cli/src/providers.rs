//! The providers of this build. The list is written by `cargo xtask gen` from the crates under `crates/providers`.

use crabbox_engine::Registry;

/// Every provider of this build, in alphabetical order, with the embedded default.
pub fn registry() -> Registry {
    let registry = Registry::new();
    // <generated: provider registration>
    #[cfg(feature = "provider-local")]
    let registry = registry.with(crabbox_provider_local::LocalProvider);
    // </generated>
    registry.with_fallback("local")
}
