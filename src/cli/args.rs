//! The arguments, as data: what each verb takes, its help and its environment variables. Nothing is done here.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{BoolishValueParser, RangedU64ValueParser};
use clap::{Args, Parser, Subcommand, value_parser};

use crate::auth::Limit;
use crate::credential::{self, HashError, printable};
use crate::server::Network;

/// A gate in front of REST APIs: HTTP Basic against users in one SQLite file with bcrypt hashes
#[derive(Parser, Debug)]
#[command(name = "resttool", version, arg_required_else_help = true, max_term_width = 100)]
#[command(after_long_help = "Examples:
  resttool useradd roy                          ask for a password, and add the user roy
  resttool serve --port 5000                    answer http://127.0.0.1:5000/rest-auth
  curl -u roy http://127.0.0.1:5000/rest-auth   try it
  resttool userdel roy                          roy is out at the next request")]
pub(super) struct Cli {
    /// The file that holds the users; made with its folders when it is missing
    ///
    /// Default: resttool/resttool.db in $XDG_DATA_HOME, or in ~/.local/share where that is not set.
    #[arg(long, value_name = "PATH", global = true, env = "RESTTOOL_DATABASE")]
    pub(super) database: Option<PathBuf>,

    #[command(subcommand)]
    pub(super) verb: Verb,
}

#[derive(Subcommand, Debug)]
pub(super) enum Verb {
    Serve(Serve),
    Useradd(Useradd),
    Userdel(Userdel),
    Hash(Hash),
}

/// Answer /rest-auth for users who show the right name and password
#[derive(Args, Debug)]
#[command(after_long_help = "Routes:
  GET /rest-auth   200 with the right name and password, 401 with others, 429 after too many wrong ones,
                   503 when it can't be found out
  GET /healthz     200, without credentials and without a look at the users

SIGTERM and SIGINT (Ctrl-C) let the requests in flight finish.

Examples:
  resttool serve
  resttool serve --port 0 --realm 'Wine cellar'
  resttool serve --trusted-proxy 127.0.0.1 --source-failures 5/10m
  RESTTOOL_PORT=8080 resttool serve")]
pub(super) struct Serve {
    /// The address to listen on
    #[arg(long, value_name = "HOST", default_value = "127.0.0.1", env = "RESTTOOL_HOST")]
    pub(super) host: String,

    /// The port to listen on; 0 takes a free one, and the log says which
    #[arg(long, value_name = "PORT", default_value_t = 5000, env = "RESTTOOL_PORT")]
    pub(super) port: u16,

    /// Listen on an address that other machines reach, although passwords travel in the clear
    #[arg(long, env = "RESTTOOL_ALLOW_PLAINTEXT", value_parser = BoolishValueParser::new())]
    pub(super) allow_plaintext: bool,

    /// The realm: what a browser says when it asks for the password
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "Authentication Required",
        env = "RESTTOOL_REALM"
    )]
    pub(super) realm: String,

    #[command(flatten)]
    pub(super) cost: Cost,

    /// How many threads compute hashes; default: one for each core
    #[arg(
        long,
        value_name = "N",
        env = "RESTTOOL_HASH_WORKERS",
        value_parser = RangedU64ValueParser::<usize>::new().range(1..=256)
    )]
    pub(super) hash_workers: Option<usize>,

    /// How many tries may wait for a hash; default: two seconds of work, as long as hashes are seen to take
    #[arg(
        long,
        value_name = "N",
        env = "RESTTOOL_QUEUE",
        value_parser = RangedU64ValueParser::<usize>::new().range(1..=65_536)
    )]
    pub(super) queue: Option<usize>,

    /// How many verified passwords are remembered at most; 0 remembers none
    #[arg(
        long,
        value_name = "N",
        default_value_t = 65_536,
        env = "RESTTOOL_CACHE_ENTRIES",
        value_parser = RangedU64ValueParser::<usize>::new().range(0..=1_048_576)
    )]
    pub(super) cache_entries: usize,

    /// How long a verified password is remembered that nobody uses: 90s, 30m, 1h
    #[arg(
        long,
        value_name = "TIME",
        default_value = "1h",
        env = "RESTTOOL_CACHE_LIFETIME",
        value_parser = lifetime
    )]
    pub(super) cache_lifetime: Duration,

    /// How often one source may fail in a time; 0 is no limit
    #[arg(
        long,
        value_name = "N/TIME",
        default_value = "10/1m",
        env = "RESTTOOL_SOURCE_FAILURES",
        value_parser = failures
    )]
    pub(super) source_failures: Failures,

    /// How often one user's password may be guessed wrong in a time, by sources that never knew it; 0 is no limit
    #[arg(
        long,
        value_name = "N/TIME",
        default_value = "30/1m",
        env = "RESTTOOL_USER_FAILURES",
        value_parser = failures
    )]
    pub(super) user_failures: Failures,

    /// A proxy whose X-Forwarded-For is believed: an address or a network, as 10.0.0.0/8; may be repeated
    #[arg(long, value_name = "CIDR", env = "RESTTOOL_TRUSTED_PROXY", value_delimiter = ',')]
    pub(super) trusted_proxy: Vec<Network>,

    /// How much to log, on stderr: off, error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL", default_value = "info", env = "RESTTOOL_LOG_LEVEL")]
    pub(super) log_level: log::LevelFilter,

    /// Log every grant, those of remembered passwords too
    #[arg(long, env = "RESTTOOL_AUDIT_HITS", value_parser = BoolishValueParser::new())]
    pub(super) audit_hits: bool,
}

/// A limit on failures, or none.
#[derive(Clone, Copy, Debug)]
pub(super) struct Failures(pub(super) Option<Limit>);

fn failures(text: &str) -> Result<Failures, String> {
    if text == "0" {
        return Ok(Failures(None));
    }
    let limit = text.split_once('/').and_then(|(failures, period)| {
        Limit::new(failures.parse().ok()?, humantime::parse_duration(period).ok()?)
    });
    limit.map(|limit| Failures(Some(limit))).ok_or_else(|| {
        format!("expected 0, or 1 to {} failures in 1s to 24h, as 10/1m", Limit::MAX_FAILURES)
    })
}

fn lifetime(text: &str) -> Result<Duration, String> {
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    humantime::parse_duration(text)
        .ok()
        .filter(|time| (Duration::from_secs(1)..=30 * DAY).contains(time))
        .ok_or_else(|| "expected a time from 1s to 30d, as 90s, 30m or 1h".to_owned())
}

/// Add a user
#[derive(Args, Debug)]
#[command(after_long_help = "Examples:
  resttool useradd roy                                      ask for the password on the terminal
  printf '%s' \"$PASSWORD\" | resttool useradd roy --password-stdin
  password=$(resttool useradd roy --generate)
  htpasswd -nbB roy secret | cut -d: -f2 | resttool useradd roy --hash-stdin
  resttool useradd roy --if-not-exists --password-file /run/secrets/roy")]
pub(super) struct Useradd {
    /// The user's name: no spaces, no colon, at most 128 bytes; case matters
    pub(super) name: String,

    #[command(flatten)]
    pub(super) password: PasswordSource,

    /// Take a ready bcrypt hash ($2a$, $2b$ or $2y$) from standard input, and no password
    #[arg(long, env = "RESTTOOL_HASH_STDIN", value_parser = BoolishValueParser::new())]
    pub(super) hash_stdin: bool,

    #[command(flatten)]
    pub(super) cost: Cost,

    #[command(flatten)]
    pub(super) length: MinLength,

    /// Succeed without changing anything if there is a user of that name
    #[arg(long, env = "RESTTOOL_IF_NOT_EXISTS", value_parser = BoolishValueParser::new())]
    pub(super) if_not_exists: bool,
}

/// Remove a user: the next request with their password is refused
#[derive(Args, Debug)]
#[command(after_long_help = "Examples:
  resttool userdel roy
  resttool userdel roy --if-exists")]
pub(super) struct Userdel {
    /// The user's name
    pub(super) name: String,

    /// Succeed if there is no user of that name
    #[arg(long, env = "RESTTOOL_IF_EXISTS", value_parser = BoolishValueParser::new())]
    pub(super) if_exists: bool,
}

/// Print the bcrypt hash of a password
#[derive(Args, Debug)]
#[command(after_long_help = "Examples:
  resttool hash                                             ask for the password on the terminal
  printf '%s' \"$PASSWORD\" | resttool hash --password-stdin --cost 10
  resttool hash --password-file /run/secrets/roy")]
pub(super) struct Hash {
    #[command(flatten)]
    pub(super) password: PasswordSource,

    #[command(flatten)]
    pub(super) cost: Cost,

    #[command(flatten)]
    pub(super) length: MinLength,
}

/// Where a password comes from. Never from an argument or the environment: other users of the machine
/// can read those.
#[derive(Args, Debug)]
pub(super) struct PasswordSource {
    /// Take the password from standard input: one line, its line end dropped
    #[arg(long, env = "RESTTOOL_PASSWORD_STDIN", value_parser = BoolishValueParser::new())]
    pub(super) password_stdin: bool,

    /// Take the password from a file: one line, its line end dropped
    #[arg(long, value_name = "PATH", env = "RESTTOOL_PASSWORD_FILE")]
    pub(super) password_file: Option<PathBuf>,

    /// Make up a random password, and print it on standard output
    #[arg(long, env = "RESTTOOL_GENERATE", value_parser = BoolishValueParser::new())]
    pub(super) generate: bool,
}

#[derive(Args, Debug)]
pub(super) struct Cost {
    /// bcrypt's cost, 4 to 15: each step doubles the time of a hash
    #[arg(
        long,
        value_name = "N",
        default_value_t = 12,
        env = "RESTTOOL_COST",
        value_parser = value_parser!(u8).range(4..=15)
    )]
    cost: u8,
}

impl Cost {
    pub(super) fn parse(&self) -> Result<credential::Cost, HashError> {
        credential::Cost::new(self.cost)
    }
}

#[derive(Args, Debug)]
pub(super) struct MinLength {
    /// Refuse a password of fewer characters
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1,
        env = "RESTTOOL_MIN_LENGTH",
        value_parser = value_parser!(u8).range(1..=72)
    )]
    pub(super) min_length: u8,
}

/// What the verb is to do, as in "cannot add user roy".
impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Serve(_) => f.write_str("serve"),
            Self::Useradd(args) => write!(f, "add user {}", printable(&args.name)),
            Self::Userdel(args) => write!(f, "remove user {}", printable(&args.name)),
            Self::Hash(_) => f.write_str("make a hash"),
        }
    }
}
