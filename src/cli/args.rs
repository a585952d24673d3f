//! Arguments as data: the options of each command, their help and environment variables.
//!
//! Nothing is done here.

use std::fmt;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{BoolishValueParser, RangedU64ValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum, value_parser};

use crate::auth::Limit;
use crate::credential::{self, GroupName, HashError};
use crate::moment::Moment;
use crate::server::{self, Network};
use crate::text::printable;
use crate::users::Policy;

/// Add HTTP Basic authentication to an API, with users and bcrypt hashes in one SQLite file
#[derive(Parser, Debug)]
#[command(name = "resttool", version, arg_required_else_help = true, max_term_width = 100)]
#[command(after_long_help = "Examples:
  resttool useradd roy                          add the user roy and ask for a password
  resttool serve --port 5000                    answer http://127.0.0.1:5000/rest-auth
  curl -u roy http://127.0.0.1:5000/rest-auth   try it
  resttool userdel roy                          refuse roy from the next request on")]
pub(super) struct Cli {
    /// Keep users in this file; it is created, with its folders, if it does not exist
    ///
    /// Default: resttool/resttool.db in $XDG_DATA_HOME, or in ~/.local/share if that is not set.
    #[arg(long, value_name = "PATH", global = true, env = "RESTTOOL_DATABASE")]
    pub(super) database: Option<PathBuf>,

    #[command(subcommand)]
    pub(super) verb: Verb,
}

#[derive(Subcommand, Debug)]
pub(super) enum Verb {
    Serve(Serve),
    Useradd(Useradd),
    Passwd(Passwd),
    Usermod(Usermod),
    Userdel(Userdel),
    Userlist(Userlist),
    Verify(Verify),
    Chpasswd(Chpasswd),
    Import(Import),
    Export(Export),
    Apply(Apply),
    Hash(Hash),
    Check(Check),
    Backup(Backup),
    Print(Print),
    Completions(Completions),
    Man(Man),
}

/// Answer /rest-auth and /auth: check the user name and password of each request
#[derive(Args, Debug)]
#[command(after_long_help = "Routes:
  GET /rest-auth   200 with valid credentials, 401 without, 403 without the group, 429 after too
                   many failed logins, 503 if the server cannot check
  /auth            the same for reverse proxies: 200 with Remote-User and Remote-Groups, 401 or 403;
                   ?group=admin requires a group
  GET /healthz     200 while the server runs
  GET /readyz      200 if users can be looked up, 503 if not
  GET /openapi.json   an OpenAPI 3.1 description of these routes

SIGTERM and SIGINT (Ctrl-C) let requests in flight finish. A second signal ends the server at once.
SIGHUP reloads the certificate.

Examples:
  resttool serve
  resttool serve --port 0 --realm 'Wine cellar'
  resttool serve --trusted-proxy 127.0.0.1 --source-failures 5/10m
  resttool serve --host 0.0.0.0 --tls-cert /etc/resttool/cert.pem --tls-key /etc/resttool/key.pem
  resttool serve --unix-socket resttool.sock --unix-socket-mode 660
  RESTTOOL_PORT=8080 resttool serve")]
pub(super) struct Serve {
    #[command(flatten)]
    pub(super) address: Address,

    /// Listen on a Unix socket at this path instead of a port
    #[arg(long, value_name = "PATH", env = "RESTTOOL_UNIX_SOCKET", conflicts_with_all = ["tls_cert", "tls_key"], help_heading = "Listening")]
    pub(super) unix_socket: Option<PathBuf>,

    /// Create the Unix socket with this mode, in octal
    #[arg(long, value_name = "MODE", default_value = "600", env = "RESTTOOL_UNIX_SOCKET_MODE", value_parser = mode, help_heading = "Listening")]
    pub(super) unix_socket_mode: u32,

    /// Serve TLS with the certificate chain in this PEM file; reloaded when it changes, or on
    /// SIGHUP
    #[arg(
        long,
        value_name = "PATH",
        env = "RESTTOOL_TLS_CERT",
        requires = "tls_key",
        help_heading = "TLS"
    )]
    pub(super) tls_cert: Option<PathBuf>,

    /// Read the private key from this PEM file, which only its owner may read
    #[arg(
        long,
        value_name = "PATH",
        env = "RESTTOOL_TLS_KEY",
        requires = "tls_cert",
        help_heading = "TLS"
    )]
    pub(super) tls_key: Option<PathBuf>,

    /// Allow a non-loopback address without TLS (passwords are sent in the clear)
    #[arg(long, env = "RESTTOOL_ALLOW_PLAINTEXT", value_parser = BoolishValueParser::new(), help_heading = "TLS")]
    pub(super) allow_plaintext: bool,

    /// Name the protected area in the challenge; browsers show this realm when they ask for a
    /// password
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "Authentication Required",
        env = "RESTTOOL_REALM",
        help_heading = "Access"
    )]
    pub(super) realm: String,

    #[command(flatten)]
    pub(super) cost: Cost,

    /// Compute hashes on this many threads [default: one per core]
    #[arg(
        long,
        value_name = "N",
        env = "RESTTOOL_HASH_WORKERS",
        value_parser = RangedU64ValueParser::<usize>::new().range(1..=256),
        help_heading = "Hashing"
    )]
    pub(super) hash_workers: Option<usize>,

    /// Let at most this many login attempts wait for a hash worker [default: about 2 s of work,
    /// measured]
    #[arg(
        long,
        value_name = "N",
        env = "RESTTOOL_QUEUE",
        value_parser = RangedU64ValueParser::<usize>::new().range(1..=65_536),
        help_heading = "Hashing"
    )]
    pub(super) queue: Option<usize>,

    /// Cache at most this many verified passwords; 0 disables the cache
    #[arg(
        long,
        value_name = "N",
        default_value_t = 65_536,
        env = "RESTTOOL_CACHE_ENTRIES",
        value_parser = RangedU64ValueParser::<usize>::new().range(0..=1_048_576),
        help_heading = "Cache"
    )]
    pub(super) cache_entries: usize,

    /// Forget a verified password after it has been unused for this long (e.g. 90s, 30m, 1h)
    #[arg(
        long,
        value_name = "TIME",
        default_value = "1h",
        env = "RESTTOOL_CACHE_LIFETIME",
        value_parser = lifetime,
        help_heading = "Cache"
    )]
    pub(super) cache_lifetime: Duration,

    /// Allow this many failed logins per source address (COUNT/PERIOD); 0 disables the limit
    #[arg(
        long,
        value_name = "COUNT/PERIOD",
        default_value = "10/1m",
        env = "RESTTOOL_SOURCE_FAILURES",
        value_parser = failures,
        help_heading = "Limits"
    )]
    pub(super) source_failures: Failures,

    /// Allow this many failed logins per user name (COUNT/PERIOD) from addresses that have never
    /// logged in as that user; 0 disables the limit
    #[arg(
        long,
        value_name = "COUNT/PERIOD",
        default_value = "30/1m",
        env = "RESTTOOL_USER_FAILURES",
        value_parser = failures,
        help_heading = "Limits"
    )]
    pub(super) user_failures: Failures,

    /// Allow this many connections at once; at the limit, the source with the most connections
    /// loses its longest idle one
    #[arg(long, value_name = "N", default_value_t = server::Settings::MAX_CONNECTIONS, env = "RESTTOOL_MAX_CONNECTIONS", help_heading = "Limits")]
    pub(super) max_connections: NonZeroUsize,

    /// Trust X-Forwarded-For from this proxy address or network, e.g. 10.0.0.0/8; may be repeated
    #[arg(
        long,
        value_name = "CIDR",
        env = "RESTTOOL_TRUSTED_PROXY",
        value_delimiter = ',',
        help_heading = "Access"
    )]
    pub(super) trusted_proxy: Vec<Network>,

    /// Admit only users in one of these groups; may be repeated, or separated by commas
    #[arg(long, value_name = "GROUP", env = "RESTTOOL_REQUIRE_GROUP", value_delimiter = ',', value_parser = group_name, help_heading = "Access")]
    pub(super) require_group: Vec<GroupName>,

    /// Log to standard error at this level: off, error, warn, info, debug or trace
    #[arg(
        long,
        value_name = "LEVEL",
        default_value = "info",
        env = "RESTTOOL_LOG_LEVEL",
        help_heading = "Logging"
    )]
    pub(super) log_level: log::LevelFilter,

    /// Write the log in this format
    #[arg(
        long,
        value_name = "FORMAT",
        default_value = "text",
        env = "RESTTOOL_LOG_FORMAT",
        help_heading = "Logging"
    )]
    pub(super) log_format: LogFormat,

    /// Replace a hash that costs less than --cost when its user logs in
    #[arg(long, env = "RESTTOOL_REHASH", value_parser = BoolishValueParser::new(), help_heading = "Hashing")]
    pub(super) rehash: bool,

    /// Log every granted request, including those with a cached password
    #[arg(long, env = "RESTTOOL_AUDIT_HITS", value_parser = BoolishValueParser::new(), help_heading = "Logging")]
    pub(super) audit_hits: bool,
}

/// A format of the log.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Debug)]
pub(super) enum LogFormat {
    /// Lines for people
    Text,
    /// One JSON object per line
    Json,
}

/// The address that the server listens on.
#[derive(Args, Debug)]
pub(super) struct Address {
    /// Listen on this address
    #[arg(
        long,
        value_name = "HOST",
        default_value = "127.0.0.1",
        env = "RESTTOOL_HOST",
        help_heading = "Listening"
    )]
    pub(super) host: String,

    /// Listen on this port; 0 picks a free one and logs it
    #[arg(
        long,
        value_name = "PORT",
        default_value_t = 5000,
        env = "RESTTOOL_PORT",
        help_heading = "Listening"
    )]
    pub(super) port: u16,
}

/// A limit on failed logins, or none.
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
        format!("expected 0, or 1 to {} failures per 1s to 24h, e.g. 10/1m", Limit::MAX_FAILURES)
    })
}

fn lifetime(text: &str) -> Result<Duration, String> {
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    humantime::parse_duration(text)
        .ok()
        .filter(|time| (Duration::from_secs(1)..=30 * DAY).contains(time))
        .ok_or_else(|| "expected a time from 1s to 30d, e.g. 90s, 30m or 1h".to_owned())
}

/// Add a user
#[derive(Args, Debug)]
#[command(after_long_help = "Examples:
  resttool useradd roy                                      ask for the password on the terminal
  printf '%s' \"$PASSWORD\" | resttool useradd roy --password-stdin
  password=$(resttool useradd roy --generate)
  resttool hash --password-file /run/secrets/roy | resttool useradd roy --hash-stdin
  resttool useradd roy --if-not-exists --password-file /run/secrets/roy
  resttool useradd roy --update --password-file /run/secrets/roy --group admin,staff")]
pub(super) struct Useradd {
    /// The user's name: no spaces, no colon, at most 128 bytes; case matters
    pub(super) name: String,

    #[command(flatten)]
    pub(super) secret: NewSecret,

    #[command(flatten)]
    pub(super) hashing: Hashing,

    /// Succeed without a change if the user exists
    #[arg(long)]
    pub(super) if_not_exists: bool,

    /// Update an existing user; options that are not given leave their values unchanged
    ///
    /// A password that matches the stored hash keeps it, so a second run changes nothing.
    #[arg(long)]
    pub(super) update: bool,

    /// Put the user in these groups; may be repeated, or separated by commas
    #[arg(long, value_name = "GROUP", value_delimiter = ',', value_parser = group)]
    pub(super) group: Option<Vec<Group>>,

    #[command(flatten)]
    pub(super) expiry: Expiry,

    /// Refuse the user even with the right password
    #[arg(long)]
    pub(super) locked: bool,

    #[command(flatten)]
    pub(super) output: Output,
}

/// Change a user's password; the old one is refused from the next request on
#[derive(Args, Debug)]
#[command(after_long_help = "Examples:
  resttool passwd roy                                       ask for the password on the terminal
  printf '%s' \"$PASSWORD\" | resttool passwd roy --password-stdin
  password=$(resttool passwd roy --generate)
  resttool hash --password-file /run/secrets/roy | resttool passwd roy --hash-stdin")]
pub(super) struct Passwd {
    /// The user's name
    pub(super) name: String,

    #[command(flatten)]
    pub(super) secret: NewSecret,

    #[command(flatten)]
    pub(super) hashing: Hashing,

    #[command(flatten)]
    pub(super) output: Output,
}

/// Change a user's groups, lock, expiry or name
#[derive(Args, Debug)]
#[command(after_long_help = "Examples:
  resttool usermod roy --lock                               refused from the next request on
  resttool usermod roy --unlock --expire 2027-01-31
  resttool usermod roy --group admin,staff                  in these groups and no others
  resttool usermod roy --group staff --append
  resttool usermod roy --group ''                           in no group
  resttool usermod roy --rename leroy")]
pub(super) struct Usermod {
    /// The user's name
    pub(super) name: String,

    /// Refuse the user even with the right password
    #[arg(long)]
    pub(super) lock: bool,

    /// Admit the user again
    #[arg(long)]
    pub(super) unlock: bool,

    #[command(flatten)]
    pub(super) expiry: Expiry,

    /// Replace the user's groups by these; may be repeated, or separated by commas
    #[arg(long, value_name = "GROUP", value_delimiter = ',', value_parser = group)]
    pub(super) group: Option<Vec<Group>>,

    /// Add the user to the groups of --group and keep the other groups
    #[arg(long)]
    pub(super) append: bool,

    /// Remove the user from the groups of --group
    #[arg(long)]
    pub(super) remove: bool,

    /// Rename the user; the password is kept
    #[arg(long, value_name = "NEW")]
    pub(super) rename: Option<String>,

    #[command(flatten)]
    pub(super) output: Output,
}

/// Remove a user; the password is refused from the next request on
#[derive(Args, Debug)]
#[command(after_long_help = "Examples:
  resttool userdel roy
  resttool userdel roy --if-exists")]
pub(super) struct Userdel {
    /// The user's name
    pub(super) name: String,

    /// Succeed if the user does not exist
    #[arg(long)]
    pub(super) if_exists: bool,

    #[command(flatten)]
    pub(super) output: Output,
}

/// List users, without their hashes
#[derive(Args, Debug)]
#[command(after_long_help = "Examples:
  resttool userlist
  resttool userlist 'ci-*'
  resttool userlist --group admin --json
  resttool userlist --cost-below 12                         users with a weak hash")]
pub(super) struct Userlist {
    /// List users whose name matches; * stands for any text, ? for any character
    pub(super) pattern: Option<String>,

    /// List users in this group
    #[arg(long, value_name = "GROUP", value_parser = group_name)]
    pub(super) group: Option<GroupName>,

    /// List locked users
    #[arg(long)]
    pub(super) locked: bool,

    /// List expired users
    #[arg(long)]
    pub(super) expired: bool,

    /// List users whose hash costs less than this
    #[arg(long, value_name = "N")]
    pub(super) cost_below: Option<u8>,

    #[command(flatten)]
    pub(super) json: Json,
}

/// Check a password as the server does; exits with 0 if it is granted, 3 if not, 6 if the user does
/// not exist
#[derive(Args, Debug)]
#[command(after_long_help = "Examples:
  resttool verify roy                                       ask for the password on the terminal
  printf '%s' \"$PASSWORD\" | resttool verify roy --password-stdin
  resttool verify roy --password-file /run/secrets/roy --quiet && echo right")]
pub(super) struct Verify {
    /// The user's name
    pub(super) name: String,

    #[command(flatten)]
    pub(super) password: KnownPassword,

    #[command(flatten)]
    pub(super) json: Json,

    /// Print errors only
    #[arg(short, long, env = "RESTTOOL_QUIET", value_parser = BoolishValueParser::new(), help_heading = "Output")]
    pub(super) quiet: bool,
}

/// Change many passwords in one transaction, from name:password lines on standard input
#[derive(Args, Debug)]
#[command(after_long_help = "Examples:
  resttool chpasswd <passwords
  printf 'ann:%s\\nbob:%s\\n' \"$ANN\" \"$BOB\" | resttool chpasswd --create")]
pub(super) struct Chpasswd {
    /// Add users that do not exist
    #[arg(long)]
    pub(super) create: bool,

    #[command(flatten)]
    pub(super) hashing: Hashing,

    #[command(flatten)]
    pub(super) output: Output,
}

/// A format of users in a file.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Debug)]
pub(super) enum Format {
    /// name:hash lines, as Apache and nginx read them
    Htpasswd,
    /// JSON lines with the whole record of each user
    Jsonl,
}

/// The treatment of an imported user that exists already.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Debug)]
pub(super) enum OnConflict {
    /// Change nothing and exit with 9
    Fail,
    /// Keep the existing user
    Skip,
    /// Replace the existing user by the one in the file
    Replace,
}

/// Import users with their hashes from a file, in one transaction
#[derive(Args, Debug)]
#[command(after_long_help = "Examples:
  resttool import /etc/nginx/htpasswd
  resttool import users.jsonl --format jsonl --on-conflict replace
  resttool export --database old.db | resttool import - --on-conflict skip")]
pub(super) struct Import {
    /// The file; - is standard input
    pub(super) file: PathBuf,

    /// Read the file in this format
    #[arg(long, value_name = "FORMAT", default_value = "htpasswd")]
    pub(super) format: Format,

    /// Treat existing users like this; of two lines for one user, skip takes the first and replace
    /// the last
    #[arg(long, value_name = "ACTION", default_value = "fail")]
    pub(super) on_conflict: OnConflict,

    #[command(flatten)]
    pub(super) output: Output,
}

/// Export all users with their hashes to a file that only its owner may read
#[derive(Args, Debug)]
#[command(after_long_help = "Examples:
  resttool export /etc/nginx/htpasswd                       without locked and expired users
  resttool export users.jsonl --format jsonl                a complete copy
  resttool export | resttool import - --database new.db")]
pub(super) struct Export {
    /// The file, replaced atomically if it exists; - is standard output
    #[arg(default_value = "-")]
    pub(super) file: PathBuf,

    /// Write the file in this format
    #[arg(long, value_name = "FORMAT", default_value = "htpasswd")]
    pub(super) format: Format,

    /// Print warnings and errors only
    #[arg(short, long, env = "RESTTOOL_QUIET", value_parser = BoolishValueParser::new(), help_heading = "Output")]
    pub(super) quiet: bool,
}

/// Reconcile the users with the desired state in a file, in one transaction
#[derive(Args, Debug)]
#[command(after_long_help = "The file is TOML:
  [[user]]
  name = \"ann\"
  password_file = \"/run/secrets/ann\"   # or password_hash = \"$2y$...\", or generate = true for a new user
  groups = [\"admin\", \"staff\"]        # default: none
  locked = false
  expire = 2027-01-31                  # default: never

A second run changes nothing: a password that matches the stored hash keeps it.

Examples:
  resttool apply users.toml --dry-run
  resttool apply users.toml
  resttool apply users.toml --prune --json                  remove users that are not in the file")]
pub(super) struct Apply {
    /// The file; - is standard input
    pub(super) file: PathBuf,

    /// Print the changes without making them
    #[arg(short = 'n', long)]
    pub(super) dry_run: bool,

    /// Remove users that are not in the file
    #[arg(long)]
    pub(super) prune: bool,

    #[command(flatten)]
    pub(super) hashing: Hashing,

    #[command(flatten)]
    pub(super) output: Output,
}

/// Print the bcrypt hash of a password
#[derive(Args, Debug)]
#[command(after_long_help = "Examples:
  resttool hash                                             ask for the password on the terminal
  printf '%s' \"$PASSWORD\" | resttool hash --password-stdin --cost 10
  resttool hash --password-file /run/secrets/roy --htpasswd roy >>/etc/nginx/htpasswd
  resttool hash --calibrate 250ms                           find the cost for this machine")]
pub(super) struct Hash {
    /// Print an htpasswd line for a user of this name
    #[arg(long, value_name = "NAME")]
    pub(super) htpasswd: Option<String>,

    /// Print the highest cost at which hashing takes less than TIME on this machine, and exit
    #[arg(long, value_name = "TIME", value_parser = hash_time)]
    pub(super) calibrate: Option<Duration>,

    #[command(flatten)]
    pub(super) password: PasswordSource,

    #[command(flatten)]
    pub(super) hashing: Hashing,
}

/// Check the database for problems and suggest fixes; exits with 0 if none were found, 1 otherwise
#[derive(Args, Debug)]
#[command(
    after_long_help = "It checks the modes and owners of the folder and the files, the integrity and the version of
the database, and the record of each user. It changes nothing.

Examples:
  resttool check --cost 4
  resttool check --json | jq -r .fix"
)]
pub(super) struct Check {
    /// The lowest cost of a hash that is no problem.
    #[command(flatten)]
    pub(super) cost: Cost,

    #[command(flatten)]
    pub(super) json: Json,

    /// Print problems only
    #[arg(short, long, env = "RESTTOOL_QUIET", value_parser = BoolishValueParser::new(), help_heading = "Output")]
    pub(super) quiet: bool,
}

/// Write a consistent copy of the database while it is in use
#[derive(Args, Debug)]
#[command(
    after_long_help = "The copy replaces the file atomically, and only its owner may read it. It is built in memory
and takes up to twice the size of the database, which may be at most 1 GiB. To restore a copy, move
it over the database. A running server uses it from the next request on.

Examples:
  resttool backup users.backup
  resttool check --database users.backup --cost 4"
)]
pub(super) struct Backup {
    /// The destination file; replaced atomically if it exists
    pub(super) file: PathBuf,

    /// Print errors only
    #[arg(short, long, env = "RESTTOOL_QUIET", value_parser = BoolishValueParser::new(), help_heading = "Output")]
    pub(super) quiet: bool,
}

/// A program to print a configuration for.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Debug)]
pub(super) enum Snippet {
    /// A server block
    Nginx,
    /// A Caddyfile
    Caddy,
    /// A file for Traefik's file provider
    Traefik,
    /// A frontend with the Lua script that it needs
    Haproxy,
    /// A service unit
    Systemd,
    /// A compose.yml for Docker Compose
    Compose,
    /// A filter with its jail
    Fail2ban,
}

/// Print a configuration that runs resttool or puts it in front of an API
#[derive(Args, Debug)]
#[command(after_long_help = "--host and --port name the address of resttool, as for serve.

Examples:
  resttool print nginx --upstream 127.0.0.1:8000
  resttool print caddy --group admin,staff                  any of these groups
  resttool print systemd --port 5000 >resttool.service")]
pub(super) struct Print {
    /// The program to print a configuration for
    pub(super) snippet: Snippet,

    #[command(flatten)]
    pub(super) address: Address,

    /// Forward requests to the API at this address
    #[arg(
        long,
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:8000",
        value_parser = authority
    )]
    pub(super) upstream: String,

    /// Let the proxy listen on this address
    #[arg(
        long,
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:8080",
        value_parser = authority
    )]
    pub(super) listen: String,

    /// Admit only users in one of these groups; may be repeated, or separated by commas
    #[arg(long, value_name = "GROUP", value_delimiter = ',', value_parser = group_name)]
    pub(super) group: Vec<GroupName>,
}

/// Parses a host and a port that need no quoting in any configuration.
fn authority(text: &str) -> Result<String, String> {
    let fit = |host: &str| {
        let fit = |c: char| c.is_ascii_alphanumeric() || ".-_[]:".contains(c);
        !host.is_empty() && host.chars().all(fit)
    };
    match text.rsplit_once(':') {
        Some((host, port)) if fit(host) && port.parse::<u16>().is_ok() => Ok(text.to_owned()),
        _ => Err("expected a host and a port, e.g. 127.0.0.1:8000".to_owned()),
    }
}

/// Print a completion script for a shell
#[derive(Args, Debug)]
#[command(after_long_help = "Examples:
  resttool completions bash >/etc/bash_completion.d/resttool
  resttool completions fish >~/.config/fish/completions/resttool.fish")]
pub(super) struct Completions {
    /// The shell
    pub(super) shell: clap_complete::Shell,
}

/// Write the manual pages to a folder
#[derive(Args, Debug)]
#[command(after_long_help = "Examples:
  resttool man /usr/local/share/man/man1")]
pub(super) struct Man {
    /// The folder; it is created if it does not exist
    pub(super) folder: PathBuf,
}

/// Output for programs.
#[derive(Args, Debug)]
pub(super) struct Json {
    /// Print one JSON object per line on standard output
    #[arg(long, env = "RESTTOOL_JSON", value_parser = BoolishValueParser::new(), help_heading = "Output")]
    pub(super) json: bool,
}

/// The expiry of a user.
#[derive(Args, Debug)]
pub(super) struct Expiry {
    /// Refuse the user from this time on (e.g. 2027-01-31, 2027-01-31T18:00:00Z, never)
    #[arg(long, value_name = "TIME", value_parser = expire)]
    pub(super) expire: Option<Expire>,
}

/// Output of commands that change users.
#[derive(Args, Debug)]
pub(super) struct Output {
    #[command(flatten)]
    pub(super) json: Json,

    /// Print results, warnings and errors only
    #[arg(short, long, env = "RESTTOOL_QUIET", value_parser = BoolishValueParser::new(), help_heading = "Output")]
    pub(super) quiet: bool,

    /// Append a line per change to this file instead of standard error
    #[arg(long, value_name = "PATH", env = "RESTTOOL_AUDIT_LOG", help_heading = "Output")]
    pub(super) audit_log: Option<PathBuf>,
}

/// A group name, or none: `--group ''` stands for no group.
#[derive(Clone, Debug)]
pub(super) struct Group(pub(super) Option<GroupName>);

fn group(text: &str) -> Result<Group, String> {
    if text.is_empty() { Ok(Group(None)) } else { group_name(text).map(|name| Group(Some(name))) }
}

fn group_name(text: &str) -> Result<GroupName, String> {
    GroupName::parse(text).map_err(|e| format!("not a valid group name: {e}"))
}

/// An expiry, or `never`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expire(pub(super) Option<Moment>);

fn expire(text: &str) -> Result<Expire, String> {
    if text == "never" {
        return Ok(Expire(None));
    }
    Moment::parse(text).map(|moment| Expire(Some(moment))).map_err(|e| format!("{e}, or never"))
}

fn mode(text: &str) -> Result<u32, String> {
    u32::from_str_radix(text, 8)
        .ok()
        .filter(|mode| *mode <= 0o777)
        .ok_or_else(|| "expected a mode in octal, e.g. 660".to_owned())
}

fn hash_time(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .ok()
        .filter(|time| (Duration::from_millis(1)..=Duration::from_secs(60)).contains(time))
        .ok_or_else(|| "expected a time from 1ms to 60s, e.g. 250ms".to_owned())
}

/// Sources of an existing password. Arguments and the environment are none: other users of the
/// machine can read both.
#[derive(Args, Debug)]
pub(super) struct KnownPassword {
    /// Read the password from the first line of standard input
    #[arg(long, help_heading = "Password")]
    pub(super) password_stdin: bool,

    /// Read the password from the first line of this file
    #[arg(long, value_name = "PATH", help_heading = "Password")]
    pub(super) password_file: Option<PathBuf>,
}

/// Sources of a new password.
#[derive(Args, Debug)]
pub(super) struct PasswordSource {
    #[command(flatten)]
    pub(super) known: KnownPassword,

    /// Generate a random password and print it on standard output
    #[arg(long, help_heading = "Password")]
    pub(super) generate: bool,
}

/// Sources of a new password or its hash.
#[derive(Args, Debug)]
pub(super) struct NewSecret {
    #[command(flatten)]
    pub(super) password: PasswordSource,

    /// Read a bcrypt hash ($2a$, $2b$ or $2y$) from standard input instead of a password
    #[arg(long, help_heading = "Password")]
    pub(super) hash_stdin: bool,
}

#[derive(Args, Debug)]
pub(super) struct Cost {
    /// Use this bcrypt cost (4 to 15); each step doubles the time of a hash
    #[arg(
        long,
        value_name = "N",
        default_value_t = 12,
        env = "RESTTOOL_COST",
        value_parser = value_parser!(u8).range(4..=15),
        help_heading = "Hashing"
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
    /// Refuse passwords with fewer characters
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1,
        env = "RESTTOOL_MIN_LENGTH",
        value_parser = value_parser!(u8).range(1..=72),
        help_heading = "Hashing"
    )]
    min_length: u8,
}

/// The cost of new hashes and the rules for new passwords.
#[derive(Args, Debug)]
pub(super) struct Hashing {
    #[command(flatten)]
    cost: Cost,

    #[command(flatten)]
    length: MinLength,
}

impl Hashing {
    pub(super) fn policy(&self) -> Result<Policy, HashError> {
        Ok(Policy { min_length: self.length.min_length.into(), cost: self.cost.parse()? })
    }
}

/// Describes the command for errors, e.g. "add user roy" in "cannot add user roy".
impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Serve(_) => f.write_str("serve"),
            Self::Useradd(args) => write!(f, "add user {}", printable(&args.name)),
            Self::Passwd(args) => write!(f, "change the password of {}", printable(&args.name)),
            Self::Usermod(args) => write!(f, "change user {}", printable(&args.name)),
            Self::Userdel(args) => write!(f, "remove user {}", printable(&args.name)),
            Self::Userlist(_) => f.write_str("list users"),
            Self::Verify(args) => write!(f, "verify user {}", printable(&args.name)),
            Self::Chpasswd(_) => f.write_str("change passwords"),
            Self::Import(args) => write!(f, "import {}", shown(&args.file)),
            Self::Export(args) => write!(f, "export to {}", shown(&args.file)),
            Self::Apply(args) => write!(f, "apply {}", shown(&args.file)),
            Self::Check(_) => f.write_str("check the store"),
            Self::Backup(args) => write!(f, "back the store up to {}", shown(&args.file)),
            Self::Print(_) => f.write_str("print a configuration"),
            Self::Completions(_) => f.write_str("print completions"),
            Self::Man(_) => f.write_str("write the manual"),
            Self::Hash(_) => f.write_str("make a hash"),
        }
    }
}

fn shown(path: &std::path::Path) -> String {
    printable(&path.to_string_lossy())
}
