//! The API behind the proxy: its address, and connections to it.
//!
//! Decides how it is reached. Knows nothing of HTTP.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use actix_web::rt::net::{TcpStream, UnixStream};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

/// The address of an upstream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum UpstreamAddress {
    /// A host and a port, with or without TLS.
    #[allow(missing_docs, reason = "the names say it")]
    Tcp { host: String, port: u16, tls: bool },
    /// The path of a Unix socket.
    Unix(PathBuf),
}

/// An error: the text is no address of an upstream.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum UpstreamUrlError {
    /// It has none of the known forms.
    #[error(
        "expected http://HOST:PORT, https://HOST:PORT or unix:/PATH, e.g. http://127.0.0.1:8000"
    )]
    Malformed,
    /// It has a path, a query or a fragment.
    #[error("an upstream has no path, since requests keep their own, e.g. http://127.0.0.1:8000")]
    Path,
    /// It has a user name.
    #[error("an upstream has no user name and no password")]
    UserInfo,
}

impl FromStr for UpstreamAddress {
    type Err = UpstreamUrlError;

    fn from_str(text: &str) -> Result<Self, UpstreamUrlError> {
        if let Some(path) = text.strip_prefix("unix:") {
            let is_absolute = path.starts_with('/') && !path.ends_with('/');
            return if is_absolute {
                Ok(Self::Unix(path.into()))
            } else {
                Err(Self::Err::Malformed)
            };
        }
        let (rest, tls) = match (text.strip_prefix("http://"), text.strip_prefix("https://")) {
            (Some(rest), _) => (rest, false),
            (_, Some(rest)) => (rest, true),
            (None, None) => return Err(UpstreamUrlError::Malformed),
        };
        let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err(UpstreamUrlError::UserInfo);
        }
        if !matches!(path, "" | "/") {
            return Err(UpstreamUrlError::Path);
        }
        let (host, port) = match authority.strip_prefix('[').map(|rest| rest.split_once(']')) {
            Some(bracketed) => bracketed.ok_or(UpstreamUrlError::Malformed)?,
            None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
        };
        let port = match port.strip_prefix(':') {
            Some(port) => port.parse().ok().filter(|port| *port > 0),
            None if port.is_empty() => Some(if tls { 443 } else { 80 }),
            None => None,
        };
        // A name that TLS can verify. IP addresses are such names too.
        match (ServerName::try_from(host), port) {
            (Ok(_), Some(port)) => Ok(Self::Tcp { host: host.to_owned(), port, tls }),
            _ => Err(UpstreamUrlError::Malformed),
        }
    }
}

impl fmt::Display for UpstreamAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp { host, port, tls } => {
                let scheme = if *tls { "https" } else { "http" };
                let (open, close) = if host.contains(':') { ("[", "]") } else { ("", "") };
                write!(f, "{scheme}://{open}{host}{close}:{port}")
            }
        }
    }
}

impl UpstreamAddress {
    /// Returns host and port, for requests that name no host.
    pub(in crate::http) fn authority(&self) -> String {
        match self.to_string().split_once("://") {
            Some((_, authority)) => authority.to_owned(),
            None => "localhost".to_owned(),
        }
    }
}

/// An upstream, and how its certificate is verified.
#[derive(Clone)]
pub struct Upstream {
    address: UpstreamAddress,
    tls: Option<Arc<ClientConfig>>,
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Upstream").field(&self.address).finish()
    }
}

/// An error: the certificate of the upstream could not be verified.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UpstreamTlsError(String);

/// A connection with an upstream.
pub(in crate::http) trait UpstreamStream: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> UpstreamStream for T {}

impl Upstream {
    /// Makes an upstream. The certificate of one with `https` has to be signed by a root in the file
    /// `ca`, or by one that the system trusts.
    ///
    /// # Errors
    /// Fails if there are no roots.
    pub fn new(address: UpstreamAddress, ca: Option<&Path>) -> Result<Self, UpstreamTlsError> {
        let tls = match address {
            UpstreamAddress::Tcp { tls: true, .. } => Some(Arc::new(client_config(ca)?)),
            UpstreamAddress::Tcp { tls: false, .. } | UpstreamAddress::Unix(_) => None,
        };
        Ok(Self { address, tls })
    }

    /// Returns the address.
    pub(in crate::http) fn address(&self) -> &UpstreamAddress {
        &self.address
    }

    /// Opens a connection, with a TLS handshake if the address says so.
    pub(in crate::http) async fn connect(&self) -> io::Result<Box<dyn UpstreamStream>> {
        match &self.address {
            UpstreamAddress::Unix(path) => Ok(Box::new(UnixStream::connect(path).await?)),
            UpstreamAddress::Tcp { host, port, .. } => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                // A request in several pieces would wait for an acknowledgement.
                stream.set_nodelay(true)?;
                let Some(tls) = &self.tls else { return Ok(Box::new(stream)) };
                let name = ServerName::try_from(host.clone()).map_err(io::Error::other)?;
                let connector = TlsConnector::from(Arc::clone(tls));
                Ok(Box::new(connector.connect(name, stream).await?))
            }
        }
    }
}

fn client_config(ca: Option<&Path>) -> Result<ClientConfig, UpstreamTlsError> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(path) => {
            let failed = |e: &dyn fmt::Display| {
                UpstreamTlsError(format!("cannot read certificates from {}: {e}", path.display()))
            };
            let certificates = CertificateDer::pem_file_iter(path).map_err(|e| failed(&e))?;
            for certificate in certificates {
                roots.add(certificate.map_err(|e| failed(&e))?).map_err(|e| failed(&e))?;
            }
            if roots.is_empty() {
                return Err(failed(&"there are none"));
            }
        }
        None => {
            let found = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(found.certs);
            if roots.is_empty() {
                let why = "the system has no certificate authorities (package ca-certificates)";
                return Err(UpstreamTlsError(why.to_owned()));
            }
        }
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| UpstreamTlsError(e.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_has_a_scheme_a_host_and_a_port() {
        let tcp =
            |host: &str, port, tls| Ok(UpstreamAddress::Tcp { host: host.to_owned(), port, tls });
        for (text, expected) in [
            ("http://127.0.0.1:8000", tcp("127.0.0.1", 8000, false)),
            ("http://api", tcp("api", 80, false)),
            ("https://api.example.com/", tcp("api.example.com", 443, true)),
            ("http://[::1]:8000", tcp("::1", 8000, false)),
            ("http://[::1]", tcp("::1", 80, false)),
            ("unix:/run/api.sock", Ok(UpstreamAddress::Unix("/run/api.sock".into()))),
        ] {
            assert_eq!(text.parse(), expected, "{text}");
        }
        for (text, why) in [
            ("http://a/b", UpstreamUrlError::Path),
            ("http://a?b", UpstreamUrlError::Path),
            ("http://a#b", UpstreamUrlError::Path),
            ("http://roy:x@a", UpstreamUrlError::UserInfo),
        ] {
            assert_eq!(text.parse::<UpstreamAddress>(), Err(why), "{text}");
        }
        for text in [
            "",
            "8000",
            "127.0.0.1:8000",
            "ftp://a",
            "http://",
            "http://:80",
            "http://a:",
            "HTTP://a",
            "http://a:0",
            "http://a:70000",
            "http://::1",
            "http://[::1",
            "http://a b",
            "unix:",
            "unix:a",
            "unix:/",
        ] {
            let parsed = text.parse::<UpstreamAddress>();
            assert_eq!(parsed, Err(UpstreamUrlError::Malformed), "{text}");
        }
    }

    #[test]
    fn address_is_written_as_it_is_read() {
        for text in ["http://[::1]:8000", "https://api:443", "unix:/run/api.sock"] {
            assert_eq!(text.parse::<UpstreamAddress>().unwrap().to_string(), text);
        }
    }
}
