//! The sockets of the server: an address, or a Unix socket. Knows nothing of requests.

use std::fmt;
use std::fs::{self, Permissions};
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, fstat, lstat};
use rustix::io::Errno;

use super::activation::PassedSockets;
use super::exit::{Exit, Failure};
use crate::config::{OpsAddress, ServeSettings};
use crate::fs::{FileId, folder};
use crate::http::{Socket, UpstreamAddress};
use crate::text::{printable, shell_word};

/// The address to listen on.
pub(super) enum ListenAddress {
    Tcp(Vec<SocketAddr>),
    Unix { path: PathBuf, mode: u32 },
}

/// An address of the settings, as errors name it.
struct Named<'a> {
    /// The address with its option.
    text: String,
    /// The option to change.
    option: &'a str,
}

/// Where clients are served.
pub(super) enum ClientAddress {
    /// An address of the settings.
    Own(ListenAddress),
    /// Sockets that listen already.
    Passed(PassedSockets),
}

impl ClientAddress {
    /// Resolves the address of the settings. Sockets of the service manager take its place.
    pub(super) fn of(args: &ServeSettings, passed: Option<PassedSockets>) -> Result<Self, Failure> {
        match (&args.unix_socket, passed) {
            (Some(_), Some(_)) => {
                let why = "--unix-socket is given, and the service manager passes sockets";
                Err(Failure::new(Exit::Usage, why).hint("leave out --unix-socket"))
            }
            (None, Some(passed)) => {
                check_plaintext(args, &passed.addresses(), "a socket of the service manager")?;
                Ok(Self::Passed(passed))
            }
            (Some(path), None) => Ok(Self::Own(ListenAddress::Unix {
                path: path.clone(),
                mode: args.unix_socket_mode,
            })),
            (None, None) => addresses(args).map(ListenAddress::Tcp).map(Self::Own),
        }
    }

    /// Fails if requests to this upstream would come back to this address, endlessly. An upstream
    /// whose host cannot be resolved yet is another one.
    pub(super) fn check_upstream(&self, upstream: &UpstreamAddress) -> Result<(), Failure> {
        let own = match self {
            Self::Own(ListenAddress::Tcp(addresses)) => addresses.clone(),
            Self::Own(ListenAddress::Unix { .. }) => Vec::new(),
            Self::Passed(passed) => passed.addresses(),
        };
        let is_own = match (self, upstream) {
            (Self::Own(ListenAddress::Unix { path, .. }), UpstreamAddress::Unix(other)) => {
                path == other
            }
            (_, UpstreamAddress::Tcp { host, port, .. }) => {
                let resolved = (host.as_str(), *port).to_socket_addrs().into_iter().flatten();
                let arrives_at = |other: SocketAddr, own: &SocketAddr| {
                    let is_local = own.ip().is_unspecified() && other.ip().is_loopback();
                    own.ip() == other.ip() || is_local
                };
                own.iter().any(|own| own.port() == *port)
                    && resolved
                        .into_iter()
                        .any(|other| own.iter().any(|own| arrives_at(other, own)))
            }
            _ => false,
        };
        if !is_own {
            return Ok(());
        }
        let why = format!("--upstream {upstream} is the address of resttool itself");
        Err(Failure::new(Exit::Usage, why)
            .hint("give the address of the API, or choose another --port"))
    }

    /// Starts to listen.
    pub(super) fn listen(self, args: &ServeSettings) -> Result<(Vec<Socket>, Listening), Failure> {
        let scheme = if args.tls_cert.is_some() { "https" } else { "http" };
        let address = match self {
            Self::Passed(passed) => return Ok(passed.listen(scheme)),
            Self::Own(address) => address,
        };
        let host = printable(&args.listen.host);
        let text = format!("{host} port {}", args.listen.port);
        let listening =
            address.listen_as(scheme, &Named { text, option: "--port" }, "--unix-socket");
        listening.map(|(socket, listening)| (vec![socket], listening))
    }
}

impl ListenAddress {
    /// Resolves the address for operators. Only their own machine reaches it, unless the settings
    /// permit others.
    pub(super) fn of_operators(address: &OpsAddress, allow_remote: bool) -> Result<Self, Failure> {
        let (host, port) = match address {
            OpsAddress::Unix(path) => return Ok(Self::Unix { path: path.clone(), mode: 0o600 }),
            OpsAddress::Tcp { host, port } => (host, *port),
        };
        let shown = printable(host);
        let addresses = resolve(host, port, "--ops-listen")?;
        if !allow_remote && !addresses.iter().all(|address| address.ip().is_loopback()) {
            let why = format!("--ops-listen {shown} can be reached from other machines");
            return Err(Failure::new(Exit::Usage, why)
                .hint("listen on 127.0.0.1 or on unix:PATH, or give --allow-remote-ops"));
        }
        Ok(Self::Tcp(addresses))
    }

    /// Starts to listen for operators.
    pub(super) fn listen_for_operators(&self) -> Result<(Socket, Listening), Failure> {
        let text = match self {
            Self::Tcp(addresses) => addresses.first().map_or_else(String::new, ToString::to_string),
            Self::Unix { path, .. } => printable(&path.to_string_lossy()),
        };
        self.listen_as("http", &Named { text, option: "--ops-listen" }, "--ops-listen")
    }

    /// Starts to listen for commands.
    pub(super) fn listen_for_control(&self) -> Result<(Socket, Listening), Failure> {
        let option = "--control-socket";
        self.listen_as("http", &Named { text: String::new(), option }, option)
    }

    fn listen_as(
        &self,
        scheme: &str,
        address: &Named<'_>,
        socket_option: &str,
    ) -> Result<(Socket, Listening), Failure> {
        match self {
            Self::Tcp(addresses) => {
                let bound = TcpListener::bind(&addresses[..]);
                let listener = bound.map_err(|e| cannot_listen(address, &e))?;
                let address = listener.local_addr().map_err(|e| Failure::new(Exit::Failed, e))?;
                Ok((listener.into(), Listening::on(format!("{scheme}://{address}"))))
            }
            Self::Unix { path, mode } => {
                let shown = printable(&path.to_string_lossy());
                let (listener, file) = socket(path, *mode).map_err(|e| {
                    let why = format_args!("cannot listen on {shown}: {e}");
                    match e.kind() {
                        io::ErrorKind::AddrInUse => Failure::new(Exit::Failed, why).hint(format!(
                            "another server listens there: choose another {socket_option}"
                        )),
                        _ => Failure::new(Exit::Failed, why),
                    }
                })?;
                let socket = Some(UnixSocket { path: path.clone(), file: Some(file) });
                Ok((
                    listener.into(),
                    Listening { socket, ..Listening::on(format!("unix:{shown}")) },
                ))
            }
        }
    }
}

/// A socket that the server listens on. This value outlives the socket itself.
pub(super) struct Listening {
    url: String,
    /// The addresses of further sockets, each after a comma.
    more: String,
    socket: Option<UnixSocket>,
}

/// A Unix socket.
struct UnixSocket {
    path: PathBuf,
    /// An open descriptor of its file, so that no other one gets its inode. `None` if the server did
    /// not create it.
    file: Option<OwnedFd>,
}

impl fmt::Display for Listening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.url, self.more)
    }
}

impl Listening {
    /// A TCP socket with this URL.
    pub(super) fn on(url: String) -> Self {
        Self { url, more: String::new(), socket: None }
    }

    /// A Unix socket of the service manager.
    pub(super) fn on_passed_socket(path: PathBuf) -> Self {
        let url = format!("unix:{}", printable(&path.to_string_lossy()));
        Self { socket: Some(UnixSocket { path, file: None }), ..Self::on(url) }
    }

    /// Names further sockets too.
    pub(super) fn and(self, more: &[Self]) -> Self {
        Self { more: more.iter().map(|other| format!(", {other}")).collect(), ..self }
    }

    /// Returns the address of a path, for people.
    pub(super) fn address(&self, path: &str) -> String {
        match &self.socket {
            None => format!("{}{path}", self.url),
            Some(_) => format!("{path} on {}", self.url),
        }
    }

    /// Returns a command that tries a user on this path.
    pub(super) fn curl(&self, user: &str, path: &str) -> String {
        let user = shell_word(user);
        match &self.socket {
            None => format!("curl -u {user} {}{path}", self.url),
            Some(UnixSocket { path: socket, .. }) => {
                let socket = shell_word(socket);
                format!("curl -u {user} --unix-socket {socket} http://localhost{path}")
            }
        }
    }

    /// Removes the Unix socket, unless a server that was started meanwhile has replaced it.
    pub(super) fn leave(self) {
        let Some(UnixSocket { path, file: Some(file) }) = self.socket else { return };
        let remove = || -> io::Result<()> {
            let ours = fstat(&file)?;
            match lstat(&path) {
                Ok(there) if FileId::new(&there) == FileId::new(&ours) => fs::remove_file(&path),
                Ok(_) | Err(Errno::NOENT) => Ok(()),
                Err(e) => Err(e.into()),
            }
        };
        if let Err(e) = remove() {
            log::warn!("cannot remove {}: {e}", printable(&path.to_string_lossy()));
        }
    }
}

/// Creates a Unix socket with this mode, and returns it with a descriptor of its file.
///
/// The socket is renamed into place, so that no client can connect while it has another mode. It
/// replaces a socket without a listener and no other file.
fn socket(path: &Path, mode: u32) -> io::Result<(UnixListener, OwnedFd)> {
    match UnixStream::connect(path) {
        Ok(_) => return Err(io::ErrorKind::AddrInUse.into()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) if e.kind() != io::ErrorKind::ConnectionRefused => return Err(e),
        Err(e) if !fs::symlink_metadata(path)?.file_type().is_socket() => return Err(e),
        Err(_) => {}
    }
    let temporary = tempfile::Builder::new().prefix(".resttool-").tempdir_in(folder(path))?;
    let made = temporary.path().join("socket");
    let listener = UnixListener::bind(&made)?;
    fs::set_permissions(&made, Permissions::from_mode(mode))?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::open(&made, flags, Mode::empty())?;
    fs::rename(made, path)?;
    Ok((listener, file))
}

/// Resolves the host.
fn addresses(args: &ServeSettings) -> Result<Vec<SocketAddr>, Failure> {
    let host = printable(&args.listen.host);
    let bare = args
        .listen
        .host
        .strip_prefix('[')
        .and_then(|h| h.strip_suffix(']'))
        .unwrap_or(&args.listen.host);
    let addresses = resolve(bare, args.listen.port, "--host")?;
    check_plaintext(args, &addresses, &format!("--host {host}"))?;
    Ok(addresses)
}

/// Fails if other machines could send passwords in the clear to one of these addresses.
fn check_plaintext(
    args: &ServeSettings,
    addresses: &[SocketAddr],
    what: &str,
) -> Result<(), Failure> {
    let is_local = addresses.iter().all(|address| address.ip().is_loopback());
    if is_local || args.tls_cert.is_some() || args.allow_plaintext {
        return Ok(());
    }
    let why = format!(
        "{what} can be reached from other machines, and passwords would travel in the clear"
    );
    Err(Failure::new(Exit::Usage, why)
        .hint("give --tls-cert and --tls-key, listen on 127.0.0.1 behind a proxy that speaks TLS, or give --allow-plaintext"))
}

/// Resolves a host of this option.
fn resolve(host: &str, port: u16, option: &str) -> Result<Vec<SocketAddr>, Failure> {
    let addresses = (host, port).to_socket_addrs();
    addresses.map(Iterator::collect).map_err(|e| {
        let host = printable(host);
        Failure::new(Exit::Usage, format_args!("{option} {host} is no address: {e}"))
    })
}

fn cannot_listen(Named { text, option }: &Named<'_>, e: &io::Error) -> Failure {
    let failure = Failure::new(Exit::Failed, format_args!("cannot listen on {text}: {e}"));
    match e.kind() {
        io::ErrorKind::AddrInUse => {
            failure.hint(format!("another program listens there: choose another {option}"))
        }
        io::ErrorKind::PermissionDenied => {
            failure.hint(format!("choose a {option} of 1024 or more"))
        }
        _ => failure,
    }
}
