//! Times the work of a request beside HTTP itself: `cargo bench --bench hot_path`. Prints
//! nanoseconds, medians of 11 rounds.

use std::error::Error;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use actix_web::http::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use resttool::testing::{
    AccessRequest, AuthConfig, Authenticator, Cost, CredentialsField, Decision, DesiredPassword,
    DesiredUser, IfExists, IfMissing, Limit, Password, ReconcileOptions, Timestamp, UserName,
    basic_credentials, open_store, reconcile,
};

const ROUNDS: usize = 11;
const EACH: u32 = 100_000;

fn main() -> Result<(), Box<dyn Error>> {
    let here = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let folder = tempfile::tempdir()?;
    let store = open_store(&folder.path().join("users.db").into())?;
    let cost = Cost::new(Cost::MIN)?;
    let password = DesiredPassword::Password(Password::parse("open-sesame")?);
    let roy = DesiredUser::new(UserName::parse("roy")?, password);
    let options =
        ReconcileOptions { cost, ..ReconcileOptions::new(IfMissing::Add, IfExists::Refuse) };
    reconcile(&*store, &[roy], &options, Timestamp::now(), &|_, _| {})?;
    let once_a_day = Limit::new(1, Limit::MAX_PERIOD);
    let settings = AuthConfig { cost, source_limit: once_a_day, ..AuthConfig::default() };
    let authenticator = Authenticator::new(store, &settings)?;
    let field = CredentialsField::default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    let decide = |fields: &HeaderMap| {
        let encoded = basic_credentials(black_box(fields), &field).ok()?;
        Some(runtime.block_on(authenticator.decide(here, encoded, &AccessRequest::ANY)))
    };

    let right = fields("open-sesame")?;
    measure("read and decode the header", || {
        basic_credentials(black_box(&right), &field).is_ok_and(|encoded| encoded.decode().is_ok())
    })?;
    decide(&right);
    measure("read the header, hit in the cache", || {
        matches!(decide(&right), Some(Decision::Granted(_)))
    })?;
    let wrong = fields("wrong")?;
    decide(&wrong);
    measure("decode the header, throttle", || {
        matches!(decide(&wrong), Some(Decision::Throttled { .. }))
    })
}

fn fields(password: &str) -> Result<HeaderMap, Box<dyn Error>> {
    let mut fields = HeaderMap::new();
    let value = format!("Basic {}", STANDARD.encode(format!("roy:{password}")));
    fields.insert(AUTHORIZATION, HeaderValue::from_str(&value)?);
    Ok(fields)
}

/// Fails when the work does: another path than the one that is meant would be measured.
fn measure(what: &str, mut work: impl FnMut() -> bool) -> Result<(), Box<dyn Error>> {
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let start = Instant::now();
        for _ in 0..EACH {
            if !work() {
                return Err(format!("{what}: came out otherwise").into());
            }
        }
        rounds.push(start.elapsed());
    }
    rounds.sort();
    let median: Duration = rounds[ROUNDS / 2] / EACH;
    println!("{what:36} {:6} ns", median.as_nanos());
    Ok(())
}
