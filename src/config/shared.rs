//! Settings of several commands.

use std::path::{Path, PathBuf};

use clap::builder::{BoolishValueParser, RangedI64ValueParser};
use clap::{Args, value_parser};

use crate::admin::Policy;
use crate::domain::{Cost, HashError, Password};
use crate::store::{Location, PostgresUrl, UrlError};

/// The variable of the location of the store.
pub(crate) const DATABASE_VARIABLE: &str = "RESTTOOL_DATABASE";

/// The location of the store.
#[derive(Args, Debug)]
pub(crate) struct StoreSettings {
    /// Keep users in this file, or in this PostgreSQL database
    ///
    /// The URL of a database is postgres://USER@HOST/DATABASE. Commands that add users create a file,
    /// with its folders. Default: resttool/resttool.db in $XDG_DATA_HOME, or in ~/.local/share if
    /// that is not set.
    #[arg(long, value_name = "PATH|URL", global = true, env = DATABASE_VARIABLE)]
    database: Option<PathBuf>,
}

impl StoreSettings {
    /// Returns the location, or `None` without a home folder.
    ///
    /// # Errors
    /// Fails if it is an invalid URL. Checked here and not by the parser of arguments, which would
    /// print a password in it.
    pub(crate) fn location(self) -> Result<Option<Location>, UrlError> {
        self.database.map_or_else(|| Ok(default_location()), |place| location(place).map(Some))
    }
}

/// Returns the store that a path or a URL names.
pub(crate) fn location(place: PathBuf) -> Result<Location, UrlError> {
    match place.to_str() {
        Some(url) if PostgresUrl::is_url(url) => PostgresUrl::parse(url).map(Location::from),
        _ => Ok(place.into()),
    }
}

/// Returns the default location of the store, in the user's data folder (XDG Base Directory
/// Specification 0.8, which ignores relative paths in the variable). Returns `None` without a home
/// folder.
pub(crate) fn default_location() -> Option<Location> {
    std::env::var_os("XDG_DATA_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| std::env::home_dir().map(|home| home.join(".local/share")))
        .map(|data| data.join("resttool/resttool.db").into())
}

/// The cost of hashes.
#[derive(Args, Debug)]
pub(crate) struct CostSetting {
    /// Use this bcrypt cost (4 to 15); each step doubles the time of a hash
    #[arg(
        long,
        value_name = "N",
        default_value_t = Cost::DEFAULT.get(),
        env = "RESTTOOL_COST",
        value_parser = cost_range(),
        help_heading = "Hashing"
    )]
    cost: u8,
}

impl CostSetting {
    pub(crate) fn cost(&self) -> Result<Cost, HashError> {
        Cost::new(self.cost)
    }
}

fn cost_range() -> RangedI64ValueParser<u8> {
    value_parser!(u8).range(i64::from(Cost::MIN)..=i64::from(Cost::MAX))
}

/// The cost of new hashes, and the requirements for new passwords.
#[derive(Args, Debug)]
pub(crate) struct HashingSettings {
    #[command(flatten)]
    cost: CostSetting,

    /// Refuse passwords with fewer characters
    #[arg(
        long,
        value_name = "N",
        default_value_t = Policy::MIN_LENGTH,
        env = "RESTTOOL_MIN_LENGTH",
        value_parser = value_parser!(u8).range(1..=Password::MAX_BYTES as i64),
        help_heading = "Hashing"
    )]
    min_length: u8,
}

impl HashingSettings {
    pub(crate) fn policy(&self) -> Result<Policy, HashError> {
        Ok(Policy { min_length: self.min_length.into(), cost: self.cost.cost()? })
    }
}

/// The control socket of a server.
#[derive(Args, Debug)]
pub(crate) struct ControlSetting {
    /// Use the control socket at this path [default: in $XDG_RUNTIME_DIR/resttool or /run/resttool,
    /// named by the store]
    #[arg(
        long,
        value_name = "PATH",
        env = "RESTTOOL_CONTROL_SOCKET",
        help_heading = "Operators",
        hide_short_help = true
    )]
    control_socket: Option<PathBuf>,
}

impl ControlSetting {
    pub(crate) fn path(&self) -> Option<&Path> {
        self.control_socket.as_deref()
    }
}

/// Output for programs.
#[derive(Args, Debug)]
pub(crate) struct JsonSetting {
    /// Print one JSON object per line on standard output
    #[arg(
        long,
        env = "RESTTOOL_JSON",
        value_parser = BoolishValueParser::new(),
        help_heading = "Output"
    )]
    pub(crate) json: bool,
}

/// Output without messages.
#[derive(Args, Debug)]
pub(crate) struct QuietSetting {
    /// Print results, warnings and errors only
    #[arg(
        short,
        long,
        env = "RESTTOOL_QUIET",
        value_parser = BoolishValueParser::new(),
        help_heading = "Output"
    )]
    pub(crate) quiet: bool,
}

/// Output of commands that change users.
#[derive(Args, Debug)]
pub(crate) struct OutputSettings {
    #[command(flatten)]
    pub(crate) json: JsonSetting,

    #[command(flatten)]
    pub(crate) quiet: QuietSetting,

    /// Append a line per change to this file instead of standard error
    #[arg(long, value_name = "PATH", env = "RESTTOOL_AUDIT_LOG", help_heading = "Output")]
    pub(crate) audit_log: Option<PathBuf>,
}
