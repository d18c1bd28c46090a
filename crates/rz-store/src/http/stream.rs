//! One GET on a thread of its own, so that a caller who waits can report and cancel: redirects are followed
//! here, and the access token goes to no other host than the one it is meant for.

use std::{
    fs,
    io::Read,
    path::Path,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread,
    time::Duration,
};

use ureq::{
    Agent, Body, Proxy,
    http::{HeaderMap, Response, Uri},
    tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem},
};

use super::{Again, Failure};
use crate::{Config, StoreError, error::one_line};

const MOST_REDIRECTS: usize = 10;

/// What is asked for.
pub(super) struct Request {
    /// How messages call it.
    pub(super) origin: String,
    pub(super) url: String,
    pub(super) token: Option<String>,
    /// First byte wanted.
    pub(super) start: u64,
    /// What the bytes before `start` belong to.
    pub(super) validator: Option<String>,
}

/// What comes back, in this order: a head, chunks, the end; or a failure instead of any of them.
pub(super) enum Event {
    Head(Head),
    Chunk(Vec<u8>),
    End,
    Failed(Failure),
}

/// What matters of an answer's head.
pub(super) struct Head {
    pub(super) status: u16,
    /// Length of the body.
    pub(super) length: Option<u64>,
    /// First byte and size of the whole, of a partial answer.
    pub(super) range: Option<(u64, u64)>,
    /// A strong entity tag.
    pub(super) etag: Option<String>,
    pub(super) modified: Option<String>,
    /// Whether the body is not the plain file.
    pub(super) encoded: bool,
    pub(super) retry_after: Option<Duration>,
    /// The hub's own words about an error.
    pub(super) message: Option<String>,
    /// The SHA-256 that the hub states for a large file.
    pub(super) linked_sha256: Option<String>,
}

/// A client with the settings of `config`.
pub(super) fn agent(config: &Config) -> Result<Agent, StoreError> {
    let mut builder = Agent::config_builder()
        .user_agent(concat!("rz-store/", env!("CARGO_PKG_VERSION")))
        .accept_encoding("identity")
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .proxy(proxy(config)?)
        .timeout_resolve(Some(config.connect_timeout))
        .timeout_connect(Some(config.connect_timeout))
        .timeout_recv_response(Some(config.read_timeout))
        .timeout_per_read(Some(config.read_timeout));
    if let Some(path) = &config.ca_file {
        let certificates = certificates(path).map_err(|problem| StoreError::Setting {
            setting: "certificate file (SSL_CERT_FILE)",
            problem: format!("'{}' {problem}", path.display()),
        })?;
        builder = builder.tls_config(TlsConfig::builder().root_certs(RootCerts::from(certificates)).build());
    }
    Ok(builder.build().new_agent())
}

/// Starts the request. Dropping the receiver ends it at its next sign of life.
pub(super) fn start(agent: Agent, request: Request) -> Result<Receiver<Event>, StoreError> {
    let (events, receiver) = sync_channel(16);
    let thread = thread::Builder::new().name("rz-download".into());
    let spawned = thread.spawn(move || {
        if let Err(failure) = run(&agent, &request, &events) {
            // Nobody listens any more: the caller gave up.
            let _ = events.send(Event::Failed(failure));
        }
    });
    spawned.map_err(|e| StoreError::io("start a thread for", "the download", e))?;
    Ok(receiver)
}

fn run(agent: &Agent, request: &Request, events: &SyncSender<Event>) -> Result<(), Failure> {
    let (head, body) = open(agent, request)?;
    let success = matches!(head.status, 200 | 206);
    if events.send(Event::Head(head)).is_err() || !success {
        return Ok(());
    }
    let mut body = body.into_reader();
    loop {
        let mut chunk = vec![0; 1 << 15];
        let n = match body.read(&mut chunk) {
            Ok(n) => n,
            Err(e) => return Err(explain(&request.origin, ureq::Error::from(e))),
        };
        chunk.truncate(n);
        let event = if n == 0 { Event::End } else { Event::Chunk(chunk) };
        if events.send(event).is_err() || n == 0 {
            return Ok(());
        }
    }
}

/// Follows redirects to an answer.
fn open(agent: &Agent, request: &Request) -> Result<(Head, Body), Failure> {
    let origin = &request.origin;
    let mut url: Uri = request.url.parse().map_err(|_| {
        let problem = format!("'{}' is not an address", one_line(&request.url, 200));
        StoreError::Setting { setting: "endpoint (HF_ENDPOINT)", problem }
    })?;
    let home = host(&url);
    let mut linked_sha256 = None;
    for _ in 0..=MOST_REDIRECTS {
        let mut get = agent.get(url.clone());
        if request.start > 0 {
            get = get.header("range", format!("bytes={}-", request.start));
            if let Some(validator) = &request.validator {
                get = get.header("if-range", validator);
            }
        }
        if let Some(token) = request.token.as_ref().filter(|_| host(&url) == home) {
            get = get.header("authorization", format!("Bearer {token}"));
        }
        let response = get.call().map_err(|e| explain(origin, e))?;
        linked_sha256 = linked_sha256.or_else(|| stated_sha256(response.headers()));
        if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
            let head = head(&response, linked_sha256);
            return Ok((head, response.into_body()));
        }
        let location = text(response.headers(), "location").unwrap_or_default();
        let next = join(&url, &location).ok_or_else(|| {
            Failure::network(
                origin,
                Again::No,
                format!("redirected to '{}', which is no address", one_line(&location, 200)),
            )
        })?;
        if url.scheme_str() == Some("https") && next.scheme_str() != Some("https") {
            let detail = format!("redirected to '{}', which is not encrypted", one_line(&location, 200));
            return Err(Failure::network(origin, Again::No, detail));
        }
        url = next;
    }
    Err(Failure::network(origin, Again::No, format!("redirected more than {MOST_REDIRECTS} times")))
}

fn head(response: &Response<Body>, linked_sha256: Option<String>) -> Head {
    let headers = response.headers();
    Head {
        status: response.status().as_u16(),
        length: text(headers, "content-length").and_then(|v| v.parse().ok()),
        range: text(headers, "content-range").and_then(|v| content_range(&v)),
        etag: text(headers, "etag").filter(|v| v.starts_with('"')),
        modified: text(headers, "last-modified"),
        encoded: text(headers, "content-encoding").is_some_and(|v| v != "identity"),
        retry_after: text(headers, "retry-after").and_then(|v| v.parse().ok()).map(Duration::from_secs),
        message: text(headers, "x-error-message"),
        linked_sha256,
    }
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name)?.to_str().ok().map(|value| value.trim().to_owned())
}

fn stated_sha256(headers: &HeaderMap) -> Option<String> {
    let tag = text(headers, "x-linked-etag")?.trim_matches('"').to_ascii_lowercase();
    (tag.len() == 64 && tag.bytes().all(|b| b.is_ascii_hexdigit())).then_some(tag)
}

/// `bytes 100-199/200` is (100, 200).
fn content_range(value: &str) -> Option<(u64, u64)> {
    let (range, total) = value.strip_prefix("bytes ")?.split_once('/')?;
    let (start, _) = range.split_once('-')?;
    Some((start.trim().parse().ok()?, total.trim().parse().ok()?))
}

/// Scheme and authority: what a token is meant for.
fn host(url: &Uri) -> (Option<String>, Option<String>) {
    let lower = |text: &str| text.to_ascii_lowercase();
    (url.scheme_str().map(lower), url.authority().map(|a| lower(a.as_str())))
}

/// The address that `location` means on a page at `base`.
fn join(base: &Uri, location: &str) -> Option<Uri> {
    if location.is_empty() {
        return None;
    }
    let scheme = base.scheme_str()?;
    let authority = base.authority()?;
    let absolute = if location.contains("://") {
        location.to_owned()
    } else if let Some(rest) = location.strip_prefix("//") {
        format!("{scheme}://{rest}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else {
        let folder = base.path().rsplit_once('/').map_or("", |(folder, _)| folder);
        format!("{scheme}://{authority}{folder}/{location}")
    };
    let uri: Uri = absolute.parse().ok()?;
    (matches!(uri.scheme_str(), Some("http" | "https")) && uri.authority().is_some()).then_some(uri)
}

fn certificates(path: &Path) -> Result<Vec<Certificate<'static>>, String> {
    let pem = fs::read(path).map_err(|e| format!("cannot be read: {e}"))?;
    let certificates: Vec<_> = parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    if certificates.is_empty() { Err("holds no PEM certificate".into()) } else { Ok(certificates) }
}

fn proxy(config: &Config) -> Result<Option<Proxy>, StoreError> {
    let Some(address) = &config.proxy else { return Ok(None) };
    let usable = || {
        let proxy = Proxy::new(address)?;
        let Some(exceptions) = &config.no_proxy else { return Ok(proxy) };
        let mut builder = Proxy::builder(proxy.protocol()).host(proxy.host()).port(proxy.port());
        if let Some(name) = proxy.username() {
            builder = builder.username(name);
        }
        if let Some(password) = proxy.password() {
            builder = builder.password(password);
        }
        exceptions.split(',').fold(builder, |builder, host| builder.no_proxy(host.trim())).build()
    };
    usable()
        .map(Some)
        .map_err(|e: ureq::Error| StoreError::Setting { setting: "proxy", problem: e.to_string() })
}

/// What a failed exchange means for people, and whether to repeat it.
fn explain(origin: &str, error: ureq::Error) -> Failure {
    use std::io::ErrorKind;
    use ureq::{Error, Timeout};

    let text = one_line(&error.to_string(), 300);
    let now = Again::After(Duration::ZERO);
    let (again, detail) = match &error {
        Error::HostNotFound => (Again::IfReached, NO_HOST.into()),
        Error::Io(e) if is_failed_lookup(e, &text) => (Again::IfReached, NO_HOST.into()),
        Error::Timeout(Timeout::Resolve | Timeout::Connect) => {
            (Again::IfReached, "the server could not be reached in time".into())
        }
        Error::Io(e) if e.kind() == ErrorKind::ConnectionRefused => {
            (Again::IfReached, "the server refuses connections".into())
        }
        Error::Io(e)
            if matches!(
                e.kind(),
                ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable | ErrorKind::NetworkDown
            ) =>
        {
            (Again::IfReached, "there is no way to the server: is the network up?".into())
        }
        Error::ConnectionFailed | Error::ConnectProxyFailed(_) => {
            (Again::IfReached, format!("the server could not be reached ({text})"))
        }
        Error::Timeout(_) => (now, "the server fell silent; run it again to resume".into()),
        // ureq wraps some errors of rustls in an I/O error, so the text decides.
        _ if text.contains("certificate") => (
            Again::No,
            format!(
                "the server's certificate is not trusted ({text}); a network with its own authority needs SSL_CERT_FILE"
            ),
        ),
        Error::Io(_) | Error::Protocol(_) | Error::BodyStalled => {
            (now, format!("the connection broke off ({text}); run it again to resume"))
        }
        _ => (Again::No, text),
    };
    Failure::network(origin, again, detail)
}

const NO_HOST: &str = "its host name was not found: is the network up?";

/// Whether a name could not be resolved; the standard library has no kind of error for it.
fn is_failed_lookup(error: &std::io::Error, text: &str) -> bool {
    const WINDOWS: [i32; 3] = [11001, 11002, 11004];
    text.contains("failed to lookup address")
        || error.raw_os_error().is_some_and(|code| WINDOWS.contains(&code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_joined() {
        let base: Uri = "https://h.example/a/b/c?d=e".parse().unwrap();
        let joined = |location: &str| join(&base, location).map(|uri| uri.to_string());
        assert_eq!(joined("http://x/y").as_deref(), Some("http://x/y"));
        assert_eq!(joined("//x/y").as_deref(), Some("https://x/y"));
        assert_eq!(joined("/y?z=1").as_deref(), Some("https://h.example/y?z=1"));
        assert_eq!(joined("y").as_deref(), Some("https://h.example/a/b/y"));
        assert_eq!(joined(""), None);
        assert_eq!(joined("file:///etc/passwd"), None);
        assert_eq!(joined("http://a b"), None);
    }

    #[test]
    fn ranges_are_read() {
        assert_eq!(content_range("bytes 100-199/200"), Some((100, 200)));
        assert_eq!(content_range("bytes */200"), None);
        assert_eq!(content_range("bytes 1-2/*"), None);
        assert_eq!(content_range("lines 1-2/3"), None);
    }

    #[test]
    fn the_token_belongs_to_scheme_host_and_port() {
        let host = |url: &str| host(&url.parse().unwrap());
        assert_eq!(host("https://H.example/x"), host("https://h.example/y"));
        assert_ne!(host("https://h.example/"), host("http://h.example/"));
        assert_ne!(host("http://h.example:1/"), host("http://h.example:2/"));
    }
}
