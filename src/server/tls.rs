//! TLS: a certificate chain and its key, read from files as a pair, and read again when they change.
//!
//! TLS 1.2 and 1.3 with forward secrecy and authenticated encryption only: rustls has nothing else.

use std::fmt;
use std::fs::{self, Metadata};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// What a server needs to speak TLS.
#[derive(Clone, Debug)]
pub struct Tls {
    pair: Arc<Pair>,
    pub(super) config: Arc<ServerConfig>,
}

impl Tls {
    /// With the certificate chain and the private key in these files, both in PEM.
    ///
    /// # Errors
    /// When one of them can't be read or used, they do not belong together, or others may read the key.
    pub fn open(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let files = Files { certificate: certificate.to_owned(), key: key.to_owned() };
        let stamp = files.stamp();
        let current = files.read(&provider)?;
        let held = Mutex::new(Held { current, stamp });
        let pair = Arc::new(Pair { files, provider: Arc::clone(&provider), held });
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| TlsError::new(certificate, e))?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&pair) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { pair, config: Arc::new(config) })
    }

    /// Reads the files again, changed or not. A pair that can't be used leaves the one before in force, and the log says so.
    pub fn reload(&self) {
        let stamp = self.pair.files.stamp();
        self.pair.reload(&mut self.pair.held(), stamp);
    }
}

/// The pair in force, and where it comes from.
#[derive(Debug)]
struct Pair {
    files: Files,
    provider: Arc<CryptoProvider>,
    held: Mutex<Held>,
}

#[derive(Debug)]
struct Held {
    current: Arc<CertifiedKey>,
    /// The files as they were when they were read last, with success or not.
    stamp: Stamp,
}

/// What tells files from those that have taken their names, and from themselves after a change; nothing for one that is not there.
type Stamp = [Option<(u64, u64, i64, i64)>; 2];

impl Pair {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reload(&self, held: &mut Held, stamp: Stamp) {
        held.stamp = stamp;
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

/// Looked at with every handshake: so a new pair is in force for the next one, and there is no clock to wait for.
impl ResolvesServerCert for Pair {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let stamp = self.files.stamp();
        let mut held = self.held();
        if held.stamp != stamp {
            self.reload(&mut held, stamp);
        }
        Some(Arc::clone(&held.current))
    }
}

#[derive(Debug)]
struct Files {
    certificate: PathBuf,
    key: PathBuf,
}

impl Files {
    fn stamp(&self) -> Stamp {
        let stamp = |meta: Metadata| (meta.dev(), meta.ino(), meta.mtime(), meta.mtime_nsec());
        [&self.certificate, &self.key].map(|file| fs::metadata(file).ok().map(stamp))
    }

    fn read(&self, provider: &CryptoProvider) -> Result<Arc<CertifiedKey>, TlsError> {
        let Self { certificate, key } = self;
        // Before its mode: advice on the mode must not be given about a file that is no key.
        let secret = PrivateKeyDer::from_pem_file(key).map_err(|e| TlsError::new(key, e))?;
        let meta = fs::metadata(key).map_err(|e| TlsError::new(key, e))?;
        let mode = meta.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            let why = format_args!("other users may read or write the key (mode {mode:04o})");
            return Err(TlsError { rights: true, ..TlsError::new(key, why) });
        }
        let chain = CertificateDer::pem_file_iter(certificate)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|e| TlsError::new(certificate, e))?;
        if chain.is_empty() {
            return Err(TlsError::new(certificate, "there is no certificate in it"));
        }
        CertifiedKey::from_der(chain, secret, provider)
            .map(Arc::new)
            .map_err(|e| TlsError::new(certificate, format_args!("with its key: {e}")))
    }
}

/// Why TLS can't be spoken with these files.
#[derive(Debug)]
pub struct TlsError {
    file: PathBuf,
    why: String,
    rights: bool,
}

impl TlsError {
    fn new(file: &Path, why: impl fmt::Display) -> Self {
        Self { file: file.to_owned(), why: why.to_string(), rights: false }
    }

    /// Whether others may read the key, and that is all.
    #[must_use]
    pub fn is_about_rights(&self) -> bool {
        self.rights
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = crate::text::printable(&self.file.to_string_lossy());
        write!(f, "{file}: {}", self.why)
    }
}

impl std::error::Error for TlsError {}
