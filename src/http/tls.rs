//! TLS with a certificate chain and its key, read from files as a pair, and reloaded when they
//! change.
//!
//! TLS 1.2 and 1.3 with forward secrecy and authenticated encryption only, since rustls has nothing
//! else. Sessions are resumed by tickets (RFC 8446 section 4.6.1), whose keys the process keeps in
//! memory and replaces every 6 hours, so that their number costs no memory.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::{Ticketer, default_provider};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, SupportedCipherSuite};

use super::pem::{LoadedPair, PemFiles, PemVersions, TlsError};
use crate::time::Timestamp;

/// The TLS configuration of a listener. Clones share the certificate.
#[derive(Clone, Debug)]
pub struct Tls {
    pair: Arc<Pair>,
    pub(super) config: Arc<ServerConfig>,
}

impl Tls {
    /// Reads the certificate chain and the private key from these PEM files.
    ///
    /// # Errors
    /// Fails if a file cannot be read or used, if they do not belong together, or if other users
    /// may read the key.
    pub fn open(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        let provider = Arc::new(provider());
        let files = PemFiles { certificate: certificate.to_owned(), key: key.to_owned() };
        let versions = files.versions();
        let current = files.read(&provider)?;
        let held = Mutex::new(Held { current, versions });
        let pair = Arc::new(Pair { files, provider: Arc::clone(&provider), held });
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| TlsError::new(certificate, e))?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&pair) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // OpenSSL's clients prefer AES-256 with SHA-384, which no common processor accelerates.
        config.ignore_client_order = true;
        config.ticketer = Ticketer::new().map_err(|e| TlsError::new(certificate, e))?;
        // A client that opens connections one after the other gets a new one each time.
        config.send_tls13_tickets = 1;
        Ok(Self { pair, config: Arc::new(config) })
    }

    /// Reads the files again, changed or not. If they cannot be used, logs that and keeps the
    /// previous certificate.
    pub fn reload(&self) {
        let versions = self.pair.files.versions();
        self.pair.reload(&mut self.pair.held(), versions);
    }

    /// Returns the time when the certificate expires, if that can be told. Reads the files again if
    /// they have changed.
    pub(super) fn expires(&self) -> Option<Timestamp> {
        self.pair.current().expires
    }
}

/// Returns the algorithms, the preferred ones first: suites with SHA-256, for which common
/// processors have instructions.
fn provider() -> CryptoProvider {
    let mut provider = default_provider();
    let is_slower = |suite: &SupportedCipherSuite| {
        suite.suite().as_str().is_some_and(|name| !name.ends_with("AES_128_GCM_SHA256"))
    };
    provider.cipher_suites.sort_by_key(is_slower);
    provider
}

/// The current certificate and its files.
#[derive(Debug)]
struct Pair {
    files: PemFiles,
    provider: Arc<CryptoProvider>,
    held: Mutex<Held>,
}

#[derive(Debug)]
struct Held {
    current: LoadedPair,
    /// The files when they were read last, with success or not.
    versions: PemVersions,
}

impl Pair {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the pair that its files hold now, or the last one that could be used.
    fn current(&self) -> LoadedPair {
        let versions = self.files.versions();
        let mut held = self.held();
        if held.versions != versions {
            self.reload(&mut held, versions);
        }
        held.current.clone()
    }

    fn reload(&self, held: &mut Held, versions: PemVersions) {
        held.versions = versions;
        match self.files.read(&self.provider) {
            Ok(pair) => {
                held.current = pair;
                log::info!("the certificate was read again");
            }
            Err(e) => {
                log::error!("cannot reload the certificate, still using the previous one: {e}")
            }
        }
    }
}

/// Compares the files at every handshake, so that a new pair is used at once and needs no timer.
impl ResolvesServerCert for Pair {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current().certified)
    }
}
