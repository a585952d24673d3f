//! A raw HTTP/1.1 client. It sends exactly the given bytes, and parses responses.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Timeout of every wait. Only a failing test waits so long.
pub const TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Response {
    pub status: u16,
    /// Names in lower case and values, in the order of the response, without Date.
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Response {
    /// Returns the value of the field of this name. Panics if there are several.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(n, _)| n == name).map(|(_, v)| v.as_str());
        let value = values.next();
        assert_eq!(values.next(), None, "{name} twice in {self:?}");
        value
    }
}

/// A request, without a body.
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

    /// Sends it on a new connection.
    pub fn send(&self, to: SocketAddr) -> Response {
        Connection::open(to).send(self)
    }
}

/// Returns the value of an Authorization field.
pub fn basic(user: impl AsRef<[u8]>, password: impl AsRef<[u8]>) -> String {
    format!("Basic {}", STANDARD.encode([user.as_ref(), b":", password.as_ref()].concat()))
}

/// Returns the next bytes, which have to arrive with the end of the connection.
pub fn last_segment(mut client: TcpStream) -> Vec<u8> {
    client.set_nonblocking(true).unwrap();
    let mut space = [0; 4096];
    let end = Instant::now() + TIMEOUT;
    let read = loop {
        match client.read(&mut space) {
            Err(e) if e.kind() == ErrorKind::WouldBlock && Instant::now() < end => {}
            read => break read.unwrap(),
        }
    };
    assert!(read < space.len(), "more than one read");
    assert_eq!(client.read(&mut [0]).unwrap(), 0, "the end is there already");
    space[..read].to_vec()
}

/// A connection that is kept alive between requests.
pub struct Connection(BufReader<TcpStream>);

impl Connection {
    pub fn open(to: SocketAddr) -> Self {
        Self::new(TcpStream::connect(to).unwrap())
    }

    /// Connects from this address of the loopback network.
    pub fn open_from(from: Ipv4Addr, to: SocketAddr) -> Self {
        use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
        let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        bind(&socket, &SocketAddr::from((from, 0))).unwrap();
        connect(&socket, &to).unwrap();
        Self::new(socket.into())
    }

    fn new(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        stream.set_write_timeout(Some(TIMEOUT)).unwrap();
        Self(BufReader::new(stream))
    }

    pub fn write(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).unwrap();
    }

    /// Returns the number of bytes that were received, and not read yet.
    pub fn received(&self) -> usize {
        let queued = rustix::io::ioctl_fionread(self.0.get_ref()).unwrap();
        self.0.buffer().len() + usize::try_from(queued).unwrap()
    }

    pub fn send(&mut self, request: &Request) -> Response {
        self.write(&request.bytes());
        if request.method == "HEAD" { self.read_head() } else { self.read() }
    }

    /// Reads the next response, with the body that its Content-Length announces.
    pub fn read(&mut self) -> Response {
        let mut response = self.read_head();
        let length = response.header("content-length").map_or(0, |length| length.parse().unwrap());
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).unwrap();
        response.body = String::from_utf8(body).unwrap();
        response
    }

    /// Reads the next response, which has no body.
    pub fn read_head(&mut self) -> Response {
        let status_line = self.line();
        let status =
            status_line.strip_prefix("HTTP/1.1 ").or(status_line.strip_prefix("HTTP/1.0 "));
        let status = status.unwrap_or_else(|| panic!("no status line: {status_line:?}"));
        let mut response = Response {
            status: status[..3].parse().unwrap(),
            headers: Vec::new(),
            body: String::new(),
        };
        loop {
            let line = self.line();
            if line.is_empty() {
                return response;
            }
            let (name, value) = line.split_once(':').unwrap();
            if !name.eq_ignore_ascii_case("date") {
                response.headers.push((name.to_lowercase(), value.trim().to_owned()));
            }
        }
    }

    /// Shuts down writing, and reads until the server closes the connection. A reset is an error.
    pub fn close(mut self) -> std::io::Result<String> {
        self.0.get_mut().shutdown(Shutdown::Write)?;
        let mut rest = String::new();
        self.0.read_to_string(&mut rest).map(|_| rest)
    }

    /// Reads `length` bytes.
    pub fn read_exactly(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.0.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// Reads a chunk. Returns `None` at the end of the body.
    pub fn read_chunk(&mut self) -> Option<Vec<u8>> {
        let length = usize::from_str_radix(&self.line(), 16).unwrap();
        let chunk = self.read_exactly(length);
        assert_eq!(self.line(), "");
        (length > 0).then_some(chunk)
    }

    /// Reads until the server closes the connection.
    pub fn rest(&mut self) -> String {
        let mut rest = Vec::new();
        match self.0.read_to_end(&mut rest) {
            // A reset closes it too: the server had not read all bytes.
            Err(e) if e.kind() != std::io::ErrorKind::ConnectionReset => panic!("not closed: {e}"),
            _ => String::from_utf8(rest).unwrap(),
        }
    }

    /// Reads until the connection ends, by a reset or otherwise.
    pub fn rest_until_cut(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        let mut piece = [0; 1 << 16];
        while let Ok(read @ 1..) = self.0.read(&mut piece) {
            rest.extend(&piece[..read]);
        }
        rest
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

/// Returns the whole response as text, without Date and with its fields sorted.
pub fn whole(response: &Response) -> String {
    let mut text = format!("{}\n", response.status);
    let mut headers = response.headers.clone();
    headers.sort();
    for (name, value) in headers {
        writeln!(text, "{name}: {value}").unwrap();
    }
    text + "\n" + &response.body
}
