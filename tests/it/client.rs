//! A client that sends exactly the bytes it is told to, and reads what comes back, typed.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// How long a test waits for what must come. Only a failing one waits so long.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What the server answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reply {
    pub status: u16,
    /// Name in lower case, and value; in the order they came, without Date.
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Reply {
    /// The value of the one field of this name; panics if there are several.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(n, _)| n == name).map(|(_, v)| v.as_str());
        let value = values.next();
        assert_eq!(values.next(), None, "{name} twice in {self:?}");
        value
    }
}

/// A request in the making.
#[derive(Clone, Debug)]
pub struct Request {
    method: String,
    target: String,
    headers: Vec<(String, Vec<u8>)>,
}

impl Request {
    pub fn new(method: &str, target: &str) -> Self {
        let host = ("Host".into(), b"localhost".into());
        Self { method: method.into(), target: target.into(), headers: vec![host] }
    }

    pub fn get(target: &str) -> Self {
        Self::new("GET", target)
    }

    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers.push((name.into(), value.as_ref().into()));
        self
    }

    pub fn authorization(self, value: impl AsRef<[u8]>) -> Self {
        self.header("Authorization", value)
    }

    pub fn basic(self, user: impl AsRef<[u8]>, password: impl AsRef<[u8]>) -> Self {
        self.authorization(basic(user, password))
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = format!("{} {} HTTP/1.1\r\n", self.method, self.target).into_bytes();
        for (name, value) in &self.headers {
            bytes.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
        }
        bytes.extend(b"\r\n");
        bytes
    }

    /// Sends it on a connection of its own.
    pub fn send(&self, to: SocketAddr) -> Reply {
        Connection::open(to).ask(self)
    }
}

/// The value of an Authorization field.
pub fn basic(user: impl AsRef<[u8]>, password: impl AsRef<[u8]>) -> String {
    format!("Basic {}", STANDARD.encode([user.as_ref(), b":", password.as_ref()].concat()))
}

/// A connection to the server, kept alive between requests.
pub struct Connection(BufReader<TcpStream>);

impl Connection {
    pub fn open(to: SocketAddr) -> Self {
        Self::over(TcpStream::connect(to).unwrap())
    }

    /// From this address of the loopback network.
    pub fn open_from(from: Ipv4Addr, to: SocketAddr) -> Self {
        use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
        let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        bind(&socket, &SocketAddr::from((from, 0))).unwrap();
        connect(&socket, &to).unwrap();
        Self::over(socket.into())
    }

    fn over(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self(BufReader::new(stream))
    }

    pub fn write(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).unwrap();
    }

    pub fn ask(&mut self, request: &Request) -> Reply {
        self.write(&request.bytes());
        if request.method == "HEAD" { self.read_head() } else { self.read() }
    }

    /// The next reply, with the body that its Content-Length announces.
    pub fn read(&mut self) -> Reply {
        let mut reply = self.read_head();
        let length = reply.header("content-length").map_or(0, |length| length.parse().unwrap());
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).unwrap();
        reply.body = String::from_utf8(body).unwrap();
        reply
    }

    /// The next reply, of which no body is expected.
    pub fn read_head(&mut self) -> Reply {
        let status_line = self.line();
        let status =
            status_line.strip_prefix("HTTP/1.1 ").or(status_line.strip_prefix("HTTP/1.0 "));
        let status = status.unwrap_or_else(|| panic!("no status line: {status_line:?}"));
        let mut reply = Reply {
            status: status[..3].parse().unwrap(),
            headers: Vec::new(),
            body: String::new(),
        };
        loop {
            let line = self.line();
            if line.is_empty() {
                return reply;
            }
            let (name, value) = line.split_once(':').unwrap();
            if !name.eq_ignore_ascii_case("date") {
                reply.headers.push((name.to_lowercase(), value.trim().to_owned()));
            }
        }
    }

    /// Ends what is sent, and reads until the server does the same. A reset is an error.
    pub fn close(mut self) -> std::io::Result<String> {
        self.0.get_mut().shutdown(Shutdown::Write)?;
        let mut rest = String::new();
        self.0.read_to_string(&mut rest).map(|_| rest)
    }

    /// As many bytes as these, of whatever comes.
    pub fn read_exactly(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.0.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// Whatever comes until the server closes the connection.
    pub fn rest(&mut self) -> String {
        let mut rest = Vec::new();
        match self.0.read_to_end(&mut rest) {
            // A reset, because the server had not read all that was sent, closes it too.
            Err(e) if e.kind() != std::io::ErrorKind::ConnectionReset => panic!("not closed: {e}"),
            _ => String::from_utf8(rest).unwrap(),
        }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        match line.strip_suffix("\r\n") {
            Some(line) => line.to_owned(),
            None => panic!("the connection ended in {line:?}"),
        }
    }
}

/// Text for an assertion that compares replies whole, but for the Date and the order of the fields.
pub fn whole(reply: &Reply) -> String {
    let mut text = format!("{}\n", reply.status);
    let mut headers = reply.headers.clone();
    headers.sort();
    for (name, value) in headers {
        writeln!(text, "{name}: {value}").unwrap();
    }
    text + "\n" + &reply.body
}
