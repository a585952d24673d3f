//! The password for a PostgreSQL server: `PGPASSWORD`, or the password file (PostgreSQL 17
//! documentation, sections 34.15 and 34.16).
//!
//! Finds the password that libpq would use. Where libpq ignores a password file with a warning,
//! this module fails.

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use zeroize::{Zeroize, Zeroizing};

use super::url::PostgresHost;
use crate::fs::{Exposed, exposed};
use crate::text::{printable, shell_word};

/// The maximum size of a password file, in bytes.
const MAX_BYTES: u64 = 1024 * 1024;

/// The folders whose socket is `localhost` in a password file. libpq knows one, which its builder
/// chooses: this is the folder of most distributions, and that of the PostgreSQL project.
const DEFAULT_SOCKET_FOLDERS: [&str; 2] = [super::url::DEFAULT_SOCKET_FOLDER, "/tmp"];

/// A password for a PostgreSQL server, not empty.
///
/// It has no `Display`, its `Debug` shows no content, and its memory is overwritten when it is
/// dropped.
#[derive(Clone)]
pub struct ServerPassword(Zeroizing<String>);

impl ServerPassword {
    /// Returns the password in the clear, for the login.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Takes a password. libpq treats an empty one like a missing one.
    fn new(password: Zeroizing<String>) -> Option<Self> {
        (!password.is_empty()).then_some(Self(password))
    }
}

impl fmt::Debug for ServerPassword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerPassword(..)")
    }
}

/// The sources of a password, in the order of libpq: `PGPASSWORD`, then the password file.
///
/// The file is read at each call, so that a changed password needs no restart.
#[derive(Clone, Debug)]
pub struct PasswordSource {
    variable: Option<ServerPassword>,
    file: Option<PathBuf>,
    /// A default file may be missing.
    is_default_file: bool,
}

impl PasswordSource {
    /// Takes the values of `PGPASSWORD` and `PGPASSFILE`, and the home folder with the default file
    /// `.pgpass`. An empty value is an unset one, as in libpq (`pqConnectOptions2`).
    ///
    /// # Errors
    /// Fails if the password is not UTF-8.
    pub fn new(
        password: Option<OsString>,
        file: Option<OsString>,
        home: Option<PathBuf>,
    ) -> Result<Self, PassfileError> {
        let password = password.map(OsString::into_string).transpose();
        let password = password.map_err(|_| PassfileError::Variable)?;
        let variable = password.and_then(|password| ServerPassword::new(Zeroizing::new(password)));
        let named = file.filter(|file| !file.is_empty()).map(PathBuf::from);
        let is_default_file = named.is_none();
        let home = home.filter(|home| !home.as_os_str().is_empty());
        let file = named.or_else(|| home.map(|home| home.join(".pgpass")));
        Ok(Self { variable, file, is_default_file })
    }

    /// Takes the environment of this process.
    ///
    /// # Errors
    /// As [`PasswordSource::new`].
    pub fn of_process() -> Result<Self, PassfileError> {
        Self::new(env::var_os("PGPASSWORD"), env::var_os("PGPASSFILE"), env::home_dir())
    }

    /// Returns the password for a server, or `None` if there is none. Reads the password file only
    /// without `PGPASSWORD`.
    ///
    /// # Errors
    /// As [`read`]. A missing default file is no error.
    pub fn password_for(
        &self,
        host: &PostgresHost,
        database: &str,
        user: &str,
    ) -> Result<Option<ServerPassword>, PassfileError> {
        if self.variable.is_some() {
            return Ok(self.variable.clone());
        }
        match &self.file {
            // A service often has a home folder that does not exist or that it cannot search.
            Some(path) if self.is_default_file && !path.exists() => Ok(None),
            Some(path) => Ok(find(&read(path)?, host, database, user)),
            None => Ok(None),
        }
    }
}

/// Finds the password in the lines `hostname:port:database:username:password` of a password file.
/// The first line that matches decides. Returns `None` if its password is empty.
///
/// `*` matches any value, and `\` escapes the next character. A line that begins with `#` is a
/// comment. The socket in a default folder has the host name `localhost`, every socket that of its
/// folder.
#[must_use]
pub fn find(
    entries: &str,
    host: &PostgresHost,
    database: &str,
    user: &str,
) -> Option<ServerPassword> {
    let names = host_names(host);
    let port = host.port().to_string();
    // Like libpq, which strips all carriage returns and line feeds from the end of a line.
    let lines = entries.split('\n').map(|line| line.trim_end_matches('\r'));
    let password = lines.filter(|line| !line.starts_with('#')).find_map(|line| {
        let rest = names.iter().find_map(|name| match_field(line, name))?;
        let rest = match_field(rest, &port)?;
        let rest = match_field(rest, database)?;
        match_field(rest, user)
    })?;
    ServerPassword::new(unescape_password(password))
}

/// Returns the names of a server in a password file.
fn host_names(host: &PostgresHost) -> Vec<String> {
    match host {
        PostgresHost::Tcp { host, .. } => vec![host.clone()],
        PostgresHost::Unix { folder, .. } => {
            let mut names = vec![folder.to_string_lossy().into_owned()];
            if DEFAULT_SOCKET_FOLDERS.iter().any(|default| folder.as_os_str() == *default) {
                names.push("localhost".to_owned());
            }
            names
        }
    }
}

/// Returns the rest of a line behind its first field if that matches a value. As in libpq
/// (`pwdfMatchesString`), a `:` of the value needs no escape.
fn match_field<'a>(line: &'a str, value: &str) -> Option<&'a str> {
    if let Some(rest) = line.strip_prefix("*:") {
        return Some(rest);
    }
    let mut field = line.chars();
    let mut value = value.chars();
    loop {
        let c = match field.next()? {
            ':' if value.as_str().is_empty() => return Some(field.as_str()),
            '\\' => field.next()?,
            c => c,
        };
        if value.next() != Some(c) {
            return None;
        }
    }
}

/// Returns the password at the end of a line: up to the next `:`, without escapes. A `\` at the end
/// stands for itself.
fn unescape_password(text: &str) -> Zeroizing<String> {
    // Reserve the maximum, so that a growing buffer leaves no copy behind.
    let mut password = Zeroizing::new(String::with_capacity(text.len()));
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            ':' => break,
            '\\' => password.push(chars.next().unwrap_or('\\')),
            c => password.push(c),
        }
    }
    password
}

/// Reads a password file.
///
/// # Errors
/// Fails if the file cannot be read, is not a plain file, gives its group or other users access,
/// has more than 1 MiB, or is not UTF-8.
pub fn read(path: &Path) -> Result<Zeroizing<String>, PassfileError> {
    read_private(path).map_err(|why| PassfileError::File { path: path.to_owned(), why })
}

fn read_private(path: &Path) -> Result<Zeroizing<String>, PassfileProblem> {
    // Before it is opened: a FIFO would wait for its writer.
    if !fs::metadata(path)?.is_file() {
        return Err(PassfileProblem::NotAFile);
    }
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    if let Some(Exposed { mode, .. }) = exposed(path, &metadata)? {
        return Err(PassfileProblem::Accessible(mode));
    }
    // Room for the whole file and more, so that a growing buffer leaves no copy behind.
    let room = usize::try_from(metadata.len().min(MAX_BYTES)).unwrap_or(0) + 64;
    let mut bytes = Zeroizing::new(Vec::with_capacity(room));
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > MAX_BYTES) {
        return Err(PassfileProblem::TooLarge);
    }
    match String::from_utf8(std::mem::take(&mut *bytes)) {
        Ok(text) => Ok(Zeroizing::new(text)),
        Err(e) => {
            e.into_bytes().zeroize();
            Err(PassfileProblem::NotUtf8)
        }
    }
}

/// The reason why the password of a server cannot be looked up.
#[derive(Debug, thiserror::Error)]
pub enum PassfileError {
    /// The environment variable is not UTF-8.
    #[error("cannot read PGPASSWORD: it is not UTF-8")]
    Variable,
    /// The password file is not usable.
    #[error("cannot read password file {}: {why}", printable(&path.to_string_lossy()))]
    File {
        /// The password file.
        path: PathBuf,
        /// The problem of the file.
        why: PassfileProblem,
    },
}

impl PassfileError {
    /// Returns advice, if there is any.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::File { path, why: PassfileProblem::Accessible(_) } => {
                Some(format!("chmod 600 {}", shell_word(path)))
            }
            _ => None,
        }
    }
}

/// A problem of a password file. It completes a sentence about it.
#[derive(Debug, thiserror::Error)]
pub enum PassfileProblem {
    /// The system failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A folder, a device or a FIFO.
    #[error("it is not a plain file")]
    NotAFile,
    /// Its group or other users have access by this mode.
    #[error("its mode {0:04o} gives other users access")]
    Accessible(u32),
    /// Larger than 1 MiB.
    #[error("it is larger than 1 MiB")]
    TooLarge,
    /// Not UTF-8.
    #[error("it is not UTF-8")]
    NotUtf8,
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStringExt;
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    use super::*;

    fn tcp(host: &str) -> PostgresHost {
        PostgresHost::Tcp { host: host.to_owned(), port: 5432 }
    }

    fn unix(folder: &str) -> PostgresHost {
        PostgresHost::Unix { folder: folder.into(), port: 5432 }
    }

    fn found(entries: &str, host: &PostgresHost) -> Option<String> {
        find(entries, host, "users", "roy").map(|password| password.reveal().to_owned())
    }

    /// Writes a password file with this mode.
    fn passfile(folder: &Path, content: impl AsRef<[u8]>, mode: u32) -> PathBuf {
        let path = folder.join(".pgpass");
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    fn source(password: &str, file: impl AsRef<OsStr>, home: &Path) -> PasswordSource {
        let file = file.as_ref().to_owned();
        PasswordSource::new(Some(password.into()), Some(file), Some(home.to_owned())).unwrap()
    }

    fn looked_up(source: &PasswordSource) -> Option<String> {
        let password = source.password_for(&tcp("h"), "users", "roy").unwrap();
        password.map(|password| password.reveal().to_owned())
    }

    #[test]
    fn entry_matches_if_each_field_matches() {
        for (entries, password) in [
            ("h:5432:users:roy:pw", Some("pw")),
            ("*:5432:users:roy:pw", Some("pw")),
            ("h:*:users:roy:pw", Some("pw")),
            ("h:5432:*:roy:pw", Some("pw")),
            ("h:5432:users:*:pw", Some("pw")),
            ("*:*:*:*:pw", Some("pw")),
            ("h:5432:users:roy:pw\n", Some("pw")),
            ("h:5432:users:roy:pw\r\r\n", Some("pw")),
            ("other:5432:users:roy:pw", None),
            ("hh:5432:users:roy:pw", None),
            (":5432:users:roy:pw", None),
            ("H:5432:users:roy:pw", None),
            ("h:5433:users:roy:pw", None),
            ("h:05432:users:roy:pw", None),
            ("h:5432:other:roy:pw", None),
            ("h:5432:users:other:pw", None),
            ("h:5432:users:ro:pw", None),
            ("h:5432:users:r*:pw", None),
            (r"\*:5432:users:roy:pw", None),
            (" h:5432:users:roy:pw", None),
            ("h:5432:users:roy", None),
            ("h\\", None),
            ("", None),
        ] {
            assert_eq!(found(entries, &tcp("h")).as_deref(), password, "{entries:?}");
        }
    }

    #[test]
    fn first_matching_entry_decides() {
        let two = "x:*:*:*:no\n\nh:*:*:*:one\n*:*:*:*:two\n";
        assert_eq!(found(two, &tcp("h")).as_deref(), Some("one"));
        assert_eq!(found(two, &tcp("other")).as_deref(), Some("two"));
        assert_eq!(found("h:*:*:*:\n*:*:*:*:two", &tcp("h")), None, "an empty password ends it");
    }

    #[test]
    fn comment_is_no_entry() {
        assert_eq!(found("#h:*:*:*:pw", &tcp("#h")), None);
        assert_eq!(found("#*:*:*:*:no\n*:*:*:*:pw", &tcp("h")).as_deref(), Some("pw"));
        assert_eq!(found(r"\#h:*:*:*:pw", &tcp("#h")).as_deref(), Some("pw"));
    }

    #[test]
    fn colon_and_backslash_are_escaped() {
        for (entry, password) in [
            (r"h:*:*:*:a\:b\\c", r"a:b\c"),
            (r"h:*:*:*:a:b", "a"),
            (r"h:*:*:*:\a", "a"),
            (r"h:*:*:*:a\", r"a\"),
            ("h:*:*:*:#pw ü ", "#pw ü "),
        ] {
            assert_eq!(found(entry, &tcp("h")).as_deref(), Some(password), "{entry}");
        }
        for entry in [r"\:\:1:*:*:*:pw", "::1:*:*:*:pw"] {
            assert_eq!(found(entry, &tcp("::1")).as_deref(), Some("pw"), "{entry}");
            assert_eq!(found(entry, &tcp(":")), None);
        }
        let names = r"*:*:a\:b\\:c\\d:pw";
        let password = find(names, &tcp("h"), r"a:b\", r"c\d");
        assert_eq!(password.as_ref().map(ServerPassword::reveal), Some("pw"));
    }

    #[test]
    fn socket_in_a_default_folder_is_localhost() {
        for (folder, is_localhost) in
            [("/var/run/postgresql", true), ("/tmp", true), ("/run/postgresql", false)]
        {
            let localhost = found("localhost:5432:*:*:pw", &unix(folder));
            assert_eq!(localhost.is_some(), is_localhost, "{folder}");
            let entry = format!("{folder}:5432:users:roy:pw");
            assert_eq!(found(&entry, &unix(folder)).as_deref(), Some("pw"));
        }
        assert_eq!(found("localhost:*:*:*:pw", &tcp("localhost")).as_deref(), Some("pw"));
        assert_eq!(found("localhost:5433:*:*:pw", &unix("/tmp")), None);
        assert_eq!(found("/tmp:*:*:*:pw", &tcp("localhost")), None);
        assert_eq!(found("*:*:*:*:pw", &unix("/srv")).as_deref(), Some("pw"));
    }

    #[test]
    fn password_is_not_shown() {
        let password = find("*:*:*:*:s3cret", &tcp("h"), "users", "roy").unwrap();
        assert_eq!(format!("{password:?}"), "ServerPassword(..)");
        let shown = format!("{:?}", source("s3cret", "f", Path::new("/home/roy")));
        assert!(!shown.contains("s3cret"), "{shown}");
    }

    #[test]
    fn unsafe_or_invalid_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let refused = |path: &Path| {
            let e = read(path).unwrap_err();
            let (text, prefix) =
                (e.to_string(), format!("cannot read password file {}: ", path.display()));
            (text.strip_prefix(&prefix).unwrap_or(&text).to_owned(), e.hint())
        };
        for mode in [0o640, 0o620, 0o610, 0o604, 0o602, 0o601, 0o4777] {
            let path = passfile(folder.path(), "*:*:*:*:pw", mode);
            let why = format!("its mode {mode:04o} gives other users access");
            assert_eq!(refused(&path), (why, Some(format!("chmod 600 {}", path.display()))));
        }
        let missing = folder.path().join("missing");
        let why = "No such file or directory (os error 2)".to_owned();
        assert_eq!(refused(&missing), (why, None));
        assert_eq!(refused(folder.path()), ("it is not a plain file".to_owned(), None));
        let fifo = folder.path().join("fifo");
        assert!(Command::new("mkfifo").args(["-m", "600"]).arg(&fifo).status().unwrap().success());
        assert_eq!(refused(&fifo), ("it is not a plain file".to_owned(), None));
        let path = passfile(folder.path(), b"*:*:*:*:\xFF", 0o600);
        assert_eq!(refused(&path), ("it is not UTF-8".to_owned(), None));
        let path = passfile(folder.path(), vec![b'#'; 1024 * 1024 + 1], 0o600);
        assert_eq!(refused(&path), ("it is larger than 1 MiB".to_owned(), None));
    }

    #[test]
    fn private_file_is_read_completely() {
        let folder = tempfile::tempdir().unwrap();
        for (content, mode) in [
            (String::new(), 0o600),
            ("*:*:*:*:pw\n".into(), 0o400),
            ("#".repeat(1024 * 1024), 0o700),
        ] {
            let path = passfile(folder.path(), &content, mode);
            assert_eq!(*read(&path).unwrap(), content);
            let link = folder.path().join(format!("link{mode}"));
            std::os::unix::fs::symlink(&path, &link).unwrap();
            assert_eq!(*read(&link).unwrap(), content, "links are followed");
            fs::remove_file(path).unwrap();
        }
    }

    #[test]
    fn variable_precedes_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = passfile(folder.path(), "h:*:*:*:file", 0o600);
        assert_eq!(
            looked_up(&source("variable", &path, folder.path())).as_deref(),
            Some("variable")
        );
        assert_eq!(
            looked_up(&source("variable", "/missing", folder.path())).as_deref(),
            Some("variable")
        );
        let empty = source("", &path, Path::new("/missing"));
        assert_eq!(looked_up(&empty).as_deref(), Some("file"), "an empty variable is unset");
        let unset = PasswordSource::new(None, Some(path.into()), None).unwrap();
        assert_eq!(looked_up(&unset).as_deref(), Some("file"));
    }

    #[test]
    fn default_file_may_be_missing_and_a_named_one_not() {
        let folder = tempfile::tempdir().unwrap();
        let (home, empty) = (folder.path().join("home"), folder.path().join("empty"));
        fs::create_dir(&home).unwrap();
        fs::create_dir(&empty).unwrap();
        let path = passfile(&home, "h:*:*:*:home", 0o600);
        assert_eq!(looked_up(&source("", "", &home)).as_deref(), Some("home"), "empty is unset");
        assert_eq!(looked_up(&source("", "", &empty)), None);
        assert_eq!(looked_up(&source("", "", Path::new("/dev/null"))), None);
        assert!(source("", "", Path::new("")).file.is_none(), "not a relative path");
        assert_eq!(looked_up(&PasswordSource::new(None, None, None).unwrap()), None);

        let missing = empty.join("named");
        let named = source("", &missing, &home);
        let e = named.password_for(&tcp("h"), "users", "roy").unwrap_err();
        let why = "No such file or directory (os error 2)";
        let text = format!("cannot read password file {}: {why}", missing.display());
        assert_eq!(e.to_string(), text);

        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let e = source("", "", &home).password_for(&tcp("h"), "users", "roy").unwrap_err();
        let why = "its mode 0644 gives other users access";
        let text = format!("cannot read password file {}: {why}", path.display());
        assert_eq!(e.to_string(), text);
    }

    #[test]
    fn variable_that_is_not_utf8_is_refused() {
        let password = OsString::from_vec(b"caf\xE9".to_vec());
        let e = PasswordSource::new(Some(password), None, None).unwrap_err();
        assert_eq!(e.to_string(), "cannot read PGPASSWORD: it is not UTF-8");
        assert_eq!(e.hint(), None);
    }

    /// Runs itself with another environment, which a test cannot change for itself.
    #[test]
    fn environment_of_the_process_is_read() {
        let inner = "RESTTOOL_TEST_PASSFILE";
        if let Ok(expected) = env::var(inner) {
            let source = PasswordSource::of_process().unwrap();
            assert_eq!(looked_up(&source).unwrap_or_default(), expected);
            return;
        }
        let (_, module) = module_path!().split_once("::").unwrap();
        let name = format!("{module}::environment_of_the_process_is_read");
        let (home, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        passfile(home.path(), "*:*:*:*:home", 0o600);
        let named = passfile(other.path(), "*:*:*:*:named", 0o600);
        for (password, file, expected) in [
            ("variable", named.as_path(), "variable"),
            ("", &named, "named"),
            ("", Path::new(""), "home"),
        ] {
            let mut test = Command::new(env::current_exe().unwrap());
            test.args(["--exact", &name, "--test-threads=1"]).env(inner, expected);
            test.env("PGPASSWORD", password).env("PGPASSFILE", file).env("HOME", home.path());
            let output = test.output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success() && text.contains("1 passed"), "{text}");
        }
    }
}
