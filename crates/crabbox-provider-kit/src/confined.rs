//! HTTP that cannot leave its origin.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use crabbox_core::error::{Error, Result};
use crabbox_core::runtime::HttpTransport;
use crabbox_core::secret::Origin;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST, LOCATION, TRANSFER_ENCODING};
use http::{Method, Request, Response, StatusCode, Uri};

/// Most redirects that are followed for one request.
pub const MAX_REDIRECTS: usize = 10;

/// A transport that sends to one origin only and follows redirects within it.
///
/// # Behaviour
/// - A request to another scheme, host or port is refused before anything is sent.
/// - A redirect to another origin is an error: a credential in a header never travels with it.
/// - At most [`MAX_REDIRECTS`] are followed. 303, and 301 and 302 of a `POST`, go on as `GET` without a body; 307 and 308
///   repeat the request; 301 and 302 of other methods that change something are answers, as are redirects without a
///   `Location`.
/// - Error messages name method, origin and path, never a query.
#[derive(Clone)]
pub struct Confined {
    origin: Origin,
    authority: Authority,
    transport: Arc<dyn HttpTransport>,
}

/// Scheme, host and port in their normal form.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Authority {
    scheme: String,
    host: String,
    port: u16,
}

impl Confined {
    /// Confines a transport to an origin, which is https or on this machine.
    ///
    /// # Errors
    /// `Usage` when the origin's host is not one that a URI can carry.
    pub fn new(origin: Origin, transport: Arc<dyn HttpTransport>) -> Result<Self> {
        let authority = origin
            .as_str()
            .parse::<Uri>()
            .ok()
            .and_then(|uri| Authority::of(&uri))
            .ok_or_else(|| Error::usage(format!("not a usable address: `{origin}`")))?;
        Ok(Self {
            origin,
            authority,
            transport,
        })
    }

    /// The origin.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    fn admit(&self, method: &Method, uri: &Uri) -> Result<()> {
        if Authority::of(uri).as_ref() == Some(&self.authority) && !has_user_information(uri) {
            return Ok(());
        }
        Err(
            Error::other(format!("refused to send {method} {} from {}", place(uri), self.origin)).with_hint(
                "requests and redirects stay within the configured address; change it if the service has moved",
            ),
        )
    }
}

impl std::fmt::Debug for Confined {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Confined")
            .field("origin", &self.origin)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl HttpTransport for Confined {
    async fn send(&self, request: Request<Bytes>, limit_bytes: usize) -> Result<Response<Bytes>> {
        let mut request = request;
        for _ in 0..=MAX_REDIRECTS {
            self.admit(request.method(), request.uri())?;
            let again = request.clone();
            let response = self.transport.send(request, limit_bytes).await?;
            match next(again, &response)? {
                Some(redirected) => request = redirected,
                None => return Ok(response),
            }
        }
        Err(Error::other(format!("too many redirects at {}", place(request.uri()))))
    }
}

impl Authority {
    fn of(uri: &Uri) -> Option<Self> {
        let scheme = uri.scheme_str()?.to_ascii_lowercase();
        let port = uri.port_u16().or(match scheme.as_str() {
            "https" => Some(443),
            "http" => Some(80),
            _ => None,
        })?;
        Some(Self {
            scheme,
            host: uri.host()?.to_ascii_lowercase(),
            port,
        })
    }
}

fn has_user_information(uri: &Uri) -> bool {
    uri.authority()
        .is_some_and(|authority| authority.as_str().contains('@'))
}

/// Scheme, host, port and path, fit for a message.
pub(crate) fn place(uri: &Uri) -> String {
    crabbox_core::secret::display_url(&uri.to_string())
}

/// The request that a redirect asks for.
fn next(mut request: Request<Bytes>, response: &Response<Bytes>) -> Result<Option<Request<Bytes>>> {
    let drops_body = match response.status() {
        StatusCode::SEE_OTHER => request.method() != Method::HEAD,
        StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND if request.method() == Method::POST => true,
        StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND if !request.method().is_safe() => return Ok(None),
        StatusCode::MOVED_PERMANENTLY
        | StatusCode::FOUND
        | StatusCode::TEMPORARY_REDIRECT
        | StatusCode::PERMANENT_REDIRECT => false,
        _ => return Ok(None),
    };
    let Some(location) = response.headers().get(LOCATION) else {
        return Ok(None);
    };
    let target = location
        .to_str()
        .ok()
        .and_then(|location| resolve(request.uri(), location))
        .ok_or_else(|| {
            Error::other(format!(
                "redirect to an address that cannot be read, from {}",
                place(request.uri())
            ))
        })?;
    *request.uri_mut() = target;
    request.headers_mut().remove(HOST);
    if drops_body {
        *request.method_mut() = Method::GET;
        *request.body_mut() = Bytes::new();
        for header in [CONTENT_LENGTH, CONTENT_TYPE, CONTENT_ENCODING, TRANSFER_ENCODING] {
            request.headers_mut().remove(header);
        }
    }
    Ok(Some(request))
}

/// Resolves a `Location` against the address it came from.
fn resolve(base: &Uri, location: &str) -> Option<Uri> {
    let location = location.split('#').next().unwrap_or_default();
    let scheme = base.scheme_str()?;
    let authority = base.authority()?;
    let absolute = if location.contains("://") && location.split("://").next().is_some_and(is_scheme) {
        location.to_owned()
    } else if let Some(rest) = location.strip_prefix("//") {
        format!("{scheme}://{rest}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else if location.is_empty() {
        return Some(base.clone());
    } else if let Some(query) = location.strip_prefix('?') {
        format!("{scheme}://{authority}{}?{query}", base.path())
    } else {
        let directory = base.path().rsplit_once('/').map_or("", |(directory, _)| directory);
        format!("{scheme}://{authority}{directory}/{location}")
    };
    absolute.parse().ok()
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Answers from a script and remembers what it was asked.
    struct Script {
        answers: Mutex<Vec<(u16, &'static str)>>,
        asked: Mutex<Vec<String>>,
    }

    #[async_trait]
    impl HttpTransport for Script {
        async fn send(&self, request: Request<Bytes>, _limit_bytes: usize) -> Result<Response<Bytes>> {
            let line = format!("{} {} {}", request.method(), request.uri(), request.body().len());
            self.asked.lock().unwrap().push(line);
            let mut answers = self.answers.lock().unwrap();
            let (status, location) = if answers.len() > 1 {
                answers.remove(0)
            } else {
                answers[0]
            };
            let mut response = Response::builder().status(status);
            if !location.is_empty() {
                response = response.header(LOCATION, location);
            }
            Ok(response.body(Bytes::new()).unwrap())
        }
    }

    async fn send(
        method: Method,
        uri: &str,
        answers: &[(u16, &'static str)],
    ) -> (Result<Response<Bytes>>, Vec<String>) {
        let script = Arc::new(Script {
            answers: Mutex::new(answers.to_vec()),
            asked: Mutex::default(),
        });
        let origin = Origin::parse("https://api.acme.test/v1").unwrap();
        let confined = Confined::new(origin, script.clone()).unwrap();
        let request = Request::builder()
            .method(method)
            .uri(uri)
            .header("authorization", "hunter2")
            .body(Bytes::from("body"));
        let result = confined.send(request.unwrap(), 1024).await;
        let asked = script.asked.lock().unwrap().clone();
        (result, asked)
    }

    #[tokio::test]
    async fn nothing_is_sent_elsewhere() {
        for uri in [
            "https://evil.test/v1",
            "http://api.acme.test/v1",
            "https://api.acme.test:444/",
            "https://user:hunter2@api.acme.test/",
            "/v1/servers",
        ] {
            let (result, asked) = send(Method::GET, uri, &[(200, "")]).await;
            let error = result.unwrap_err();
            assert!(asked.is_empty(), "{uri}");
            assert!(!error.to_string().contains("hunter2"), "{error}");
            assert!(error.hint().is_some());
        }
    }

    #[tokio::test]
    async fn redirects_stay_within_the_origin() {
        for elsewhere in [
            "https://evil.test/?k=hunter2",
            "//evil.test/",
            "http://api.acme.test/v1",
            "https://api.acme.test@evil.test/",
            "https://api.acme.test.evil.test/",
        ] {
            let (result, asked) = send(Method::GET, "https://api.acme.test/v1/a", &[(302, elsewhere)]).await;
            let error = result.unwrap_err();
            assert_eq!(asked.len(), 1, "{elsewhere}");
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
        let answers = [
            (302, "/v2/b?x=1"),
            (307, "c"),
            (301, "https://API.acme.test:443/d#part"),
            (200, ""),
        ];
        let (result, asked) = send(Method::GET, "https://api.acme.test/v1/a", &answers).await;
        assert_eq!(result.unwrap().status(), 200);
        assert_eq!(
            asked,
            [
                "GET https://api.acme.test/v1/a 4",
                "GET https://api.acme.test/v2/b?x=1 4",
                "GET https://api.acme.test/v2/c 4",
                "GET https://API.acme.test:443/d 4",
            ]
        );
    }

    #[tokio::test]
    async fn methods_change_as_the_status_says() {
        let second = async |method: Method, status: u16| {
            let answers = [(status, "/b"), (200, "")];
            let (result, asked) = send(method, "https://api.acme.test/a", &answers).await;
            result.map(|response| (response.status().as_u16(), asked.get(1).cloned().unwrap_or_default()))
        };
        let got = |line: &str| (200, line.replace("/b", "https://api.acme.test/b"));
        assert_eq!(second(Method::POST, 303).await.unwrap(), got("GET /b 0"));
        assert_eq!(second(Method::POST, 302).await.unwrap(), got("GET /b 0"));
        assert_eq!(second(Method::POST, 307).await.unwrap(), got("POST /b 4"));
        assert_eq!(second(Method::DELETE, 308).await.unwrap(), got("DELETE /b 4"));
        assert_eq!(second(Method::DELETE, 302).await.unwrap(), (302, String::new()));
    }

    #[tokio::test]
    async fn loops_end() {
        let (result, asked) = send(Method::GET, "https://api.acme.test/a", &[(302, "/a")]).await;
        assert_eq!(
            result.unwrap_err().to_string(),
            "too many redirects at https://api.acme.test/a"
        );
        assert_eq!(asked.len(), MAX_REDIRECTS + 1);
        let (result, _) = send(Method::GET, "https://api.acme.test/a", &[(302, "")]).await;
        assert_eq!(result.unwrap().status(), 302);
    }
}
