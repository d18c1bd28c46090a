//! HTTPS.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, ServerConfig};

use crate::ServerError;

/// A certificate with its key, as PEM files.
#[derive(Clone, Debug)]
pub struct Certificate {
    chain: PathBuf,
    config: Arc<ServerConfig>,
}

impl Certificate {
    /// Reads the chain, the server's own certificate first, and its key.
    ///
    /// # Errors
    /// When a file cannot be read, or they do not belong together.
    pub fn read(chain: &Path, key: &Path) -> Result<Self, ServerError> {
        let bad = |path: &Path, problem: String| ServerError::Certificate { path: path.into(), problem };
        let certificates = CertificateDer::pem_file_iter(chain)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| bad(chain, error.to_string()))?;
        if certificates.is_empty() {
            return Err(bad(
                chain,
                "there is none in it: give a PEM file, the server's own first".to_owned(),
            ));
        }
        let private = PrivateKeyDer::from_pem_file(key).map_err(|error| match error {
            pem::Error::NoItemsFound => bad(key, "there is no private key in it: give a PEM file".to_owned()),
            error => bad(key, error.to_string()),
        })?;
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(certificates, private));
        let mut config = config.map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                bad(chain, format!("the key in '{}' is not its own: give that", key.display()))
            }
            error => bad(chain, error.to_string()),
        })?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { chain: chain.into(), config: Arc::new(config) })
    }

    /// The file of the chain.
    pub fn path(&self) -> &Path {
        &self.chain
    }

    pub(crate) fn acceptor(&self) -> Result<TlsAcceptor, ServerError> {
        Ok(TlsAcceptor::from(self.config.clone()))
    }
}
