//! Listening sockets that a service manager passes (sd_listen_fds(3)). A restart then loses no
//! connection, since the sockets stay open.

use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use listenfd::ListenFd;
use rustix::net::sockopt::socket_acceptconn;

use super::exit::{Exit, Failure};
use super::listen::Listening;
use crate::http::Socket;

/// A socket that was passed.
enum Passed {
    Tcp(TcpListener, SocketAddr),
    Unix(UnixListener, PathBuf),
}

/// The sockets of the service manager, in its order.
pub(super) struct PassedSockets {
    first: Passed,
    more: Vec<Passed>,
}

impl PassedSockets {
    /// Takes the sockets that are meant for this process, once. Returns `None` if there are none.
    ///
    /// # Errors
    /// Fails if one of them is no listening TCP or Unix socket.
    pub(super) fn take() -> Result<Option<Self>, Failure> {
        // Without LISTEN_PID, the sockets may be those of another program (sd_listen_fds(3)).
        if std::env::var_os("LISTEN_PID").is_none() {
            return Ok(None);
        }
        let mut passed = ListenFd::from_env();
        let sockets = (0..passed.len()).map(|index| {
            passed_socket(&mut passed, index).map_err(|why| {
                let why = format!("cannot use socket {index} of the service manager: {why}");
                Failure::new(Exit::Failed, why)
                    .hint("pass listening TCP or Unix sockets: ListenStream= with Accept=no")
            })
        });
        let mut sockets = sockets.collect::<Result<Vec<_>, _>>()?.into_iter();
        Ok(sockets.next().map(|first| Self { first, more: sockets.collect() }))
    }

    /// Returns the addresses of the TCP sockets.
    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        let address = |passed: &Passed| match passed {
            Passed::Tcp(_, address) => Some(*address),
            Passed::Unix(..) => None,
        };
        std::iter::once(&self.first).chain(&self.more).filter_map(address).collect()
    }

    /// Returns the sockets, and their addresses for people.
    pub(super) fn listen(self, scheme: &str) -> (Vec<Socket>, Listening) {
        let (socket, first) = self.first.listen(scheme);
        let more = self.more.into_iter().map(|passed| passed.listen(scheme));
        let (more_sockets, more): (Vec<_>, Vec<_>) = more.unzip();
        (std::iter::once(socket).chain(more_sockets).collect(), first.and(&more))
    }
}

impl Passed {
    fn listen(self, scheme: &str) -> (Socket, Listening) {
        match self {
            Self::Tcp(listener, address) => {
                (listener.into(), Listening::on(format!("{scheme}://{address}")))
            }
            Self::Unix(listener, path) => (listener.into(), Listening::on_passed_socket(path)),
        }
    }
}

/// Warns of sockets that [`PassedSockets::take`] has left alone.
pub(super) fn warn_of_ignored_sockets() {
    if std::env::var_os("LISTEN_FDS").is_some() {
        log::warn!("ignoring the sockets of the service manager (LISTEN_FDS) without a LISTEN_PID");
    }
}

fn passed_socket(passed: &mut ListenFd, index: usize) -> Result<Passed, String> {
    let is_listening = |accepts: rustix::io::Result<bool>| match accepts {
        Ok(true) => Ok(()),
        Ok(false) => Err("it does not listen".to_owned()),
        Err(e) => Err(e.to_string()),
    };
    if let Ok(Some(listener)) = passed.take_tcp_listener(index) {
        is_listening(socket_acceptconn(&listener))?;
        let address = listener.local_addr().map_err(|e| e.to_string())?;
        return Ok(Passed::Tcp(listener, address));
    }
    let listener = passed.take_unix_listener(index).map_err(|e| e.to_string())?;
    let listener = listener.ok_or_else(|| "it is missing".to_owned())?;
    is_listening(socket_acceptconn(&listener))?;
    let address = listener.local_addr().map_err(|e| e.to_string())?;
    // An abstract address has no path.
    let path = address.as_pathname().unwrap_or(Path::new("abstract")).to_owned();
    Ok(Passed::Unix(listener, path))
}
