//! Compares the time of refusals for unknown and existing users: `cargo bench --bench unknown_user`.
//!
//! 200 interleaved samples each of a wrong password of some users and of the same password of an unknown name, as a client
//! measures them, alone and beside three other clients. The medians must be within 10 % of each other (requirements B-01 and
//! H-12).

use std::error::Error;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use resttool::testing::{
    AuthConfig, Authenticator, Cost, DesiredPassword, DesiredUser, HttpConfig, IfExists, IfMissing,
    LegacyHash, LegacyParams, LegacyScheme, Listener, Password, Realm, ReconcileOptions, Service,
    Timestamp, UserName, legacy_text, open_store, reconcile, run_server,
};

const SAMPLES: usize = 200;

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    // A low cost makes the rest of the way weigh more, not less.
    let cost = Cost::new(8)?;
    let store = open_store(&folder.path().join("users.db").into())?;
    let imported = |scheme, rounds| -> Result<_, Box<dyn Error>> {
        let params = LegacyParams::new(scheme, "salt", rounds)?;
        Ok(DesiredPassword::Legacy(LegacyHash::parse(&legacy_text(&params, b"open-sesame"))?))
    };
    let users = [
        ("bcrypt", DesiredPassword::Password(Password::parse("open-sesame")?)),
        ("apr1", imported(LegacyScheme::Apr1, None)?),
        // The most that an import accepts at this cost.
        ("sha512-crypt", imported(LegacyScheme::Sha512Crypt, Some(5 << cost.get()))?),
    ];
    let users: Result<Vec<_>, _> = users
        .into_iter()
        .map(|(name, password)| {
            Ok::<_, Box<dyn Error>>(DesiredUser::new(UserName::parse(name)?, password))
        })
        .collect();
    let options =
        ReconcileOptions { cost, ..ReconcileOptions::new(IfMissing::Add, IfExists::Refuse) };
    reconcile(&*store, &users?, &options, Timestamp::now(), &|_, _| {})?;
    let limits = AuthConfig { source_limit: None, user_limit: None, ..AuthConfig::default() };
    let authenticator = Arc::new(Authenticator::new(store, &AuthConfig { cost, ..limits })?);
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let address = listener.local_addr()?;
    let settings = HttpConfig::new(Realm::new(Realm::DEFAULT)?);
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

    let mut holds = true;
    for others in [0, 3] {
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            for other in 0..others {
                let done = &done;
                scope.spawn(move || {
                    let mut refused = Ok(0.0);
                    for n in 0.. {
                        if done.load(Ordering::Relaxed) || refused.is_err() {
                            break;
                        }
                        refused = refusal(address, &format!("other-{other}-{n}"), "wrong")
                            .map_err(|e| e.to_string());
                    }
                    refused
                });
            }
            let compared = compare(address, others);
            done.store(true, Ordering::Relaxed);
            compared.map(|compared| holds &= compared)
        })?;
    }
    Ok(if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Compares users with unknown names, and prints the figures. Returns true if all are within 10 %.
fn compare(address: SocketAddr, others: usize) -> Result<bool, Box<dyn Error>> {
    let long = "w".repeat(128);
    let mut holds = true;
    println!("beside {others} other clients:");
    for (user, password) in
        [("bcrypt", "wrong"), ("apr1", "wrong"), ("sha512-crypt", "wrong"), ("sha512-crypt", &long)]
    {
        let (mut known, mut unknown) = (Vec::new(), Vec::new());
        for n in 0..SAMPLES {
            known.push(refusal(address, user, password)?);
            unknown.push(refusal(address, &format!("unknown-{n}"), password)?);
        }
        let (known, unknown) = (median(known), median(unknown));
        let ratio = known / unknown;
        let length = password.len();
        println!(
            "  {user:13} {known:8.3} ms, unknown {unknown:8.3} ms, {length:3} bytes: {ratio:.3} (bar: 0.9 to 1.1)"
        );
        holds &= (0.9..=1.1).contains(&ratio);
    }
    Ok(holds)
}

/// The milliseconds from a request to the end of its refusal.
fn refusal(address: SocketAddr, user: &str, password: &str) -> Result<f64, Box<dyn Error>> {
    let credentials = STANDARD.encode(format!("{user}:{password}"));
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
