//! Compares the time of refusals for unknown and existing users: `cargo bench --bench unknown_user`.
//!
//! 200 interleaved samples each of a wrong password and of an unknown name, as a client measures them. The
//! medians must be within 10 % of each other (requirement B-01).

use std::error::Error;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use resttool::testing::{
    AuthConfig, Authenticator, Cost, Delays, DesiredPassword, DesiredUser, HttpConfig, IfExists,
    IfMissing, Listener, Password, Realm, ReconcileOptions, Service, Timestamp, UserName,
    open_store, reconcile, run_server,
};

const SAMPLES: usize = 200;

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    // A low cost makes the rest of the way weigh more, not less.
    let cost = Cost::new(8)?;
    let store = open_store(&folder.path().join("users.db").into())?;
    let password = DesiredPassword::Password(Password::parse("open-sesame")?);
    let roy = DesiredUser::new(UserName::parse("roy")?, password);
    let options =
        ReconcileOptions { cost, ..ReconcileOptions::new(IfMissing::Add, IfExists::Refuse) };
    reconcile(&*store, &[roy], &options, Timestamp::now(), &|_, _| {})?;
    let limits = AuthConfig { source_limit: None, user_limit: None, ..AuthConfig::default() };
    let authenticator = Arc::new(Authenticator::new(store, &AuthConfig { cost, ..limits })?);
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let address = listener.local_addr()?;
    let realm = Realm::new(Realm::DEFAULT)?;
    let delays = Delays::default();
    let settings = HttpConfig {
        realm,
        trusted_proxies: Vec::new(),
        delays,
        io_timeout: HttpConfig::IO_TIMEOUT,
        max_connections: HttpConfig::MAX_CONNECTIONS,
        ext_authz: None,
    };
    let (ready, is_ready) = channel();
    // It serves until this program ends.
    std::thread::spawn(move || {
        let listener = Listener { socket: listener.into(), tls: None, service: Service::Gate };
        run_server(vec![listener], authenticator, &settings, || {
            ready.send(()).map_err(std::io::Error::other)?;
            Ok(std::future::pending())
        })
    });
    is_ready.recv()?;

    let (mut wrong, mut unknown) = (Vec::new(), Vec::new());
    for _ in 0..SAMPLES {
        wrong.push(refusal(address, "roy")?);
        unknown.push(refusal(address, "ann")?);
    }
    let (wrong, unknown) = (median(wrong), median(unknown));
    let ratio = unknown / wrong;
    println!("wrong password {wrong:8.3} ms");
    println!("unknown name   {unknown:8.3} ms");
    println!("ratio          {ratio:8.3}      (bar: 0.9 to 1.1)");
    Ok(if (0.9..=1.1).contains(&ratio) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The milliseconds from a request to the end of its refusal.
fn refusal(address: SocketAddr, user: &str) -> Result<f64, Box<dyn Error>> {
    let credentials = STANDARD.encode(format!("{user}:wrong"));
    let request = format!(
        "GET /rest-auth HTTP/1.1\r\nHost: a\r\nConnection: close\r\nAuthorization: Basic {credentials}\r\n\r\n"
    );
    let mut stream = TcpStream::connect(address)?;
    let start = Instant::now();
    stream.write_all(request.as_bytes())?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply)?;
    let time = start.elapsed().as_secs_f64() * 1000.0;
    if reply.starts_with("HTTP/1.1 401 ") { Ok(time) } else { Err(reply.into()) }
}

fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}
