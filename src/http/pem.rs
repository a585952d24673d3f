//! PEM files of a certificate chain and its private key.
//!
//! Decides which files are accepted, and names what is wrong with others. Knows no connections.

use std::error::Error;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_cert::Certificate;
use x509_cert::der::Decode;
use zeroize::Zeroizing;

use crate::fs::{Exposed, FileVersion, exposed};
use crate::text::{printable, read_text};
use crate::time::Timestamp;

/// A certificate chain and its key.
#[derive(Debug)]
pub(super) struct PemFiles {
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
}

/// A certificate chain that was read with its key.
#[derive(Clone, Debug)]
pub(super) struct LoadedPair {
    pub(super) certified: Arc<CertifiedKey>,
    /// The end of the validity of the server's own certificate, the first of the chain. `None` if it
    /// cannot be told.
    pub(super) expires: Option<Timestamp>,
}

/// A version of both files. A change of the mode or the owner changes it too (ctime).
pub(super) type PemVersions = [Option<(FileVersion, i64, i64)>; 2];

/// The reason why a certificate and its key cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}", printable(&file.to_string_lossy()))]
pub struct TlsError {
    file: PathBuf,
    source: Box<dyn Error + Send + Sync>,
    hint: Option<TlsHint>,
}

/// What to do about a [`TlsError`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TlsHint {
    /// The key is ours and must be private: mode 0600.
    MakeKeyPrivate,
    /// The key belongs to root. Its group may read it, but nothing more.
    LimitKeyOfRoot,
    /// The key has a passphrase.
    DecryptKey,
    /// The certificate and the key are in each other's place.
    SwapFiles,
    /// The file is not UTF-8.
    SaveAsUtf8,
}

impl TlsError {
    pub(super) fn new(file: &Path, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { file: file.to_owned(), source: source.into(), hint: None }
    }

    fn hint_at(self, hint: TlsHint) -> Self {
        Self { hint: Some(hint), ..self }
    }

    /// Returns what to do about the error, if that is known.
    #[must_use]
    pub fn hint(&self) -> Option<TlsHint> {
        self.hint
    }
}

impl PemFiles {
    pub(super) fn versions(&self) -> PemVersions {
        [&self.certificate, &self.key].map(|file| {
            let meta = fs::metadata(file).ok()?;
            Some((FileVersion::new(&meta), meta.ctime(), meta.ctime_nsec()))
        })
    }

    pub(super) fn read(&self, provider: &CryptoProvider) -> Result<LoadedPair, TlsError> {
        let Self { certificate, key, .. } = self;
        let chain = read_pem(certificate)?;
        let secret = read_pem(key)?;
        let has = |text: &str, label: &str| text.contains(&format!("-----BEGIN {label}"));
        let is_key = |text: &str| text.contains("PRIVATE KEY-----");
        if is_key(&chain) && !has(&chain, "CERTIFICATE") && has(&secret, "CERTIFICATE") {
            let why = "it holds a private key, and the key file a certificate";
            return Err(TlsError::new(certificate, why).hint_at(TlsHint::SwapFiles));
        }
        if has(&secret, "ENCRYPTED PRIVATE KEY") || secret.contains("Proc-Type: 4,ENCRYPTED") {
            let why = "the key is encrypted";
            return Err(TlsError::new(key, why).hint_at(TlsHint::DecryptKey));
        }
        if !is_key(&secret) {
            return Err(TlsError::new(key, "there is no private key in it"));
        }
        let private =
            PrivateKeyDer::from_pem_slice(secret.as_bytes()).map_err(|e| TlsError::new(key, e))?;
        // Behind the other checks, because advice about the mode is for keys only.
        self.check_access()?;
        let chain = CertificateDer::pem_slice_iter(chain.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| TlsError::new(certificate, e))?;
        let Some(own) = chain.first() else {
            return Err(TlsError::new(certificate, "there is no certificate in it"));
        };
        let expires = not_after(own);
        CertifiedKey::from_der(chain, private, provider)
            .map(|certified| LoadedPair { certified: Arc::new(certified), expires })
            .map_err(|e| TlsError::new(certificate, format!("with its key: {e}")))
    }

    /// Refuses a key that other users may read or write, by the rules of PostgreSQL: a key of ours is
    /// private. A key of root may be readable by its group, of which the server is a member.
    fn check_access(&self) -> Result<(), TlsError> {
        let key = &self.key;
        let exposed = fs::metadata(key).and_then(|meta| exposed(key, &meta));
        let Some(Exposed { mode, of_root }) = exposed.map_err(|e| TlsError::new(key, e))? else {
            return Ok(());
        };
        let hint = if of_root { TlsHint::LimitKeyOfRoot } else { TlsHint::MakeKeyPrivate };
        let why = format!("other users may read or write the key (mode {mode:04o})");
        Err(TlsError::new(key, why).hint_at(hint))
    }
}

/// Returns the end of the validity of a certificate (RFC 5280 section 4.1.2.5).
fn not_after(certificate: &CertificateDer<'_>) -> Option<Timestamp> {
    let certificate = Certificate::from_der(certificate).ok()?;
    let end = certificate.tbs_certificate().validity().not_after.to_unix_duration();
    Timestamp::from_seconds(i64::try_from(end.as_secs()).ok()?)
}

/// Reads a file as text.
fn read_pem(path: &Path) -> Result<Zeroizing<String>, TlsError> {
    let bytes = Zeroizing::new(fs::read(path).map_err(|e| match e.kind() {
        ErrorKind::IsADirectory => TlsError::new(path, "it is a folder"),
        _ => TlsError::new(path, e),
    })?);
    match read_text(&bytes) {
        Ok(text) => Ok(Zeroizing::new(text.to_owned())),
        Err(why) => Err(TlsError::new(path, format!("it {why}")).hint_at(TlsHint::SaveAsUtf8)),
    }
}
