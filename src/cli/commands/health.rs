//! `resttool health`

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;

use crate::cli::control::ask_each;
use crate::cli::exit::{Exit, Failure, print, say};
use crate::config::{ControlSetting, QuietSetting};
use crate::http::{ControlError, HealthPath, ProbeError, Upstream, UpstreamAddress, probe};
use crate::store::Location;
use crate::text::printable;

/// The path of a URL that names none.
const DEFAULT_PATH: &str = "/readyz";

/// The time in which a server has to answer.
const LIMIT: Duration = Duration::from_secs(5);

/// Ask a running server whether it is ready; exits with 0 if it is, 1 if not, 4 if there is none
#[derive(Args, Debug)]
#[command(
    after_long_help = "Without a URL, it asks the servers that run on the same store, over their control sockets. They are
ready if users can be looked up. A server is asked for /readyz unless the URL has a path, has to answer within 5 s,
and is ready if it answers with 2xx. No other program is needed, e.g. in a container.

Examples:
  resttool health
  resttool health http://127.0.0.1:5000
  resttool health http://127.0.0.1:5000/healthz
  resttool health --unix-socket resttool.sock"
)]
pub(in crate::cli) struct Health {
    /// Ask the server at this URL, e.g. http://127.0.0.1:5000
    url: Option<HealthUrl>,

    /// Ask the server that listens on this Unix socket
    #[arg(long, value_name = "PATH", conflicts_with = "url")]
    unix_socket: Option<PathBuf>,

    #[command(flatten)]
    control: ControlSetting,

    #[command(flatten)]
    quiet: QuietSetting,
}

/// The URL of a health path.
#[derive(Clone, Debug)]
struct HealthUrl {
    server: UpstreamAddress,
    path: HealthPath,
}

impl FromStr for HealthUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let authority = text.find("://").map_or(0, |at| at + "://".len());
        let rest = text.get(authority..).unwrap_or_default();
        // The path of `unix:/PATH` is that of the socket.
        let path = rest.find('/').filter(|_| authority > 0).map_or(text.len(), |at| authority + at);
        let (server, path) = text.split_at(path);
        let path = if matches!(path, "" | "/") { DEFAULT_PATH } else { path };
        Ok(Self {
            server: server.parse().map_err(|_| {
                "expected http://HOST:PORT/PATH, e.g. http://127.0.0.1:5000/readyz".to_owned()
            })?,
            path: path
                .parse()
                .map_err(|_| "its path has other characters than a URL".to_owned())?,
        })
    }
}

/// Whether a server is ready.
enum Readiness {
    Ready,
    NotReady(String),
    /// There is no connection.
    Unreachable(String),
}

impl Health {
    pub(super) fn describe(&self) -> String {
        "check the health".to_owned()
    }

    pub(super) fn run(&self, location: &Location) -> Result<(), Failure> {
        let (what, readiness) = match (&self.url, &self.unix_socket) {
            (Some(HealthUrl { server, path }), _) => ask(server, path)?,
            (None, Some(socket)) => {
                let path = DEFAULT_PATH.parse().map_err(|e| Failure::new(Exit::Failed, e))?;
                ask(&UpstreamAddress::Unix(socket.clone()), &path)?
            }
            (None, None) => self.ask_all(location)?,
        };
        let (word, why, exit) = match readiness {
            Readiness::Ready if self.quiet.quiet => return Ok(()),
            Readiness::Ready => return print(&format!("ready: {what}")),
            Readiness::NotReady(why) => ("not ready", why, Exit::Failed),
            Readiness::Unreachable(why) => ("unreachable", why, Exit::Unreachable),
        };
        say(&format!("resttool: {word}: {what}: {}", printable(&why)));
        Err(Failure::reported(exit))
    }

    /// Asks all servers on the store.
    fn ask_all(&self, location: &Location) -> Result<(String, Readiness), Failure> {
        let answers = ask_each(location, self.control.path(), |server| match server.readiness() {
            Ok(status) if status.is_success() => Ok(None),
            Ok(status) => Ok(Some(format!("it answers {status}"))),
            Err(e @ ControlError::Connect(_)) => Err(e),
            Err(e) => Ok(Some(e.to_string())),
        });
        let what = format!("the server on {location}");
        Ok(match answers {
            Err(failure) => (what, Readiness::Unreachable(failure.into_reason())),
            Ok(answers) => match answers.into_iter().flatten().next() {
                Some(why) => (what, Readiness::NotReady(why)),
                None => (what, Readiness::Ready),
            },
        })
    }
}

/// Asks one server.
fn ask(address: &UpstreamAddress, path: &HealthPath) -> Result<(String, Readiness), Failure> {
    let what = match address {
        UpstreamAddress::Unix(_) => format!("{path} on {address}"),
        UpstreamAddress::Tcp { .. } => format!("{address}{path}"),
    };
    let server = Upstream::new(address.clone(), None).map_err(|e| Failure::new(Exit::Failed, e))?;
    Ok((
        printable(&what),
        match probe(&server, path, LIMIT) {
            Ok(status) if status.is_success() => Readiness::Ready,
            Ok(status) => Readiness::NotReady(format!("it answers {status}")),
            Err(ProbeError::Connect(e)) => Readiness::Unreachable(e.to_string()),
            Err(e) => Readiness::NotReady(e.to_string()),
        },
    ))
}
