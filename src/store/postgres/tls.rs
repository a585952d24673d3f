//! TLS to a database server, as `sslmode` of its URL says.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};

use super::url::{PostgresUrl, TlsMode};
use crate::fs::{Exposed, exposed};
use crate::text::{printable, shell_word};

/// The reason why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub(super) enum TlsConfigError {
    #[error("cannot read {}: {why}", printable(&.path.to_string_lossy()))]
    File { path: PathBuf, why: String },
    #[error("other users may read {} (mode {mode:04o})", printable(&.path.to_string_lossy()))]
    NotPrivate { path: PathBuf, mode: u32 },
    #[error("the system has no certificate authorities that can be read")]
    NoRoots,
    #[error("{0}")]
    Tls(#[from] Error),
    #[error("cannot verify servers: {0}")]
    Verifier(#[from] rustls::client::VerifierBuilderError),
}

impl TlsConfigError {
    /// Returns a command or an action that helps, if there is one.
    pub(super) fn hint(&self) -> Option<String> {
        match self {
            Self::NotPrivate { path, .. } => Some(format!("chmod 600 {}", shell_word(path))),
            Self::NoRoots => {
                Some("name the file of an authority in the URL: sslrootcert=FILE".to_owned())
            }
            _ => None,
        }
    }
}

/// Returns the configuration of TLS, or `None` if the URL disables it, or names Unix sockets only.
pub(super) fn client_config(url: &PostgresUrl) -> Result<Option<ClientConfig>, TlsConfigError> {
    // All hosts that are reached by TCP have the same mode.
    let modes = url.hosts().iter().map(|host| url.tls_for(host));
    let Some(mode) = modes.into_iter().find(|mode| *mode != TlsMode::Disable) else {
        return Ok(None);
    };
    let provider = Arc::new(ring::default_provider());
    let algorithms = provider.signature_verification_algorithms;
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?
        .dangerous();
    let verifier: Arc<dyn ServerCertVerifier> = match mode {
        TlsMode::Disable => return Ok(None),
        TlsMode::Require => Arc::new(AnyName { chain: None, algorithms }),
        TlsMode::VerifyCa => {
            let chain = Some(verifier(url.root_certificates(), provider)?);
            Arc::new(AnyName { chain, algorithms })
        }
        TlsMode::VerifyFull => verifier(url.root_certificates(), provider)?,
    };
    let builder = builder.with_custom_certificate_verifier(verifier);
    Ok(Some(match url.client_certificate() {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            builder.with_client_auth_cert(certificates(certificate)?, private_key(key)?)?
        }
    }))
}

fn verifier(
    roots: Option<&Path>,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<WebPkiServerVerifier>, TlsConfigError> {
    let mut store = RootCertStore::empty();
    match roots {
        Some(path) => {
            for certificate in certificates(path)? {
                store.add(certificate)?;
            }
        }
        None => {
            // Some of the system's may be unusable, as long as one is usable.
            store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    if store.is_empty() {
        return Err(TlsConfigError::NoRoots);
    }
    Ok(WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider).build()?)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsConfigError> {
    let file = |why: String| TlsConfigError::File { path: path.to_owned(), why };
    let read = CertificateDer::pem_file_iter(path).map_err(|e| file(e.to_string()))?;
    let read: Result<Vec<_>, _> = read.collect();
    match read {
        Ok(read) if read.is_empty() => Err(file("it holds no certificate".to_owned())),
        Ok(read) => Ok(read),
        Err(e) => Err(file(e.to_string())),
    }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsConfigError> {
    let file = |why: String| TlsConfigError::File { path: path.to_owned(), why };
    let meta = fs::metadata(path).map_err(|e| file(e.to_string()))?;
    if let Some(Exposed { mode, .. }) = exposed(path, &meta).map_err(|e| file(e.to_string()))? {
        return Err(TlsConfigError::NotPrivate { path: path.to_owned(), mode });
    }
    PrivateKeyDer::from_pem_file(path).map_err(|e| file(e.to_string()))
}

/// Verifies that the server has the key of its certificate, and not the name of the certificate.
#[derive(Debug)]
struct AnyName {
    /// Verifies the chain (`verify-ca`), or `None` for any certificate (`require`).
    chain: Option<Arc<WebPkiServerVerifier>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(chain) = &self.chain else { return Ok(ServerCertVerified::assertion()) };
        match chain.verify_server_cert(end_entity, intermediates, name, ocsp, now) {
            // The name is checked last, when the chain is known to be good.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
