//! TLS: protocol versions, certificates and their reload.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustix::process::Signal;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{
    CipherSuite, ClientConfig, ClientConnection, HandshakeKind, ProtocolVersion, RootCertStore,
    StreamOwned, SupportedProtocolVersion,
};

use crate::support::Tls;
use crate::support::cli::{Completed, ServerProcess, command, finish};
use crate::support::client::{Request, TIMEOUT, last_segment};
use crate::support::server::Server;
use crate::support::store::TempStore;

/// A store with the user roy, and a certificate with its key.
struct Setup {
    store: TempStore,
}

impl Setup {
    fn new() -> Self {
        let store = TempStore::new();
        store.add("roy", "open-sesame");
        let setup = Self { store };
        let (certificate, key) = generate();
        setup.replace_pair(&certificate, &key);
        setup
    }

    fn path(&self, file: &str) -> PathBuf {
        self.store.folder().join(file)
    }

    /// Replaces the two files atomically, one after the other.
    fn replace_pair(&self, certificate: &str, key: &str) {
        for (file, text) in [("cert.pem", certificate), ("key.pem", key)] {
            let aside = self.path("aside");
            fs::write(&aside, text).unwrap();
            fs::set_permissions(&aside, fs::Permissions::from_mode(0o600)).unwrap();
            fs::rename(aside, self.path(file)).unwrap();
        }
    }

    fn command(&self, more: &str) -> Command {
        let words = format!(
            "serve --port 0 --cost 4 --tls-cert {} --tls-key {} --database {} {more}",
            self.path("cert.pem").display(),
            self.path("key.pem").display(),
            self.store.database().display()
        );
        let mut command = command(self.store.folder(), words.trim_end().split(' '));
        command.stdin(std::process::Stdio::null());
        command
    }

    fn serve(&self) -> ServerProcess {
        ServerProcess::start(self.command(""))
    }

    /// Returns the certificate of the file.
    fn certificate(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_file(self.path("cert.pem")).unwrap()
    }

    fn refused(&self, more: &str) -> Completed {
        finish(self.command(more), "")
    }
}

/// Generates a certificate for localhost, and its key.
pub fn generate() -> (String, String) {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    (cert.pem(), signing_key.serialize_pem())
}

type Stream = StreamOwned<ClientConnection, TcpStream>;

/// Connects a client that trusts only this certificate, and speaks these versions.
fn connect(
    to: SocketAddr,
    trusted: CertificateDer<'static>,
    versions: &[&'static SupportedProtocolVersion],
) -> std::io::Result<Stream> {
    connect_as(&client(trusted, versions, ring::default_provider()), to)
}

/// Makes a client with sessions of its own.
fn client(
    trusted: CertificateDer<'static>,
    versions: &[&'static SupportedProtocolVersion],
    provider: CryptoProvider,
) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Arc::new(config)
}

fn connect_as(client: &Arc<ClientConfig>, to: SocketAddr) -> std::io::Result<Stream> {
    let name = ServerName::try_from("localhost").unwrap();
    let mut connection = ClientConnection::new(Arc::clone(client), name).unwrap();
    let mut socket = TcpStream::connect(to)?;
    while connection.is_handshaking() {
        connection.complete_io(&mut socket)?;
    }
    Ok(StreamOwned::new(connection, socket))
}

/// Sends a request, and returns the head and the available part of the body.
fn exchange(stream: &mut Stream, request: &Request) -> String {
    stream.write_all(&request.bytes()).unwrap();
    let mut said = String::new();
    let mut bytes = [0; 4096];
    while !said.contains("\r\n\r\n") {
        let read = stream.read(&mut bytes).unwrap();
        assert!(read > 0, "the connection ended: {said}");
        said.push_str(&String::from_utf8_lossy(&bytes[..read]));
    }
    said
}

/// A close_notify is in the same segment too.
#[test]
fn last_response_over_tls_arrives_with_the_end_of_its_connection() {
    let setup = Setup::new();
    let server = setup.serve();
    // A segment of its own would come a moment later, which one look alone can miss.
    for _ in 0..200 {
        // Version 1.3 would send tickets after the handshake.
        let mut stream = connect(server.address, setup.certificate(), &[&TLS12]).unwrap();
        stream.write_all(&healthz().header("Connection", "close").bytes()).unwrap();
        let StreamOwned { mut conn, sock } = stream;
        conn.read_tls(&mut &*last_segment(sock)).unwrap();
        conn.process_new_packets().unwrap();
        let mut response = String::new();
        // Fails without a close_notify.
        conn.reader().read_to_string(&mut response).unwrap();
        assert!(response.ends_with("\r\n\r\nok\n"), "{response}");
    }
}

fn healthz() -> Request {
    Request::get("/healthz")
}

/// T-02, T-03
#[test]
fn tls_is_1_2_or_1_3_with_http_1_1_and_says_so_for_a_year() {
    let setup = Setup::new();
    let server = setup.serve();
    assert!(server.log.contains("listening on https://"), "{}", server.log);
    let secure = [&TLS12, &TLS13];
    for version in secure {
        let mut stream = connect(server.address, setup.certificate(), &[version]).unwrap();
        assert_eq!(stream.conn.protocol_version(), Some(version.version));
        assert_eq!(stream.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
        let roy = Request::get("/rest-auth").basic("roy", "open-sesame");
        for (request, status) in [(roy, 200), (Request::get("/rest-auth"), 401), (healthz(), 200)] {
            let said = exchange(&mut stream, &request);
            assert!(said.starts_with(&format!("HTTP/1.1 {status} ")), "{said}");
            assert!(said.contains("\r\nstrict-transport-security: max-age=31536000\r\n"), "{said}");
        }
    }
    // T-03: a server without TLS sends no HSTS field and no redirect.
    let (_store, plain) = crate::support::server::with_roy();
    let response = plain.send(&healthz());
    assert_eq!((response.status, response.header("strict-transport-security")), (200, None));
    // A client without TLS gets no HTTP response.
    let mut clear = TcpStream::connect(server.address).unwrap();
    clear.write_all(&healthz().bytes()).unwrap();
    let mut said = Vec::new();
    let _ = clear.read_to_end(&mut said);
    assert!(!String::from_utf8_lossy(&said).contains("HTTP"), "{said:?}");
}

/// T-02: resumption has no limit of clients, and a client gets one ticket for each connection.
#[test]
fn every_client_resumes_its_session() {
    let setup = Setup::new();
    let server = setup.serve();
    for version in [&TLS12, &TLS13] {
        let clients: Vec<_> = (0..300)
            .map(|_| client(setup.certificate(), &[version], ring::default_provider()))
            .collect();
        let visit = |client: &Arc<ClientConfig>| {
            let mut stream = connect_as(client, server.address).unwrap();
            assert!(exchange(&mut stream, &healthz()).starts_with("HTTP/1.1 200"));
            (stream.conn.handshake_kind().unwrap(), stream.conn.tls13_tickets_received())
        };
        let tickets = u32::from(version.version == ProtocolVersion::TLSv1_3);
        for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
            assert!(clients.iter().all(|client| visit(client) == (kind, tickets)), "{kind:?}");
        }
    }
}

/// T-02: clients of OpenSSL prefer AES-256 with SHA-384, which takes longer.
#[test]
fn server_prefers_suites_with_sha_256() {
    let setup = Setup::new();
    let server = setup.serve();
    for (version, suite) in [
        (&TLS12, CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
        (&TLS13, CipherSuite::TLS13_AES_128_GCM_SHA256),
    ] {
        let mut provider = ring::default_provider();
        provider.cipher_suites.sort_by_key(|offered| offered.suite() == suite);
        let client = client(setup.certificate(), &[version], provider);
        let stream = connect_as(&client, server.address).unwrap();
        assert_eq!(stream.conn.negotiated_cipher_suite().unwrap().suite(), suite);
    }
    // A client without it is served all the same.
    let mut provider = ring::default_provider();
    provider
        .cipher_suites
        .retain(|offered| offered.suite() == CipherSuite::TLS13_CHACHA20_POLY1305_SHA256);
    let client = client(setup.certificate(), &[&TLS13], provider);
    assert!(connect_as(&client, server.address).is_ok());
}

/// T-04: without a signal. Open connections go on, and an invalid pair is never used.
#[test]
fn valid_new_certificate_serves_the_next_handshake() {
    let setup = Setup::new();
    let mut server = setup.serve();
    let first = setup.certificate();
    let address = server.address;
    let trusts = |certificate: &CertificateDer<'static>| {
        connect(address, certificate.clone(), &[&TLS13]).is_ok()
    };
    let mut kept = connect(server.address, first.clone(), &[&TLS13]).unwrap();
    assert!(exchange(&mut kept, &healthz()).starts_with("HTTP/1.1 200"));

    let (certificate, key) = generate();
    setup.replace_pair(&certificate, &key);
    let second = setup.certificate();
    assert!(trusts(&second) && !trusts(&first));
    assert!(exchange(&mut kept, &healthz()).starts_with("HTTP/1.1 200"), "it goes on");

    let (other, other_key) = generate();
    for (certificate, key, why) in [
        (&other, &key, "with its key: "),
        (&certificate, &other_key, "with its key: "),
        (&"no certificate".to_owned(), &key, "there is no certificate in it"),
        (&certificate, &"no key".to_owned(), "key.pem: "),
    ] {
        setup.replace_pair(certificate, key);
        assert!(trusts(&second), "the previous one stays");
        server.wait_for(why);
        assert!(
            server.log.contains("cannot reload the certificate, still using the previous one: "),
            "{}",
            server.log
        );
        server.log.clear();
    }
    fs::remove_file(setup.path("cert.pem")).unwrap();
    assert!(trusts(&second), "after the file was removed too");
    setup.replace_pair(&other, &other_key);
    assert!(trusts(&setup.certificate()));
}

/// T-04
#[test]
fn sighup_reloads_the_certificate_without_a_handshake() {
    let setup = Setup::new();
    let mut server = setup.serve();
    let (certificate, key) = generate();
    setup.replace_pair(&certificate, &key);
    server.signal(Signal::HUP);
    server.wait_for("the certificate was read again");
    assert!(connect(server.address, setup.certificate(), &[&TLS13]).is_ok());
    server.signal(Signal::TERM);
    assert_eq!(server.end().0, Some(0));
}

/// T-04: valid, mismatched and invalid pairs.
#[test]
fn certificates_are_swapped_under_load_without_losing_a_request() {
    let setup = Setup::new();
    let server = setup.serve();
    let done = AtomicBool::new(false);
    let connections =
        [(); 2].map(|()| connect(server.address, setup.certificate(), &[&TLS13]).unwrap());
    std::thread::scope(|scope| {
        for mut stream in connections {
            let done = &done;
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    let roy = Request::get("/rest-auth").basic("roy", "open-sesame");
                    assert!(exchange(&mut stream, &roy).starts_with("HTTP/1.1 200"));
                }
            });
        }
        let serves = |trusted: &CertificateDer<'static>| {
            connect(server.address, trusted.clone(), &[&TLS13]).is_ok()
        };
        let swapped = std::panic::catch_unwind(|| {
            for _ in 0..20 {
                let (certificate, key) = generate();
                setup.replace_pair(&certificate, &key);
                let good = setup.certificate();
                assert!(serves(&good));
                let (mismatched, _) = generate();
                for bad in [mismatched.as_str(), "no certificate"] {
                    setup.replace_pair(bad, &key);
                    assert!(serves(&good), "the previous one stays");
                }
            }
        });
        done.store(true, Ordering::Relaxed);
        assert!(swapped.is_ok());
    });
}

/// T-05, O-05
#[test]
fn unusable_certificate_ends_the_server_before_it_listens() {
    let setup = Setup::new();
    let key = setup.path("key.pem");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
    let why = format!(
        "resttool: cannot serve: cannot speak TLS: {0}: other users may read or write the key (mode 0640)
hint: chmod 600 {0}\n",
        key.display()
    );
    assert_eq!(setup.refused(""), Completed::new(1, "", &why));
    let (certificate, _) = generate();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(setup.path("cert.pem"), certificate).unwrap();
    let mismatch = setup.refused("");
    assert_eq!(mismatch.code, 1);
    assert!(mismatch.stderr.contains("cert.pem: with its key: "), "{}", mismatch.stderr);
    fs::remove_file(&key).unwrap();
    assert_eq!(setup.refused("").code, 1);
    let mut half = command(setup.store.folder(), ["serve", "--port", "0", "--tls-cert", "x"]);
    half.stdin(std::process::Stdio::null());
    assert_eq!(finish(half, "").code, 2);
}

/// W-01, W-12, W-13: each problem of the two files is named.
#[test]
fn unusable_pem_files_are_explained() {
    let setup = Setup::new();
    let (cert, key) = (setup.path("cert.pem"), setup.path("key.pem"));
    let pem = |path: &Path| fs::read_to_string(path).unwrap();
    let (chain, secret) = (pem(&cert), pem(&key));
    let refused = || {
        let outcome = finish(setup.command(""), "");
        assert_eq!(outcome.code, 1, "{}", outcome.stderr);
        outcome.stderr
    };
    // Swapped files.
    fs::write(&cert, &secret).unwrap();
    fs::write(&key, &chain).unwrap();
    let stderr = refused();
    assert!(stderr.contains("it holds a private key, and the key file a certificate"), "{stderr}");
    assert!(stderr.contains("hint: --tls-cert and --tls-key look swapped"), "{stderr}");
    fs::write(&cert, &chain).unwrap();
    // A key with a passphrase, in both forms.
    let label = secret.lines().next().unwrap().replace("PRIVATE", "ENCRYPTED PRIVATE");
    let old = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n";
    for encrypted in [format!("{label}\nAAAA\n"), format!("{old}\nAAAA\n")] {
        fs::write(&key, encrypted).unwrap();
        let stderr = refused();
        assert!(stderr.contains("the key is encrypted\nhint: write it without"), "{stderr}");
    }
    // UTF-16, as an editor may save it.
    let utf16: Vec<_> = secret.encode_utf16().flat_map(u16::to_le_bytes).collect();
    fs::write(&key, [&b"\xFF\xFE"[..], &utf16].concat()).unwrap();
    assert!(refused().contains("it is UTF-16 and not UTF-8\nhint: save it as PEM in UTF-8"));
    fs::write(&key, "no key").unwrap();
    assert!(refused().contains("there is no private key in it"));
    // A byte order mark does no harm.
    let root = setup.certificate();
    for (path, text) in [(&cert, &chain), (&key, &secret)] {
        fs::write(path, format!("\u{FEFF}{text}")).unwrap();
    }
    let server = setup.serve();
    assert!(connect(server.address, root, &[&TLS13]).is_ok());
}

/// W-12: systemd gives its credentials the mode 0440, since an access control list has a mask.
#[test]
fn key_of_the_service_manager_is_accepted() {
    let setup = Setup::new();
    let key = setup.path("key.pem");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o440)).unwrap();
    let mut elsewhere = setup.command("");
    elsewhere.env("CREDENTIALS_DIRECTORY", "/nowhere");
    assert!(finish(elsewhere, "").stderr.contains("other users may read or write the key"));
    let mut command = setup.command("");
    command.env("CREDENTIALS_DIRECTORY", setup.store.folder());
    let server = ServerProcess::start(command);
    assert!(connect(server.address, setup.certificate(), &[&TLS13]).is_ok());
}

/// W-13: a key that becomes private is read at the next handshake.
#[test]
fn key_is_read_again_after_a_change_of_its_mode() {
    let setup = Setup::new();
    let key = setup.path("key.pem");
    let mut server = setup.serve();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(connect(server.address, setup.certificate(), &[&TLS13]).is_ok());
    server.wait_for("other users may read or write the key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    assert!(connect(server.address, setup.certificate(), &[&TLS13]).is_ok());
    server.wait_for("the certificate was read again");
}

///
#[test]
fn advice_on_a_key_is_quoted_and_given_for_keys_only() {
    let setup = Setup::new();
    let key = setup.path("the key's.pem");
    fs::rename(setup.path("key.pem"), &key).unwrap();
    let refused = || {
        let words = ["serve", "--port", "0", "--tls-cert", "cert.pem", "--tls-key"];
        let mut serve = command(setup.store.folder(), words);
        serve.arg("the key's.pem").current_dir(setup.store.folder());
        let outcome = finish(serve, "");
        assert_eq!(outcome.code, 1, "{}", outcome.stderr);
        outcome.stderr.split_once("hint: ").map(|(_, hint)| hint.to_owned())
    };
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let advice = refused().unwrap();
    let done = Command::new("sh").args(["-c", &advice]).current_dir("/").status().unwrap();
    assert!(done.success(), "{advice}");
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    fs::write(&key, "no key").unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(refused(), None);
}

/// B-12
#[test]
fn unfinished_handshake_times_out() {
    let setup = Setup::new();
    let tls = Tls::open(&setup.path("cert.pem"), &setup.path("key.pem")).unwrap();
    let timeout = std::time::Duration::from_millis(300);
    let server = Server::start_with_timeout(setup.store.reader(), Some(tls), timeout);
    let mut slow = TcpStream::connect(server.address).unwrap();
    slow.set_read_timeout(Some(TIMEOUT)).unwrap();
    // The start of a TLS record.
    slow.write_all(&[0x16, 0x03, 0x01]).unwrap();
    assert!(slow.read_to_end(&mut Vec::new()).is_ok(), "the server does not time out");
    assert!(connect(server.address, setup.certificate(), &[&TLS13]).is_ok());
}

/// T-01: a non-loopback address needs no flag with TLS.
#[test]
fn tls_server_may_listen_on_any_address() {
    let setup = Setup::new();
    // The test uses the loopback address only.
    let server = ServerProcess::start(setup.command("--host 0.0.0.0"));
    let here = SocketAddr::from(([127, 0, 0, 1], server.address.port()));
    assert!(connect(here, setup.certificate(), &[&TLS13]).is_ok());
}

/// T-02: against Mozilla's intermediate configuration.
#[test]
#[ignore = "needs openssl, and sslyze (the package of that name of Python)"]
fn sslyze_finds_only_a_self_signed_certificate() {
    let setup = Setup::new();
    let mut openssl = Command::new("openssl");
    openssl.args([
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
    ]);
    openssl.args([
        "-days",
        "90",
        "-subj",
        "/CN=localhost",
        "-addext",
        "subjectAltName=DNS:localhost",
    ]);
    openssl.arg("-keyout").arg(setup.path("key.pem")).arg("-out").arg(setup.path("cert.pem"));
    assert_eq!(finish(openssl, "").code, 0);
    let server = setup.serve();
    let mut sslyze = Command::new("sslyze");
    sslyze.args(["--mozilla_config=intermediate"]);
    sslyze.arg(format!("localhost:{}", server.address.port()));
    let said = finish(sslyze, "").stdout;
    let (_, findings) = said.split_once("Not compliant.").unwrap_or_else(|| panic!("{said}"));
    let findings: Vec<_> = findings.lines().filter(|line| line.trim().starts_with('*')).collect();
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert!(findings[0].contains("certificate_path_validation"), "{findings:?}");
}
