//! Splits the bytes of a connection into requests (RFC 9112 sections 2.2, 6 and 7.1).
//!
//! Decides where a head ends and how long the content after it is. The HTTP library parses
//! everything else of a request. Both must agree on where a request ends, or a second request could
//! hide in the first one. So a request is *refused* if this module cannot follow it, even where the
//! HTTP library could.

use memchr::memchr;

/// The number of bytes of a line that are kept. A longer line that gives the length of the content
/// is refused.
const KEPT: usize = 48;

/// The boundaries of requests in the bytes of a connection.
pub struct Framing {
    position: Position,
    line: Line,
    head: Head,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Position {
    /// Between requests. Empty lines may stand here (RFC 9112 section 2.2).
    Between,
    Fields,
    /// In the line before a chunk.
    ChunkSize,
    Trailers,
    /// In content, or in a chunk and its line end, with this many bytes to come.
    Content(u64),
    /// After CONNECT or a WebSocket handshake. All bytes belong to this request.
    Tunnel,
    /// After a head that the HTTP library answers with 400.
    Refused,
    /// After chunked content that cannot be followed.
    Broken,
}

/// The framing of the content, as far as the head was read.
#[derive(Clone, Copy, Default)]
struct Head {
    connect: bool,
    websocket: bool,
    chunked: bool,
    length: u64,
}

/// The line that is being read.
struct Line {
    begin: [u8; KEPT],
    length: usize,
    last: u8,
}

/// The result of [`Framing::accept`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AcceptedBytes {
    /// The number of bytes that belong to the request.
    pub bytes: usize,
    /// The number of them that are content. The line end after a chunk and all bytes of a tunnel
    /// count.
    pub content: usize,
    /// The request ends with these bytes.
    pub whole: bool,
}

impl Framing {
    /// Starts before the first request of a connection.
    #[must_use]
    pub fn new() -> Self {
        let line = Line { begin: [0; KEPT], length: 0, last: 0 };
        Self { position: Position::Between, line, head: Head::default() }
    }

    /// Follows the next bytes of the connection, at most to the end of the current request.
    ///
    /// A refused head is made invalid in place. The LF of its bad line becomes a NUL, which no head
    /// may contain (RFC 9110 section 5.5). Nothing after that byte is accepted.
    pub fn accept(&mut self, bytes: &mut [u8]) -> AcceptedBytes {
        let (mut at, mut content) = (0, 0);
        while at < bytes.len() {
            match self.position {
                Position::Refused | Position::Broken => break,
                Position::Tunnel => {
                    content += bytes.len() - at;
                    at = bytes.len();
                }
                Position::Content(left) => {
                    let rest = bytes.len() - at;
                    let taken = usize::try_from(left).unwrap_or(usize::MAX).min(rest);
                    at += taken;
                    content += taken;
                    self.position = self.after_content(left - taken as u64);
                    if self.position == Position::Between {
                        return AcceptedBytes { bytes: at, content, whole: true };
                    }
                }
                Position::Between | Position::Fields | Position::ChunkSize | Position::Trailers => {
                    let Some(end) = memchr(b'\n', &bytes[at..]).map(|end| at + end) else {
                        self.line.add(&bytes[at..]);
                        at = bytes.len();
                        break;
                    };
                    let was = self.position;
                    self.position = if self.line.length == 0 {
                        // The usual case, without a copy.
                        after_line(was, &mut self.head, Whole::of(&bytes[at..end]))
                    } else {
                        self.line.add(&bytes[at..end]);
                        after_line(was, &mut self.head, self.line.whole())
                    };
                    self.line.length = 0;
                    at = end + 1;
                    match self.position {
                        Position::Refused => bytes[end] = 0,
                        Position::Between if was != Position::Between => {
                            return AcceptedBytes { bytes: at, content, whole: true };
                        }
                        _ => {}
                    }
                }
            }
        }
        AcceptedBytes { bytes: at, content, whole: false }
    }

    /// Returns the number of bytes that certainly belong to the current request.
    pub(super) fn certain(&self) -> u64 {
        if let Position::Content(left) = self.position { left } else { 0 }
    }

    /// Returns true if content is to come, after a head.
    pub(super) fn is_in_content(&self) -> bool {
        matches!(self.position, Position::Content(_) | Position::ChunkSize | Position::Tunnel)
    }

    /// Returns true if all further bytes belong to the current request.
    pub(super) fn is_tunnel(&self) -> bool {
        self.position == Position::Tunnel
    }

    /// Returns true if the request was refused. Nothing more is read from this connection.
    pub(super) fn is_stuck(&self) -> bool {
        matches!(self.position, Position::Refused | Position::Broken)
    }

    /// Returns true if a request has begun and not ended.
    pub(super) fn is_within(&self) -> bool {
        self.position != Position::Between || self.line.length > 0
    }

    fn after_content(&self, left: u64) -> Position {
        match self.head.chunked {
            _ if left > 0 => Position::Content(left),
            true => Position::ChunkSize,
            false => Position::Between,
        }
    }
}

/// Returns the position after a line, which is given without its LF.
fn after_line(position: Position, head: &mut Head, line: Whole<'_>) -> Position {
    if line.last != Some(b'\r') {
        // A bare LF, which the next server may take for a part of the line.
        let in_head = matches!(position, Position::Between | Position::Fields);
        return if in_head { Position::Refused } else { Position::Broken };
    }
    let is_empty = line.length == 1;
    match position {
        Position::Between if is_empty => Position::Between,
        Position::Between => {
            let connect = line.kept.starts_with(b"CONNECT ");
            *head = Head { connect, ..Head::default() };
            Position::Fields
        }
        Position::Fields if is_empty => head.content(),
        Position::Fields => line.field(head).map_or(Position::Refused, |()| Position::Fields),
        Position::ChunkSize => match line.chunk_size() {
            Some(0) => Position::Trailers,
            // Includes the line end after the chunk.
            Some(size) => size.checked_add(2).map_or(Position::Broken, Position::Content),
            None => Position::Broken,
        },
        Position::Trailers if is_empty => Position::Between,
        position => position,
    }
}

impl Default for Framing {
    fn default() -> Self {
        Self::new()
    }
}

impl Head {
    /// Returns the position after the head.
    fn content(self) -> Position {
        if self.chunked {
            Position::ChunkSize
        } else if self.websocket || (self.connect && self.length == 0) {
            Position::Tunnel
        } else if self.length > 0 {
            Position::Content(self.length)
        } else {
            Position::Between
        }
    }
}

impl Line {
    fn add(&mut self, bytes: &[u8]) {
        if let Some(last) = bytes.last() {
            self.last = *last;
        }
        if self.length < KEPT {
            let some = bytes.len().min(KEPT - self.length);
            self.begin[self.length..self.length + some].copy_from_slice(&bytes[..some]);
        }
        self.length += bytes.len();
    }

    fn whole(&self) -> Whole<'_> {
        let kept = &self.begin[..self.length.min(KEPT)];
        Whole { kept, length: self.length, last: (self.length > 0).then_some(self.last) }
    }
}

/// A line without its LF.
#[derive(Clone, Copy)]
struct Whole<'a> {
    /// Its beginning, of at most [`KEPT`] bytes.
    kept: &'a [u8],
    length: usize,
    last: Option<u8>,
}

impl<'a> Whole<'a> {
    fn of(line: &'a [u8]) -> Self {
        let kept = &line[..line.len().min(KEPT)];
        Self { kept, length: line.len(), last: line.last().copied() }
    }

    /// Records the framing that this field gives. Returns `None` if that is unclear.
    fn field(self, head: &mut Head) -> Option<()> {
        // Only fields that begin with these letters matter.
        if !matches!(self.kept.first(), Some(b'C' | b'c' | b'T' | b't' | b'U' | b'u')) {
            return Some(());
        }
        let Some(colon) = memchr(b':', self.kept) else { return Some(()) };
        let (name, value) = (&self.kept[..colon], self.kept[colon + 1..].trim_ascii());
        let is = |expected: &str| name.eq_ignore_ascii_case(expected.as_bytes());
        let length = is("Content-Length");
        if !length && !is("Transfer-Encoding") && !is("Upgrade") {
            return Some(());
        }
        if self.length > KEPT {
            return None;
        }
        if length {
            head.length = number(value, 10)?;
        } else if is("Upgrade") {
            head.websocket |= value.eq_ignore_ascii_case(b"websocket");
        } else if value.eq_ignore_ascii_case(b"chunked") {
            head.chunked = true;
        } else {
            return None;
        }
        Some(())
    }

    /// Returns the size of the chunk that this line announces (RFC 9112 section 7.1).
    fn chunk_size(self) -> Option<u64> {
        let end = self.kept.iter().position(|c| !c.is_ascii_hexdigit())?;
        number(&self.kept[..end], 16)
    }
}

fn number(digits: &[u8], base: u32) -> Option<u64> {
    let digits = std::str::from_utf8(digits).ok().filter(|digits| !digits.starts_with('+'))?;
    u64::from_str_radix(digits, base).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Splits `sent`, which comes in pieces of `size` bytes, into whole requests and the rest of
    /// the last one.
    fn split(sent: &[u8], size: usize) -> (Vec<Vec<u8>>, Vec<u8>, Framing) {
        let (mut requests, mut request) = (Vec::new(), Vec::new());
        let mut framing = Framing::new();
        for piece in sent.chunks(size) {
            let mut rest = piece.to_vec();
            loop {
                let accepted = framing.accept(&mut rest);
                request.extend(rest.drain(..accepted.bytes));
                if accepted.whole {
                    requests.push(std::mem::take(&mut request));
                } else {
                    break;
                }
            }
        }
        (requests, request, framing)
    }

    /// Asserts that `sent` is split into these whole requests and this beginning of one, in pieces
    /// of every size.
    fn is_split(sent: &str, requests: &[&str], rest: &str) {
        for size in 1..=sent.len() {
            let (seen, seen_rest, _) = split(sent.as_bytes(), size);
            let seen: Vec<_> = seen.iter().map(|one| std::str::from_utf8(one).unwrap()).collect();
            assert_eq!(seen, requests, "in pieces of {size}");
            assert_eq!(std::str::from_utf8(&seen_rest).unwrap(), rest, "in pieces of {size}");
        }
    }

    const HEAD: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

    #[test]
    fn pipelined_requests_are_split_where_each_ends() {
        is_split(HEAD, &[HEAD], "");
        let long = format!("X: {}\r\n", "y".repeat(3 * KEPT));
        for fields in ["", "Host: a\r\nX: \r\n", &long] {
            let post = format!("POST / HTTP/1.1\r\n{fields}");
            for content in [
                "Content-Length: 5\r\n\r\na\n\n\r\n",
                "CONTENT-LENGTH:\t 1\t\r\n\r\n\n",
                "content-length: 0\r\n\r\n",
                "transfer-encoding: chunked\r\n\r\n1\r\n\n\r\n0A;x=y\r\na\n\n\n\n\n\n\n\n\n\r\n0\r\n\r\n",
                "transfer-encoding:chunked\r\n\r\n0\r\nX: trailer\r\nY: z\r\n\r\n",
                "transfer-encoding: chunked\r\n\r\n0\r\nContent-Length: 9\r\n\r\n",
            ] {
                let request = format!("{post}{content}");
                let next = format!("\r\n{HEAD}");
                is_split(&format!("{request}{next}GET"), &[&request, &next], "GET");
            }
            let rest = format!("{post}Content-Length: 18446744073709551615\r\n\r\n\n{HEAD}");
            is_split(&format!("{HEAD}{rest}"), &[HEAD], &rest);
        }
    }

    #[test]
    fn content_is_counted_without_heads_and_sizes() {
        let post = "POST / HTTP/1.1\r\nHost: a\r\n";
        for (fields, expected) in [
            ("\r\n", 0),
            ("Content-Length: 5\r\n\r\na\n\r\nb", 5),
            ("Transfer-Encoding: chunked\r\n\r\n3;x=y\r\na\nb\r\n1\r\nc\r\n0\r\nX: y\r\n\r\n", 8),
            ("Upgrade: websocket\r\n\r\na\n\r\nb", 5),
        ] {
            let sent = format!("{post}{fields}").into_bytes();
            for size in 1..=sent.len() {
                let mut framing = Framing::new();
                let accept = |piece: &mut [u8]| framing.accept(piece).content;
                let content: usize = sent.clone().chunks_mut(size).map(accept).sum();
                assert_eq!(content, expected, "{fields:?} in pieces of {size}");
            }
        }
    }

    #[test]
    fn tunnels_never_end() {
        for tunnel in [
            "CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nUpgrade: WebSocket\r\nContent-Length: 1\r\n\r\n",
        ] {
            let rest = format!("{tunnel}x{HEAD}");
            is_split(&format!("{HEAD}{rest}"), &[HEAD], &rest);
        }
        let plain = "GET / HTTP/1.1\r\nUpgrade: h2c\r\n\r\n";
        is_split(&format!("{plain}{HEAD}"), &[plain, HEAD], "");
    }

    /// P-15: the NUL stands where a LF was sent, and nothing after it is accepted.
    #[test]
    fn bare_lf_in_a_head_makes_it_invalid() {
        for refused in [
            "GET / HTTP/1.1\0",
            "GET / HTTP/1.1\r\nHost: a\0",
            "GET / HTTP/1.1\r\nHost: a\r\n\0",
            "GET / HTTP/1.1\r\nX:\0",
            "\0",
            "\r\n\0",
        ] {
            let sent = format!("{HEAD}{refused}Host: a\r\n\r\n{HEAD}").replace('\0', "\n");
            is_split(&sent, &[HEAD], refused);
        }
    }

    /// R-07: content that is not followed would disable the checks of all later heads.
    #[test]
    fn head_that_cannot_be_followed_is_made_invalid() {
        for field in [
            &format!("Content-Length:{}5", " ".repeat(33)),
            &format!("Content-Length: 5{}", " ".repeat(KEPT)),
            &format!("Content-Length: {}5", "0".repeat(KEPT)),
            "Content-Length: +5",
            "Content-Length: 5, 5",
            "Content-Length:",
            "Content-Length: 18446744073709551616",
            &format!("Transfer-Encoding:{}chunked", " ".repeat(KEPT)),
            "Transfer-Encoding: gzip, chunked",
            "Transfer-Encoding: identity",
            &format!("Upgrade:{}websocket", "\t".repeat(KEPT)),
        ] {
            let head = format!("POST / HTTP/1.1\r\n{field}\r");
            is_split(&format!("{head}\nHost: a\r\n\r\n{HEAD}"), &[], &format!("{head}\0"));
        }
    }

    /// R-07
    #[test]
    fn chunks_that_cannot_be_followed_end_the_connection() {
        let head = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
        let zeros = format!("{}1\r\n", "0".repeat(KEPT));
        for size in [
            "x\r\n",
            "\r\n",
            "-1\r\n",
            "1\n",
            "FFFFFFFFFFFFFFFF\r\n",
            "10000000000000000\r\n",
            &zeros,
        ] {
            let sent = format!("{head}{size}a\r\n0\r\n\r\n{HEAD}");
            is_split(&sent, &[], &format!("{head}{size}"));
            assert!(split(sent.as_bytes(), 1).2.is_stuck(), "{size:?}");
        }
        is_split(&format!("{head}0\r\nX: y\n\r\n{HEAD}"), &[], &format!("{head}0\r\nX: y\n"));
    }

    /// Returns the number of heads and of ends of content that the HTTP library decodes from these
    /// bytes, or its error.
    fn decoded(bytes: &[u8]) -> Result<(usize, usize), actix_http::error::ParseError> {
        use actix_codec::Decoder;
        use actix_http::ServiceConfig;
        use actix_http::h1::{Codec, Message, MessageType};
        use actix_web::rt::{System, SystemRunner};
        thread_local! {
            // The configuration has its own clock, which runs in this system. All codecs share it.
            static CONFIG: (SystemRunner, ServiceConfig) = {
                let system = System::new();
                let config = system.block_on(async { ServiceConfig::default() });
                (system, config)
            };
        }
        let mut codec = CONFIG.with(|(_, config)| Codec::new(config.clone()));
        let mut bytes = bytes.into();
        let (mut heads, mut ends) = (0, 0);
        while let Some(message) = codec.decode(&mut bytes)? {
            match message {
                Message::Item(_) => {
                    heads += 1;
                    ends += usize::from(matches!(codec.message_type(), MessageType::None));
                }
                Message::Chunk(Some(_)) => {}
                Message::Chunk(None) => ends += 1,
            }
        }
        Ok((heads, ends))
    }

    proptest::proptest! {
        /// P-15, R-07: to the HTTP library, each whole request is also one request or an error, and
        /// the rest is never a whole one.
        #[test]
        fn http_library_agrees_on_where_requests_end(
            words in proptest::collection::vec(
                proptest::sample::select(vec![
                    "\r\n", "\r\n", "\r\n", "\r\n\r\n", "\n", "\r", "GET / HTTP/1.1\r\nHost: a\r\n",
                    "POST / HTTP/1.1\r\nHost: a\r\n", "CONNECT / HTTP/1.1\r\nHost: a\r\n", "Content-Length: 3\r\n",
                    "Content-Length:                                 3\r\n", "Upgrade: websocket\r\n", ":", "2", "0",
                    "3\r\nabc\r\n", "0\r\n\r\n", "0;x\r\nA: b\r\n\r\n", "abc", "Transfer-Encoding: chunked\r\n", "X: y\r\n",
                ]),
                0..30,
            ),
            size in 1_usize..9,
        ) {
            let sent = words.concat().into_bytes();
            let (requests, rest, _) = split(&sent, size);
            assert_eq!(requests, split(&sent, sent.len().max(1)).0, "independent of the pieces");
            for request in requests {
                assert!(matches!(decoded(&request), Ok((1, 1)) | Err(_)), "{request:?}");
            }
            assert!(matches!(decoded(&rest), Ok((0 | 1, 0)) | Err(_)), "{rest:?}");
        }
    }
}
