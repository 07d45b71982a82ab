//! What provider crates share: child processes that cannot run away, and HTTP that cannot leave its origin.
//!
//! The two transports are the real ones behind [`Runtime`](crabbox_core::Runtime): [`Subprocess`] for
//! [`CommandRunner`](crabbox_core::runtime::CommandRunner) and `Http` (feature `http-client`) for
//! [`HttpTransport`](crabbox_core::runtime::HttpTransport). Provider crates never build them; they wrap what `Runtime`
//! holds, HTTP in [`Confined`].

mod confined;
#[cfg(feature = "http-client")]
mod http_client;
mod subprocess;

pub use confined::{Confined, MAX_REDIRECTS};
#[cfg(feature = "http-client")]
pub use http_client::{Http, Timeouts};
pub use subprocess::Subprocess;
