//! An API behind the gate, which tests play connection by connection.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::client::TIMEOUT;

/// A listening API. Each connection gets a thread.
pub struct Upstream {
    pub address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

/// A connection as the API sees it.
pub struct Accepted {
    reader: BufReader<TcpStream>,
}

impl Upstream {
    /// Starts an API that serves each connection by this function.
    pub fn start(serve: impl Fn(Accepted) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::<AtomicUsize>::default();
        let (count, serve) = (Arc::clone(&connections), Arc::new(serve));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                count.fetch_add(1, Ordering::SeqCst);
                let serve = Arc::clone(&serve);
                stream.set_read_timeout(Some(TIMEOUT)).unwrap();
                let accepted = Accepted { reader: BufReader::new(stream) };
                std::thread::spawn(move || serve(accepted));
            }
        });
        Self { address, connections }
    }

    /// Starts an API that answers every request with this response, or what the function makes of
    /// head and body.
    pub fn answering(answer: impl Fn(&str, &[u8]) -> Vec<u8> + Send + Sync + 'static) -> Self {
        Self::start(move |mut accepted| {
            while let Some(head) = accepted.head() {
                let body = accepted.body(&head);
                let response = answer(&head, &body);
                let is_head = head.starts_with("HEAD ");
                let end = response.windows(4).position(|window| window == b"\r\n\r\n");
                let length = end.filter(|_| is_head).map_or(response.len(), |end| end + 4);
                accepted.write(&response[..length]);
            }
        })
    }

    /// Starts an API that answers with the head of the request.
    pub fn echo() -> Self {
        Self::answering(|head, body| ok(format!("{head}{} bytes", body.len())))
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns the number of connections so far.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

impl Accepted {
    /// Reads the head of the next request, with the empty line. Returns `None` at the end of the
    /// connection.
    pub fn head(&mut self) -> Option<String> {
        let mut head = Vec::new();
        loop {
            match self.reader.read_until(b'\n', &mut head) {
                Ok(0) | Err(_) => return None,
                Ok(_) if head.ends_with(b"\r\n\r\n") => {
                    return Some(String::from_utf8_lossy(&head).into_owned());
                }
                Ok(_) => {}
            }
        }
    }

    /// Reads the body that belongs to this head, as far as it comes.
    pub fn body(&mut self, head: &str) -> Vec<u8> {
        let mut body = Vec::new();
        if let Some(length) = field(head, "content-length") {
            body.resize(length.parse().unwrap(), 0);
            let _ = self.reader.read_exact(&mut body);
        } else if field(head, "transfer-encoding") == Some("chunked") {
            while let Some(chunk) = self.chunk().filter(|chunk| !chunk.is_empty()) {
                body.extend(chunk);
            }
        }
        body
    }

    /// Reads a chunk. The last one is empty. Returns `None` if the connection ends before.
    pub fn chunk(&mut self) -> Option<Vec<u8>> {
        let mut line = String::new();
        self.reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
        let mut chunk = vec![0; usize::from_str_radix(line.trim_end(), 16).ok()?];
        self.reader.read_exact(&mut chunk).ok()?;
        self.reader.read_line(&mut line).ok()?;
        Some(chunk)
    }

    /// Sends bytes. The other end may be gone.
    pub fn write(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.reader.get_mut().write_all(bytes.as_ref());
    }

    /// Returns the socket. Bytes that were read ahead are not in it.
    pub fn stream(&mut self) -> &mut TcpStream {
        self.reader.get_mut()
    }

    /// Reads at most this many bytes. Returns none at the end of the connection.
    pub fn read_some(&mut self, most: usize) -> Vec<u8> {
        let mut bytes = vec![0; most];
        let read = self.reader.read(&mut bytes).unwrap_or(0);
        bytes.truncate(read);
        bytes
    }

    /// Returns when the other end has closed the connection.
    pub fn wait_for_end(&mut self) {
        while !self.read_some(1 << 16).is_empty() {}
    }

    pub fn close(self) {
        let _ = self.reader.get_ref().shutdown(Shutdown::Both);
    }
}

/// Returns the value of a field of a head.
pub fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let is = |(n, _): &(&str, &str)| n.eq_ignore_ascii_case(name);
    head.lines().filter_map(|line| line.split_once(": ")).find(is).map(|(_, value)| value)
}

/// Returns a response with this body.
pub fn ok(body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}
