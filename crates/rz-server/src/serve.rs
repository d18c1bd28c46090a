//! Sockets: listening, connections within limits, an orderly end.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
#[cfg(unix)]
use tokio::net::UnixListener;
use tokio::sync::{Semaphore, watch};
use tower::ServiceExt;
use tower::util::MapRequest;

use crate::patience::Patient;
use crate::refuse::Refusing;
use crate::{App, ServerError, router};

/// Where a server is to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Address {
    /// A host, by name or number, and a port; 0 for any that is free.
    Tcp(String, u16),
    /// A socket in the file system. What is left of an earlier one is replaced.
    Unix(PathBuf),
}

/// How connections are treated.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServeOptions {
    /// The most connections at a time; more wait to be accepted.
    pub max_connections: usize,
    /// Time in which a client has to send the head of a request.
    pub head_time: Duration,
    /// Bytes that the head of a request may have.
    pub max_head: usize,
    /// Time that requests get to end when the server is asked to.
    pub drain_time: Duration,
    /// Certificate and key, for HTTPS.
    #[cfg(feature = "tls")]
    pub tls: Option<crate::tls::Certificate>,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self {
            max_connections: 4096,
            head_time: Duration::from_secs(60),
            max_head: 64 << 10,
            drain_time: Duration::from_secs(30),
            #[cfg(feature = "tls")]
            tls: None,
        }
    }
}

/// A socket that is listened on.
#[derive(Debug)]
pub struct Listener {
    kind: Kind,
    shown: String,
}

#[derive(Debug)]
enum Kind {
    Tcp(TcpListener),
    #[cfg(unix)]
    Unix(UnixListener, PathBuf),
}

impl Listener {
    /// Listens.
    ///
    /// # Errors
    /// When the address is taken, not this machine's, or not allowed.
    pub async fn bind(address: &Address) -> Result<Self, ServerError> {
        match address {
            Address::Tcp(host, port) => {
                let name = format!("{host}:{port}");
                let failed = |cause| ServerError::Listen { address: name.clone(), cause };
                let bare = host.trim_start_matches('[').trim_end_matches(']');
                let listener = TcpListener::bind((bare, *port)).await.map_err(failed)?;
                let shown = format!("http://{}", listener.local_addr().map_err(failed)?);
                Ok(Self { kind: Kind::Tcp(listener), shown })
            }
            #[cfg(unix)]
            Address::Unix(path) => {
                let shown = format!("unix:{}", path.display());
                let failed = |cause| ServerError::Listen { address: shown.clone(), cause };
                remove_left_over(path).await.map_err(failed)?;
                let listener = UnixListener::bind(path).map_err(failed)?;
                Ok(Self { kind: Kind::Unix(listener, path.clone()), shown })
            }
            #[cfg(not(unix))]
            Address::Unix(path) => Err(ServerError::Listen {
                address: path.display().to_string(),
                cause: std::io::Error::other("this system has no such sockets"),
            }),
        }
    }

    /// Where it listens, for people and clients.
    pub fn address(&self) -> &str {
        &self.shown
    }

    /// The address and port, where it has one.
    pub fn socket_address(&self) -> Option<SocketAddr> {
        match &self.kind {
            Kind::Tcp(listener) => listener.local_addr().ok(),
            #[cfg(unix)]
            Kind::Unix(..) => None,
        }
    }
}

/// Removes a socket that nobody listens on any more. Anything else is left alone, and binding fails.
#[cfg(unix)]
async fn remove_left_over(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::FileTypeExt;
    let is_socket = path.symlink_metadata().is_ok_and(|meta| meta.file_type().is_socket());
    if is_socket && tokio::net::UnixStream::connect(path).await.is_err() {
        std::fs::remove_file(path)?;
    }
    Ok(())
}

/// Serves until `shutdown` is done, and then until the requests that were taken are answered, or the
/// time for that is up.
///
/// While it drains, the server still answers, but takes no more requests for models: probes see that it
/// is about to end, and routers send clients elsewhere.
///
/// # Errors
/// When a certificate cannot be used.
pub async fn serve(
    app: Arc<App>,
    listener: Listener,
    options: ServeOptions,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServerError> {
    #[cfg(feature = "tls")]
    let tls = options.tls.as_ref().map(crate::tls::Certificate::acceptor).transpose()?;
    let service = service(router(app.clone()));
    let (end, ending) = watch::channel(false);
    let places = Arc::new(Semaphore::new(options.max_connections));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(options.head_time)
        .max_buf_size(options.max_head.max(8192));
    let write_time = app.config.write_time;
    let ticking = tokio::spawn(tick(app.clone(), ending.clone()));

    let accepting = async {
        loop {
            let Ok(place) = places.clone().acquire_owned().await else { return };
            let (http, service, mut ending) = (http.clone(), service.clone(), ending.clone());
            macro_rules! connect {
                ($stream:expr) => {{
                    let stream = $stream;
                    tokio::spawn(async move {
                        converse(http, Patient::new(stream, write_time), service, &mut ending).await;
                        drop(place);
                    })
                }};
            }
            match accept(&listener.kind).await {
                #[cfg(feature = "tls")]
                Stream::Tcp(stream) if tls.is_some() => {
                    let Some(tls) = tls.clone() else { continue };
                    let head_time = options.head_time;
                    tokio::spawn(async move {
                        if let Ok(Ok(stream)) = tokio::time::timeout(head_time, tls.accept(stream)).await {
                            converse(http, Patient::new(stream, write_time), service, &mut ending).await;
                        }
                        drop(place);
                    });
                }
                Stream::Tcp(stream) => drop(connect!(stream)),
                #[cfg(unix)]
                Stream::Unix(stream) => drop(connect!(stream)),
            }
        }
    };
    let draining = async {
        shutdown.await;
        tracing::info!("draining");
        app.drain();
        let idle = async {
            while app.busy() > 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let _ = tokio::time::timeout(options.drain_time, idle).await;
    };
    tokio::select! {
        () = accepting => {}
        () = draining => {}
    }
    // Connections end after the answer that they are in.
    let _ = end.send(true);
    let all = u32::try_from(options.max_connections).unwrap_or(u32::MAX);
    let _ = tokio::time::timeout(Duration::from_secs(2), places.acquire_many(all)).await;
    ticking.abort();
    #[cfg(unix)]
    if let Kind::Unix(_, path) = &listener.kind {
        let _ = std::fs::remove_file(path);
    }
    Ok(())
}

async fn tick(app: Arc<App>, mut ending: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
            _ = ending.wait_for(|ended| *ended) => return,
        }
        let app = app.clone();
        // Giving back gigabytes takes a moment.
        let _ = tokio::task::spawn_blocking(move || app.tick()).await;
    }
}

enum Stream {
    Tcp(tokio::net::TcpStream),
    #[cfg(unix)]
    Unix(tokio::net::UnixStream),
}

/// The next connection. Failures, such as too many open files, pass.
async fn accept(listener: &Kind) -> Stream {
    loop {
        let accepted = match listener {
            Kind::Tcp(listener) => listener.accept().await.map(|(stream, _)| {
                // Tokens are small and shall not wait for each other.
                let _ = stream.set_nodelay(true);
                Stream::Tcp(stream)
            }),
            #[cfg(unix)]
            Kind::Unix(listener, _) => listener.accept().await.map(|(stream, _)| Stream::Unix(stream)),
        };
        match accepted {
            Ok(stream) => return stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

type Routes = MapRequest<Router, fn(Request<Incoming>) -> Request<Body>>;

fn service(router: Router) -> Routes {
    router.map_request((|request| request.map(Body::new)) as fn(Request<Incoming>) -> Request<Body>)
}

/// Answers the requests of one connection.
async fn converse<S>(http: http1::Builder, stream: S, routes: Routes, ending: &mut watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = TowerToHyperService::new(routes);
    let connection = http.serve_connection(TokioIo::new(Refusing::new(stream)), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        _ = connection.as_mut() => true,
        _ = ending.wait_for(|ended| *ended) => false,
    };
    if !ended {
        connection.as_mut().graceful_shutdown();
        let _ = connection.await;
    }
}
