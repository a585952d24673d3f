//! Control sockets: a server makes its own, and commands find those of all servers on a store.
//!
//! Decides their names and folders. Knows nothing of what is asked over them.

use std::fs::{self, DirBuilder};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::process::geteuid;

use super::exit::{Exit, Failure};
use super::listen::{ListenAddress, Listening};
use crate::http::{ControlClient, ControlError, Socket};
use crate::store::Location;
use crate::text::printable;

/// The folder for sockets of servers that have no runtime folder of a user.
const OF_THE_SYSTEM: &str = "/run/resttool";

/// Returns the folders in which servers make their sockets, the preferred one first (XDG Base
/// Directory Specification 0.8, which ignores relative paths in the variable).
fn folders() -> Vec<PathBuf> {
    let of_user = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let of_user = of_user.filter(|path| path.is_absolute()).map(|path| path.join("resttool"));
    of_user.into_iter().chain([PathBuf::from(OF_THE_SYSTEM)]).collect()
}

/// Returns the beginning of the names of all sockets of servers on a store.
fn prefix(location: &Location) -> String {
    format!("{}-", location.id())
}

/// Makes the control socket of this process: at `path`, or in the runtime folder. Without a runtime
/// folder that can be used, there is none.
///
/// # Errors
/// Fails if the socket cannot be made at `path`.
pub(super) fn listen(
    location: &Location,
    path: Option<&Path>,
) -> Result<Option<(Socket, Listening)>, Failure> {
    let address = |path| ListenAddress::Unix { path, mode: 0o600 };
    if let Some(path) = path {
        return address(path.to_owned()).listen_for_control().map(Some);
    }
    let Some(folder) = folders().into_iter().next() else { return Ok(None) };
    let path = folder.join(format!("{}{}.sock", prefix(location), std::process::id()));
    let shown = printable(&folder.to_string_lossy());
    if let Err(e) = make_private(&folder) {
        log::info!("no control socket: cannot use {shown}: {e}");
        return Ok(None);
    }
    sockets_in(&folder, location).unwrap_or_default().iter().for_each(|path| remove_stale(path));
    match address(path).listen_for_control() {
        Ok(listening) => Ok(Some(listening)),
        Err(failure) => {
            log::info!("no control socket: {}", failure.into_reason());
            Ok(None)
        }
    }
}

/// Makes the folder for the owner alone if it does not exist. Refuses one in which another user
/// could exchange the sockets.
fn make_private(folder: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(e) if e.kind() != ErrorKind::AlreadyExists => return Err(e),
        Ok(()) | Err(_) => {}
    }
    let meta = fs::symlink_metadata(folder)?;
    let is_ours = meta.uid() == geteuid().as_raw() || meta.uid() == 0;
    if meta.is_dir() && is_ours && meta.mode() & 0o022 == 0 {
        return Ok(());
    }
    Err(io::Error::other("other users may change it"))
}

/// Returns the sockets of all servers on a store.
fn sockets_in(folder: &Path, location: &Location) -> io::Result<Vec<PathBuf>> {
    let prefix = prefix(location);
    let mut sockets = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(&prefix) && name.ends_with(".sock") {
            sockets.push(folder.join(&*name));
        }
    }
    sockets.sort();
    Ok(sockets)
}

/// Removes the socket of a server that was killed.
fn remove_stale(path: &Path) {
    let connected = UnixStream::connect(path);
    if connected.is_err_and(|e| e.kind() == ErrorKind::ConnectionRefused) {
        // Another server may have removed it meanwhile. If it stays, it does no harm.
        let _ = fs::remove_file(path);
    }
}

/// Asks all servers on a store, or the one with its control socket at `path`. Returns the answers.
///
/// # Errors
/// Fails if no server is running, or if one of them does not answer.
pub(super) fn ask_each<T>(
    location: &Location,
    path: Option<&Path>,
    ask: impl Fn(&ControlClient) -> Result<T, ControlError>,
) -> Result<Vec<T>, Failure> {
    let mut unreadable = None;
    let sockets = match path {
        Some(path) => vec![path.to_owned()],
        None => {
            let mut sockets = Vec::new();
            for folder in folders() {
                match sockets_in(&folder, location) {
                    Ok(found) => sockets.extend(found),
                    Err(e) if e.kind() == ErrorKind::NotFound => {}
                    Err(e) => unreadable = unreadable.or(Some((folder, e))),
                }
            }
            sockets
        }
    };
    let mut answers = Vec::new();
    for socket in sockets {
        let client = ControlClient::new(socket);
        match ask(&client) {
            Ok(answer) => answers.push(answer),
            Err(ControlError::Connect(e)) if is_absent(&e) => {}
            Err(e) => return Err(cannot_ask(client.socket(), &e)),
        }
    }
    if !answers.is_empty() {
        return Ok(answers);
    }
    if let Some((folder, e)) = unreadable {
        let folder = printable(&folder.to_string_lossy());
        let why = format!("cannot look for a server in {folder}: {e}");
        return Err(Failure::new(Exit::Failed, why).hint(AS_ITS_USER));
    }
    let why = match path {
        Some(path) => {
            format!("no server is running at {}", printable(&path.to_string_lossy()))
        }
        None => format!("no server is running on {location}"),
    };
    Err(Failure::new(Exit::Failed, why)
        .hint("start one with resttool serve, or name its socket with --control-socket"))
}

const AS_ITS_USER: &str = "run this as the user of the server, or as root";

/// Returns true if no server listens there.
fn is_absent(e: &io::Error) -> bool {
    matches!(e.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused)
}

fn cannot_ask(socket: &Path, e: &ControlError) -> Failure {
    let socket = printable(&socket.to_string_lossy());
    let why = printable(&e.to_string());
    let failure =
        Failure::new(Exit::Failed, format_args!("cannot ask the server at {socket}: {why}"));
    match e {
        ControlError::Connect(e) if e.kind() == ErrorKind::PermissionDenied => {
            failure.hint(AS_ITS_USER)
        }
        ControlError::Malformed(_) => failure.hint("use the version of the server"),
        _ => failure,
    }
}
