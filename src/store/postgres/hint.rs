//! Hints: what to do about an error of a connection or of the server.

use std::error::Error;
use std::io;

use rustls::CertificateError;
use tokio_postgres::error::{DbError, SqlState};

use super::connect::HostError;

const PASSWORD: &str = "give the password of the role in PGPASSWORD or in the file ~/.pgpass";

/// The text of the library for a server without TLS.
const NO_TLS: &str = "server does not support TLS";

/// Returns the hint for a host that cannot be used.
pub(super) fn of_host(why: &HostError) -> Option<String> {
    let hint = match why {
        HostError::TimedOut(_) => None,
        HostError::Password(e) => return e.hint(),
        HostError::NoPassword => Some(PASSWORD),
        HostError::Connect(e) => match e.kind() {
            io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => {
                Some("start PostgreSQL there, or name another host or port in the URL")
            }
            _ => None,
        },
        HostError::ReadOnly => Some(
            "name the primary, or all hosts of the database: postgres://USER@HOST1,HOST2/DATABASE",
        ),
        HostError::Login(e) => of_login(e),
    };
    hint.map(str::to_owned)
}

fn of_login(e: &tokio_postgres::Error) -> Option<&'static str> {
    if let Some(e) = e.as_db_error() {
        return of_refusal(e);
    }
    let cause = e.source()?;
    match cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(e) => match e.downcast_ref()? {
            rustls::Error::InvalidCertificate(e) => of_certificate(e),
            _ => None,
        },
        None if cause.to_string() == NO_TLS => Some(
            "have the server use TLS (ssl = on), or add sslmode=disable to the URL if you trust the network",
        ),
        None => None,
    }
}

/// Returns the hint for a login that the server refuses. Its text is in the language of the server.
fn of_refusal(e: &DbError) -> Option<&'static str> {
    Some(match *e.code() {
        SqlState::INVALID_PASSWORD => PASSWORD,
        SqlState::INVALID_CATALOG_NAME => {
            "create the database, e.g. with createdb, and run 'resttool database init'"
        }
        SqlState::INSUFFICIENT_PRIVILEGE => "GRANT CONNECT ON DATABASE to the role",
        SqlState::TOO_MANY_CONNECTIONS => {
            "raise max_connections, or the limit of the role or the database"
        }
        SqlState::CANNOT_CONNECT_NOW => "try again",
        SqlState::INVALID_AUTHORIZATION_SPECIFICATION => match e.routine() {
            // The role does not exist, or may not log in.
            Some("InitializeSessionUserId") => {
                "name a role that may log in: postgres://ROLE@HOST/DATABASE"
            }
            _ => "allow it in pg_hba.conf of the server, or connect with TLS if it asks for that",
        },
        _ => return None,
    })
}

fn of_certificate(e: &CertificateError) -> Option<&'static str> {
    Some(match e {
        CertificateError::UnknownIssuer => {
            "name the file of its certificate authority in the URL: sslrootcert=FILE"
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "name a host of the certificate, or accept any name of the authority: sslmode=verify-ca"
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "renew the certificate of the server"
        }
        // As `openssl req -x509` makes it.
        CertificateError::Other(e) if e.to_string().contains("CaUsedAsEndEntity") => {
            "have the server use a certificate that is no authority itself (CA:FALSE)"
        }
        _ => return None,
    })
}
