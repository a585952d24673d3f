//! The arguments, as data: what each verb takes, its help and its environment variables. Nothing is done here.

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

/// Answer /rest-auth for users who show the right name and password
#[derive(Args, Debug)]
#[command(after_long_help = "Routes:
  GET /rest-auth   200 with the right name and password, 401 with others, 403 without the group, 429 after
                   too many wrong ones, 503 when it can't be found out
  /auth            the same for proxies, in their dialect: 200 with Remote-User and Remote-Groups, 401 or 403;
                   ?group=admin asks for a group
  GET /healthz     200, without credentials and without a look at the users
  GET /readyz      200 if users can be looked up, 503 if not
  GET /openapi.json   what the server answers, as OpenAPI 3.1 has it

SIGTERM and SIGINT (Ctrl-C) let the requests in flight finish; a second one does not wait for them. SIGHUP
has the certificate read again.

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

    /// Listen on a socket in the file system, and on no port
    #[arg(long, value_name = "PATH", env = "RESTTOOL_UNIX_SOCKET", conflicts_with_all = ["tls_cert", "tls_key"])]
    pub(super) unix_socket: Option<PathBuf>,

    /// Who may connect to that socket: its mode, in octal
    #[arg(long, value_name = "MODE", default_value = "600", env = "RESTTOOL_UNIX_SOCKET_MODE", value_parser = mode)]
    pub(super) unix_socket_mode: u32,

    /// Speak TLS, with the certificate chain in this file (PEM); read again when it changes, or at SIGHUP
    #[arg(long, value_name = "PATH", env = "RESTTOOL_TLS_CERT", requires = "tls_key")]
    pub(super) tls_cert: Option<PathBuf>,

    /// The private key of the certificate (PEM), for its owner alone
    #[arg(long, value_name = "PATH", env = "RESTTOOL_TLS_KEY", requires = "tls_cert")]
    pub(super) tls_key: Option<PathBuf>,

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

    /// Allow this many connections at once; at the limit, the source with the most loses its
    /// longest idle one
    #[arg(long, value_name = "N", default_value_t = server::Settings::MAX_CONNECTIONS, env = "RESTTOOL_MAX_CONNECTIONS")]
    pub(super) max_connections: NonZeroUsize,

    /// A proxy whose X-Forwarded-For is believed: an address or a network, as 10.0.0.0/8; may be repeated
    #[arg(long, value_name = "CIDR", env = "RESTTOOL_TRUSTED_PROXY", value_delimiter = ',')]
    pub(super) trusted_proxy: Vec<Network>,

    /// Let in only users who are in this group; may be repeated, or several with commas: any of them
    #[arg(long, value_name = "GROUP", env = "RESTTOOL_REQUIRE_GROUP", value_delimiter = ',', value_parser = group_name)]
    pub(super) require_group: Vec<GroupName>,

    /// How much to log, on stderr: off, error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL", default_value = "info", env = "RESTTOOL_LOG_LEVEL")]
    pub(super) log_level: log::LevelFilter,

    /// How the log is written: text for people, or an object of JSON a line
    #[arg(long, value_name = "FORMAT", default_value = "text", env = "RESTTOOL_LOG_FORMAT")]
    pub(super) log_format: LogFormat,

    /// Give a user whose password is right a new hash, if theirs costs less than --cost
    #[arg(long, env = "RESTTOOL_REHASH", value_parser = BoolishValueParser::new())]
    pub(super) rehash: bool,

    /// Log every grant, those of remembered passwords too
    #[arg(long, env = "RESTTOOL_AUDIT_HITS", value_parser = BoolishValueParser::new())]
    pub(super) audit_hits: bool,
}

/// How a log is written.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Debug)]
pub(super) enum LogFormat {
    /// For people
    Text,
    /// For programs
    Json,
}

/// Where the server listens.
#[derive(Args, Debug)]
pub(super) struct Address {
    /// The address to listen on
    #[arg(long, value_name = "HOST", default_value = "127.0.0.1", env = "RESTTOOL_HOST")]
    pub(super) host: String,

    /// The port to listen on; 0 takes a free one, and the log says which
    #[arg(long, value_name = "PORT", default_value_t = 5000, env = "RESTTOOL_PORT")]
    pub(super) port: u16,
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

    /// Succeed without changing anything if there is a user of that name
    #[arg(long, env = "RESTTOOL_IF_NOT_EXISTS", value_parser = BoolishValueParser::new())]
    pub(super) if_not_exists: bool,

    /// Give a user who exists this password, groups, lock and expiry; what is not said stays as it is
    ///
    /// A password that is right already keeps its hash, so that nothing is changed the second time.
    #[arg(long, env = "RESTTOOL_UPDATE", value_parser = BoolishValueParser::new())]
    pub(super) update: bool,

    /// A group that the user is in; may be repeated, or several with commas
    #[arg(long, value_name = "GROUP", env = "RESTTOOL_GROUP", value_delimiter = ',', value_parser = group)]
    pub(super) group: Option<Vec<Group>>,

    #[command(flatten)]
    pub(super) expiry: Expiry,

    /// Refuse the user although the password is right
    #[arg(long, env = "RESTTOOL_LOCKED", value_parser = BoolishValueParser::new())]
    pub(super) locked: bool,

    #[command(flatten)]
    pub(super) output: Output,
}

/// Change a user's password: the next request with the old one is refused
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

    /// Refuse the user although the password is right
    #[arg(long, env = "RESTTOOL_LOCK", value_parser = BoolishValueParser::new())]
    pub(super) lock: bool,

    /// Let the user in again
    #[arg(long, env = "RESTTOOL_UNLOCK", value_parser = BoolishValueParser::new())]
    pub(super) unlock: bool,

    #[command(flatten)]
    pub(super) expiry: Expiry,

    /// The groups that the user is in, in place of those before; may be repeated, or several with commas
    #[arg(long, value_name = "GROUP", env = "RESTTOOL_GROUP", value_delimiter = ',', value_parser = group)]
    pub(super) group: Option<Vec<Group>>,

    /// The user joins these groups, and stays in those before
    #[arg(long, env = "RESTTOOL_APPEND", value_parser = BoolishValueParser::new())]
    pub(super) append: bool,

    /// The user leaves these groups
    #[arg(long, env = "RESTTOOL_REMOVE", value_parser = BoolishValueParser::new())]
    pub(super) remove: bool,

    /// Another name; the password stays
    #[arg(long, value_name = "NEW", env = "RESTTOOL_RENAME")]
    pub(super) rename: Option<String>,

    #[command(flatten)]
    pub(super) output: Output,
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

    #[command(flatten)]
    pub(super) output: Output,
}

/// List users, never with their hashes
#[derive(Args, Debug)]
#[command(after_long_help = "Examples:
  resttool userlist
  resttool userlist 'ci-*'
  resttool userlist --group admin --json
  resttool userlist --cost-below 12                         whose hashes are cheap to guess against")]
pub(super) struct Userlist {
    /// Only users whose name matches: * is any text, ? any character
    pub(super) pattern: Option<String>,

    /// Only users who are in this group
    #[arg(long, value_name = "GROUP", env = "RESTTOOL_GROUP", value_parser = group_name)]
    pub(super) group: Option<GroupName>,

    /// Only users who are locked
    #[arg(long, env = "RESTTOOL_LOCKED", value_parser = BoolishValueParser::new())]
    pub(super) locked: bool,

    /// Only users who have expired
    #[arg(long, env = "RESTTOOL_EXPIRED", value_parser = BoolishValueParser::new())]
    pub(super) expired: bool,

    /// Only users whose hash costs less than this
    #[arg(long, value_name = "N", env = "RESTTOOL_COST_BELOW")]
    pub(super) cost_below: Option<u8>,

    #[command(flatten)]
    pub(super) json: Json,
}

/// Check a password the way the server does: exit 0 if it would let the user in, 3 if not, 6 if there is no such user
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

    /// Say nothing but errors
    #[arg(short, long, env = "RESTTOOL_QUIET", value_parser = BoolishValueParser::new())]
    pub(super) quiet: bool,
}

/// Change many passwords at once: lines of name:password on standard input, all of them or none
#[derive(Args, Debug)]
#[command(after_long_help = "Examples:
  resttool chpasswd <passwords
  printf 'ann:%s\\nbob:%s\\n' \"$ANN\" \"$BOB\" | resttool chpasswd --create")]
pub(super) struct Chpasswd {
    /// Add users who do not exist
    #[arg(long, env = "RESTTOOL_CREATE", value_parser = BoolishValueParser::new())]
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
    /// Lines of JSON that hold all that is kept of a user
    Jsonl,
}

/// What to do with a user who exists.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Debug)]
pub(super) enum OnConflict {
    /// Change nothing at all, and exit 9
    Fail,
    /// Leave that user as they are
    Skip,
    /// Put what the file says in place of what there is
    Replace,
}

/// Take over users with their hashes from a file: all of them or none
#[derive(Args, Debug)]
#[command(after_long_help = "Examples:
  resttool import /etc/nginx/htpasswd
  resttool import users.jsonl --format jsonl --on-conflict replace
  resttool export --database old.db | resttool import - --on-conflict skip")]
pub(super) struct Import {
    /// The file; - is standard input
    pub(super) file: PathBuf,

    /// What the file is written in
    #[arg(long, value_name = "FORMAT", default_value = "htpasswd", env = "RESTTOOL_FORMAT")]
    pub(super) format: Format,

    /// What to do with users who exist; of two lines for one user, skip takes the first and replace the last
    #[arg(long, value_name = "WHAT", default_value = "fail", env = "RESTTOOL_ON_CONFLICT")]
    pub(super) on_conflict: OnConflict,

    #[command(flatten)]
    pub(super) output: Output,
}

/// Write all users with their hashes to a file, for its owner alone
#[derive(Args, Debug)]
#[command(after_long_help = "Examples:
  resttool export /etc/nginx/htpasswd                       not who is locked or has expired
  resttool export users.jsonl --format jsonl                a whole copy
  resttool export | resttool import - --database new.db")]
pub(super) struct Export {
    /// The file, written aside and then put in place; - is standard output
    #[arg(default_value = "-")]
    pub(super) file: PathBuf,

    /// What the file is to be written in
    #[arg(long, value_name = "FORMAT", default_value = "htpasswd", env = "RESTTOOL_FORMAT")]
    pub(super) format: Format,

    /// Say nothing but warnings and errors
    #[arg(short, long, env = "RESTTOOL_QUIET", value_parser = BoolishValueParser::new())]
    pub(super) quiet: bool,
}

/// Bring the users to what a file says they should be: all of it or nothing
#[derive(Args, Debug)]
#[command(after_long_help = "The file is TOML:
  [[user]]
  name = \"ann\"
  password_file = \"/run/secrets/ann\"   # or password_hash = \"$2y$...\", or generate = true for a new user
  groups = [\"admin\", \"staff\"]        # none where it is left out
  locked = false
  expire = 2027-01-31                  # never where it is left out

Applied twice, the second time changes nothing: a password keeps its hash while it is right.

Examples:
  resttool apply users.toml --dry-run
  resttool apply users.toml
  resttool apply users.toml --prune --json                  remove who is not in the file")]
pub(super) struct Apply {
    /// The file; - is standard input
    pub(super) file: PathBuf,

    /// Say what would be done, and do nothing
    #[arg(short = 'n', long, env = "RESTTOOL_DRY_RUN", value_parser = BoolishValueParser::new())]
    pub(super) dry_run: bool,

    /// Remove users who are not in the file
    #[arg(long, env = "RESTTOOL_PRUNE", value_parser = BoolishValueParser::new())]
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
  resttool hash --calibrate 250ms                           which cost this machine can bear")]
pub(super) struct Hash {
    /// Print a whole line of an htpasswd file, for a user of this name
    #[arg(long, value_name = "NAME", env = "RESTTOOL_HTPASSWD")]
    pub(super) htpasswd: Option<String>,

    /// Print the highest cost of which a hash takes less than this time here, and nothing else
    #[arg(long, value_name = "TIME", env = "RESTTOOL_CALIBRATE", value_parser = hash_time)]
    pub(super) calibrate: Option<Duration>,

    #[command(flatten)]
    pub(super) password: PasswordSource,

    #[command(flatten)]
    pub(super) hashing: Hashing,
}

/// Look for what is wrong with the store, and say how to mend it: exit 0 if nothing is, 1 if something is
#[derive(Args, Debug)]
#[command(
    after_long_help = "It looks at the rights and the owners of the folder and the files, at the integrity and the version of the database, and at each
user's record. Nothing is changed.

Examples:
  resttool check --cost 4
  resttool check --json | jq -r .mend"
)]
pub(super) struct Check {
    /// What hashes should cost at least
    #[command(flatten)]
    pub(super) cost: Cost,

    #[command(flatten)]
    pub(super) json: Json,

    /// Say nothing but what is wrong
    #[arg(short, long, env = "RESTTOOL_QUIET", value_parser = BoolishValueParser::new())]
    pub(super) quiet: bool,
}

/// Copy the store as it is at one moment, while others go on using it
#[derive(Args, Debug)]
#[command(
    after_long_help = "The copy is written aside, for its owner alone, and then put in place. It is made in memory first: up to twice
the size of the store, of at most 1 GiB. To restore one, move it into the place of the store: a running server takes it
up at the next request.

Examples:
  resttool backup users.backup
  resttool check --database users.backup --cost 4"
)]
pub(super) struct Backup {
    /// The file, also in place of an older one
    pub(super) file: PathBuf,

    /// Say nothing but errors
    #[arg(short, long, env = "RESTTOOL_QUIET", value_parser = BoolishValueParser::new())]
    pub(super) quiet: bool,
}

/// What somebody else's configuration is printed for.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Debug)]
pub(super) enum Snippet {
    /// A server block
    Nginx,
    /// A Caddyfile
    Caddy,
    /// A file for the file provider
    Traefik,
    /// A frontend, and the Lua that it needs
    Haproxy,
    /// A unit
    Systemd,
    /// A file for docker compose
    Compose,
    /// A filter, and the jail that it is for
    Fail2ban,
}

/// Print a configuration that puts resttool in front of an API, or runs it
#[derive(Args, Debug)]
#[command(
    after_long_help = "The address of resttool is that of serve, by the same options and variables.

Examples:
  resttool print nginx --upstream 127.0.0.1:8000
  resttool print caddy --group admin,staff                  any of these groups
  resttool print systemd --port 5000 >resttool.service"
)]
pub(super) struct Print {
    /// For whom
    pub(super) snippet: Snippet,

    #[command(flatten)]
    pub(super) address: Address,

    /// Where the API listens
    #[arg(
        long,
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:8000",
        env = "RESTTOOL_UPSTREAM",
        value_parser = authority
    )]
    pub(super) upstream: String,

    /// Where the proxy is to listen
    #[arg(
        long,
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:8080",
        env = "RESTTOOL_LISTEN",
        value_parser = authority
    )]
    pub(super) listen: String,

    /// The groups that may pass; may be repeated, or several with commas: any of them
    #[arg(long, value_name = "GROUP", env = "RESTTOOL_GROUP", value_delimiter = ',', value_parser = group_name)]
    pub(super) group: Vec<GroupName>,
}

/// A host and a port, which can stand in any configuration as it is.
fn authority(text: &str) -> Result<String, String> {
    let fit = |host: &str| {
        let fit = |c: char| c.is_ascii_alphanumeric() || ".-_[]:".contains(c);
        !host.is_empty() && host.chars().all(fit)
    };
    match text.rsplit_once(':') {
        Some((host, port)) if fit(host) && port.parse::<u16>().is_ok() => Ok(text.to_owned()),
        _ => Err("expected a host and a port, as 127.0.0.1:8000".to_owned()),
    }
}

/// Print the completions of a shell
#[derive(Args, Debug)]
#[command(after_long_help = "Examples:
  resttool completions bash >/etc/bash_completion.d/resttool
  resttool completions fish >~/.config/fish/completions/resttool.fish")]
pub(super) struct Completions {
    /// The shell
    pub(super) shell: clap_complete::Shell,
}

/// Write the manual pages into a folder
#[derive(Args, Debug)]
#[command(after_long_help = "Examples:
  resttool man /usr/local/share/man/man1")]
pub(super) struct Man {
    /// The folder; it is made where it is missing
    pub(super) folder: PathBuf,
}

/// Whether programs are to read it.
#[derive(Args, Debug)]
pub(super) struct Json {
    /// Print one JSON object for each user on standard output
    #[arg(long, env = "RESTTOOL_JSON", value_parser = BoolishValueParser::new())]
    pub(super) json: bool,
}

/// When a user expires.
#[derive(Args, Debug)]
pub(super) struct Expiry {
    /// From when on the user is refused: 2027-01-31, 2027-01-31T18:00:00Z or never
    #[arg(long, value_name = "TIME", env = "RESTTOOL_EXPIRE", value_parser = expire)]
    pub(super) expire: Option<Expire>,
}

/// What is said of what was done.
#[derive(Args, Debug)]
pub(super) struct Output {
    #[command(flatten)]
    pub(super) json: Json,

    /// Say nothing but results, warnings and errors
    #[arg(short, long, env = "RESTTOOL_QUIET", value_parser = BoolishValueParser::new())]
    pub(super) quiet: bool,

    /// Append a line for each change to this file; without it they go to standard error, unless that is a terminal
    #[arg(long, value_name = "PATH", env = "RESTTOOL_AUDIT_LOG")]
    pub(super) audit_log: Option<PathBuf>,
}

/// A group's name, or none: `--group ''` is for no group at all.
#[derive(Clone, Debug)]
pub(super) struct Group(pub(super) Option<GroupName>);

fn group(text: &str) -> Result<Group, String> {
    if text.is_empty() { Ok(Group(None)) } else { group_name(text).map(|name| Group(Some(name))) }
}

fn group_name(text: &str) -> Result<GroupName, String> {
    GroupName::parse(text).map_err(|e| format!("that can't be a group's name: {e}"))
}

/// When a user expires, if ever.
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
        .ok_or_else(|| "expected a mode in octal, as 660".to_owned())
}

fn hash_time(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .ok()
        .filter(|time| (Duration::from_millis(1)..=Duration::from_secs(60)).contains(time))
        .ok_or_else(|| "expected a time from 1ms to 60s, as 250ms".to_owned())
}

/// Where a password comes from that there is already. Never from an argument or the environment: other users of the machine can read
/// those.
#[derive(Args, Debug)]
pub(super) struct KnownPassword {
    /// Take the password from standard input: one line, its line end dropped
    #[arg(long, env = "RESTTOOL_PASSWORD_STDIN", value_parser = BoolishValueParser::new())]
    pub(super) password_stdin: bool,

    /// Take the password from a file: one line, its line end dropped
    #[arg(long, value_name = "PATH", env = "RESTTOOL_PASSWORD_FILE")]
    pub(super) password_file: Option<PathBuf>,
}

/// Where a new password comes from.
#[derive(Args, Debug)]
pub(super) struct PasswordSource {
    #[command(flatten)]
    pub(super) known: KnownPassword,

    /// Make up a random password, and print it on standard output
    #[arg(long, env = "RESTTOOL_GENERATE", value_parser = BoolishValueParser::new())]
    pub(super) generate: bool,
}

/// Where a new password comes from, or its hash.
#[derive(Args, Debug)]
pub(super) struct NewSecret {
    #[command(flatten)]
    pub(super) password: PasswordSource,

    /// Take a ready bcrypt hash ($2a$, $2b$ or $2y$) from standard input, and no password
    #[arg(long, env = "RESTTOOL_HASH_STDIN", value_parser = BoolishValueParser::new())]
    pub(super) hash_stdin: bool,
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
    min_length: u8,
}

/// What hashes are to be, and the passwords that they are made of.
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

/// What the verb is to do, as in "cannot add user roy".
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
