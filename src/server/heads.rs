//! Which bytes of a connection are heads of requests, and that each of their lines ends with CR LF.
//!
//! The framework takes a bare LF for the end of a line too, as RFC 9112 section 2.2 allows. Whoever stands in front may take it
//! for a part of a field, and then the two read different requests. So it is made a NUL here, which no head may hold
//! (RFC 9110 section 5.5): the framework answers that with 400 and closes the connection.
//!
//! Nothing is parsed here but what says where a head ends and how long its body is. Whatever else is wrong with it is
//! for the framework to find.

use memchr::memchr;

/// What is kept of a line: enough for the longest `Content-Length: ` that counts.
const KEPT: usize = 48;

/// Where a connection is.
pub(super) struct Heads {
    place: Place,
    line: Line,
    /// What the head has said of its body.
    body: Body,
}

#[derive(Clone, Copy)]
enum Place {
    /// Between requests, or in the first line of one.
    Before,
    /// In the fields.
    Fields,
    /// In the line before a chunk.
    Size,
    /// In what may follow the last chunk, where no field says anything of a body.
    Trailers,
    /// So many bytes are still to come of a body, or of a chunk.
    Data(u64),
    /// After what the framework refuses.
    Beyond,
}

#[derive(Clone, Copy)]
enum Body {
    Length(u64),
    /// RFC 9112 section 7.1.
    Chunks,
    /// The framework refuses it.
    Unknown,
}

/// The line that is coming in.
struct Line {
    begin: [u8; KEPT],
    length: usize,
    last: u8,
}

impl Heads {
    pub(super) fn new() -> Self {
        let line = Line { begin: [0; KEPT], length: 0, last: 0 };
        Self { place: Place::Before, line, body: Body::Length(0) }
    }

    /// Looks at what has come in next.
    pub(super) fn check(&mut self, mut bytes: &mut [u8]) {
        while !bytes.is_empty() {
            match self.place {
                Place::Beyond => return,
                Place::Data(left) => {
                    let some = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                    bytes = &mut bytes[some..];
                    self.place = self.after_data(left - some as u64);
                }
                Place::Before | Place::Fields | Place::Size | Place::Trailers => {
                    let Some(end) = memchr(b'\n', bytes) else { return self.line.add(bytes) };
                    let (line, rest) = bytes.split_at_mut(end + 1);
                    self.line.add(&line[..end]);
                    if self.line.length == 0 || self.line.last != b'\r' {
                        line[end] = 0;
                        self.place = Place::Beyond;
                        return;
                    }
                    self.place = self.after_line();
                    self.line.length = 0;
                    bytes = rest;
                }
            }
        }
    }

    fn after_data(&self, left: u64) -> Place {
        match self.body {
            _ if left > 0 => Place::Data(left),
            Body::Chunks => Place::Size,
            Body::Length(_) | Body::Unknown => Place::Before,
        }
    }

    fn after_line(&mut self) -> Place {
        let is_empty = self.line.length == 1;
        match self.place {
            // Empty lines may stand before a request (RFC 9112 section 2.2).
            Place::Before if is_empty => Place::Before,
            Place::Before => {
                self.body = Body::Length(0);
                Place::Fields
            }
            Place::Fields if is_empty => match self.body {
                Body::Length(0) => Place::Before,
                Body::Length(length) => Place::Data(length),
                Body::Chunks => Place::Size,
                Body::Unknown => Place::Beyond,
            },
            Place::Size => match self.line.size() {
                Some(0) => Place::Trailers,
                // With the line end behind it.
                Some(size) => Place::Data(size.saturating_add(2)),
                None => Place::Beyond,
            },
            Place::Trailers if is_empty => Place::Before,
            Place::Fields => {
                self.body = self.line.body().unwrap_or(self.body);
                Place::Fields
            }
            Place::Trailers | Place::Data(_) | Place::Beyond => self.place,
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

    fn kept(&self) -> &[u8] {
        &self.begin[..self.length.min(KEPT)]
    }

    /// What this field says of the body, if it says anything.
    fn body(&self) -> Option<Body> {
        let colon = memchr(b':', self.kept())?;
        let (name, value) = (&self.kept()[..colon], &self.kept()[colon + 1..]);
        if name.eq_ignore_ascii_case(b"Transfer-Encoding") {
            return Some(Body::Chunks);
        }
        if !name.eq_ignore_ascii_case(b"Content-Length") {
            return None;
        }
        // What is no number the framework refuses, and what is cut off here is no length that anybody means.
        let length = number(value.trim_ascii(), 10).filter(|_| self.length <= KEPT);
        Some(length.map_or(Body::Unknown, Body::Length))
    }

    /// The size of the chunk that this line announces.
    fn size(&self) -> Option<u64> {
        let end = self.kept().iter().position(|c| !c.is_ascii_hexdigit())?;
        number(&self.kept()[..end], 16)
    }
}

fn number(digits: &[u8], base: u32) -> Option<u64> {
    let digits = std::str::from_utf8(digits).ok().filter(|digits| !digits.starts_with('+'))?;
    u64::from_str_radix(digits, base).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever the size of the pieces in which it comes: where NUL stands here, LF was sent.
    fn becomes(expected: &str) {
        let sent = expected.replace('\0', "\n");
        for size in 1..=sent.len() {
            let mut bytes = sent.clone().into_bytes();
            let mut heads = Heads::new();
            bytes.chunks_mut(size).for_each(|piece| heads.check(piece));
            assert_eq!(String::from_utf8(bytes).unwrap(), expected, "in pieces of {size}");
        }
    }

    const HEAD: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

    /// P-15
    #[test]
    fn a_bare_lf_in_a_head_is_spoiled_wherever_it_stands() {
        for spoiled in [
            "GET / HTTP/1.1\0Host: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\0X: b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n\0",
            "GET / HTTP/1.1\r\nX:\0\r\n",
            "\0GET / HTTP/1.1\r\n",
            "\r\n\0GET / HTTP/1.1\r\n",
            // Only the first: after that the connection has nothing more to say.
            "GET / HTTP/1.1\0Host: a\n\n",
        ] {
            becomes(spoiled);
            becomes(&format!("{HEAD}\r\n{HEAD}{spoiled}"));
        }
    }

    /// P-15
    #[test]
    fn what_is_no_head_is_left_alone_and_the_next_head_is_found() {
        becomes(HEAD);
        let long = format!("X: {}\r\n", "y".repeat(3 * KEPT));
        for fields in ["", "Host: a\r\nX: \r\n", &long] {
            let post = format!("POST / HTTP/1.1\r\n{fields}");
            becomes(&format!("{post}Content-Length: 5\r\n\r\na\n\n\r\n{HEAD}GET / HTTP/1.1\0"));
            becomes(&format!("{post}CONTENT-LENGTH:\t 1\t\r\n\r\n\nGET / HTTP/1.1\0"));
            becomes(&format!("{post}content-length: 0\r\n\r\n\0"));
            becomes(&format!("{post}Content-Length: 18446744073709551615\r\n\r\n\n{HEAD}\n"));
            let chunks = format!("{post}transfer-encoding: chunked\r\n\r\n");
            becomes(&format!(
                "{chunks}1\r\n\n\r\n0A;x=y\r\na\n\n\n\n\n\n\n\n\n\r\n0\r\n\r\n{HEAD}\0"
            ));
            becomes(&format!("{chunks}0\r\nX: trailer\r\n\r\nGET / HTTP/1.1\0"));
            becomes(&format!("{chunks}0\r\nContent-Length: 9\r\n\r\n\0"));
            becomes(&format!("{chunks}1\0"));
            becomes(&format!("{chunks}1\r\n\n\r\n0\r\nX: trailer\0"));
            // The framework's to refuse.
            becomes(&format!("{chunks}x\r\n\n"));
            becomes(&format!("{chunks}11111111111111111\r\n\n"));
            becomes(&format!("{post}Content-Length: +5\r\n\r\n\n"));
            becomes(&format!("{post}Content-Length: {}1\r\n\r\n\n", "0".repeat(KEPT)));
        }
    }

    proptest::proptest! {
        /// P-15: how it comes in makes no difference, and what is changed is one LF that stands alone.
        #[test]
        fn pieces_make_no_difference(
            words in proptest::collection::vec(
                proptest::sample::select(vec![
                    "\r\n", "\r\n", "\r\n\r\n", "\n", "\r", "GET / HTTP/1.1", "Content-Length: 3", ":", "2", "0", "abc",
                    "Transfer-Encoding: chunked",
                ]),
                0..30,
            ),
            size in 1usize..9,
        ) {
            let sent = words.concat().into_bytes();
            let (mut whole, mut pieces) = (sent.clone(), sent.clone());
            Heads::new().check(&mut whole);
            let mut heads = Heads::new();
            pieces.chunks_mut(size).for_each(|piece| heads.check(piece));
            assert_eq!(whole, pieces);
            let changed: Vec<_> = (0..sent.len()).filter(|&at| sent[at] != whole[at]).collect();
            assert!(changed.len() <= 1);
            assert!(changed.iter().all(|&at| (sent[at], whole[at]) == (b'\n', 0)));
        }
    }
}
