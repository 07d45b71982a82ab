//! HTTP on real sockets.

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use crabbox_core::error::{Error, ErrorKind, IntoError as _, Result};
use crabbox_core::runtime::{Environment, HttpTransport};
use http::{Method, Request, Response};
use reqwest::{Client, NoProxy, Proxy, redirect, retry};
use rustls_platform_verifier::BuilderVerifierExt as _;

use crate::confined::place;

/// How long one request may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Until a connection stands, TLS included.
    pub connect: Duration,
    /// Between two pieces of an answer, and until its first.
    pub read: Duration,
    /// The whole request.
    pub total: Duration,
}

impl Default for Timeouts {
    /// 10 s to connect, 60 s of silence, 5 min in all.
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            read: Duration::from_secs(60),
            total: Duration::from_secs(300),
        }
    }
}

/// Sends HTTP/1.1 requests: TLS by rustls with the operating system's trust, connections kept and used again.
///
/// # Behaviour
/// - Redirects are answers; [`Confined`](crate::Confined) follows those that may be followed.
/// - Nothing is retried. An error is `retryable` when nothing was sent, or when the method cannot change anything; it is
///   `outcome_unknown` when a request that may change something was sent and its answer was lost.
/// - An answer longer than its limit is an error as soon as the limit is passed, whatever its declared length.
/// - Error messages hold method, origin and path, never a query, a header or user information.
#[derive(Clone, Debug)]
pub struct Http {
    client: Client,
}

impl Http {
    /// A transport that uses the proxies that `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`, in either case, name
    /// in the given environment.
    ///
    /// # Errors
    /// `Usage` for a proxy address that cannot be read, `Prerequisite` when this machine's trusted certificates cannot be
    /// loaded.
    pub fn new(environment: &Environment, timeouts: Timeouts) -> Result<Self> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(rustls::ConfigBuilder::with_platform_verifier)
            .or_error(ErrorKind::Prerequisite, || {
                "load this machine's trusted certificates".to_owned()
            })?
            .with_no_client_auth();
        let mut builder = Client::builder()
            .tls_backend_preconfigured(tls)
            .user_agent(concat!("crabbox/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::none())
            .retry(retry::never())
            .referer(false)
            .connect_timeout(timeouts.connect)
            .read_timeout(timeouts.read)
            .timeout(timeouts.total)
            .no_proxy();
        for proxy in proxies(environment)? {
            builder = builder.proxy(proxy);
        }
        let client = builder
            .build()
            .or_error(ErrorKind::Other, || "set up HTTP".to_owned())?;
        Ok(Self { client })
    }
}

#[async_trait]
impl HttpTransport for Http {
    async fn send(&self, request: Request<Bytes>, limit_bytes: usize) -> Result<Response<Bytes>> {
        let call = Call {
            method: request.method().clone(),
            place: place(request.uri()),
        };
        let request = reqwest::Request::try_from(request).map_err(|error| call.unsendable(error))?;
        let mut answer = self.client.execute(request).await.map_err(|error| call.failed(error))?;
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = answer.status();
        *response.version_mut() = answer.version();
        *response.headers_mut() = std::mem::take(answer.headers_mut());
        let mut body = BytesMut::new();
        while let Some(chunk) = answer.chunk().await.map_err(|error| call.failed(error))? {
            if chunk.len() > limit_bytes - body.len() {
                // Asking again would bring the same answer, so not even a safe call is retryable.
                let error = Error::other(format!("answer to {call} is longer than {limit_bytes} bytes"));
                return Err(call.lost(error).with_facts(|facts| facts.retryable = false));
            }
            body.extend_from_slice(&chunk);
        }
        *response.body_mut() = body.freeze();
        Ok(response)
    }
}

/// What is being sent, fit for a message.
struct Call {
    method: Method,
    place: String,
}

impl Call {
    fn unsendable(&self, error: reqwest::Error) -> Error {
        Error::other(format!("cannot send {self}")).with_source(error.without_url())
    }

    fn failed(&self, error: reqwest::Error) -> Error {
        let nothing_sent = error.is_connect();
        let what = if error.is_timeout() {
            "no answer in time to"
        } else {
            "no answer to"
        };
        let message = if nothing_sent {
            format!("cannot connect for {self}")
        } else {
            format!("{what} {self}")
        };
        let failure = match cause(&error) {
            Some(cause) => Error::other(format!("{message}: {cause}")),
            None => Error::other(message),
        };
        if nothing_sent {
            failure.with_facts(|facts| facts.retryable = true)
        } else {
            self.lost(failure)
        }
    }

    /// The request went out and no whole answer came back.
    fn lost(&self, error: Error) -> Error {
        let safe = self.method.is_safe();
        error.with_facts(|facts| {
            facts.retryable = safe;
            facts.outcome_unknown = !safe;
        })
    }
}

impl std::fmt::Display for Call {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} {}", self.method, self.place)
    }
}

/// The innermost cause, which is the system's or the TLS library's own words. The layers above it say the same again, and
/// the outermost repeats the whole address.
fn cause(error: &reqwest::Error) -> Option<String> {
    let mut innermost = error.source()?;
    while let Some(deeper) = innermost.source() {
        innermost = deeper;
    }
    Some(innermost.to_string())
}

fn proxies(environment: &Environment) -> Result<Vec<Proxy>> {
    let get = |name: &'static str| {
        let lower = name.to_ascii_lowercase();
        environment
            .get(&lower)
            .or_else(|| environment.get(name))
            .map(|value| (name, value.to_owned()))
    };
    let exceptions = get("NO_PROXY").and_then(|(_, value)| NoProxy::from_string(&value));
    let all = get("ALL_PROXY");
    let mut found = Vec::new();
    for (named, make) in [
        (
            get("HTTPS_PROXY").or_else(|| all.clone()),
            Proxy::https as fn(String) -> reqwest::Result<Proxy>,
        ),
        (
            get("HTTP_PROXY").or_else(|| all.clone()),
            Proxy::http as fn(String) -> reqwest::Result<Proxy>,
        ),
    ] {
        let Some((name, value)) = named else { continue };
        // The address may hold a password, so neither it nor an error that repeats it is shown.
        let proxy = make(value).map_err(|_| {
            Error::usage(format!("not a usable proxy address: `{name}`"))
                .with_hint("write it like http://proxy.example.com:3128")
        })?;
        found.push(proxy.no_proxy(exceptions.clone()));
    }
    Ok(found)
}
