//! One exchange of a connection at a time: a request and its response (RFC 9110 section 3.4).
//!
//! A pure state machine. Decides when the next pipelined request may be read, and knows no bytes.

/// The state of the current exchange of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub(super) struct Exchange {
    /// The whole request was read.
    request_whole: bool,
    response: Response,
    /// The request is passed on to an upstream, on which the response depends.
    passed_on: bool,
    /// The connection is closed after the response.
    last: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
enum Response {
    #[default]
    Pending,
    /// Its last byte is in the buffer of the HTTP library.
    Encoded,
    /// Its last byte is with the operating system.
    Sent,
}

impl Exchange {
    /// Records that the last byte of the request was read.
    pub(super) fn request_read(self) -> Self {
        Self { request_whole: true, ..self }.settled()
    }

    /// Records that the request is passed on to an upstream.
    pub(super) fn passed_on(self) -> Self {
        Self { passed_on: true, ..self }
    }

    /// Records that the connection is closed after the response.
    pub(super) fn last(self) -> Self {
        Self { last: true, ..self }
    }

    /// Records that the HTTP library has encoded the whole response.
    pub(super) fn response_encoded(self) -> Self {
        Self { response: Response::Encoded, ..self }
    }

    /// Records that all encoded bytes are with the operating system.
    pub(super) fn flushed(self) -> Self {
        match self.response {
            Response::Encoded => Self { response: Response::Sent, ..self }.settled(),
            Response::Pending | Response::Sent => self,
        }
    }

    /// Returns true if the whole request was read. The next byte belongs to a later exchange, which
    /// has to wait.
    pub(super) fn is_open(self) -> bool {
        self.request_whole
    }

    /// Returns true if the response was sent before the whole request was read. The rest of the
    /// request is of no use.
    pub(super) fn is_answered_early(self) -> bool {
        self.response == Response::Sent
    }

    /// Returns true if the connection is closed as soon as the encoded bytes are sent.
    pub(super) fn is_ending(self) -> bool {
        self.last && self.request_whole && self.response == Response::Encoded
    }

    /// Returns true if the request is passed on to an upstream.
    pub(super) fn is_passed_on(self) -> bool {
        self.passed_on
    }

    /// Makes room for the next exchange when both halves are over.
    fn settled(self) -> Self {
        if self.request_whole && self.response == Response::Sent { Self::default() } else { self }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// The events of an exchange, recorded without the state machine.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
    struct World {
        read: bool,
        encoded: bool,
        sent: bool,
        last: bool,
    }

    /// in every order of events, the next request is read if and only if both halves are
    /// over.
    #[test]
    fn next_request_waits_until_the_response_is_sent() {
        let mut seen = HashSet::new();
        let mut open = vec![(World::default(), Exchange::default())];
        while let Some((world, exchange)) = open.pop() {
            if !seen.insert((world, exchange)) {
                continue;
            }
            assert_eq!(exchange.is_open(), world.read, "only a whole request blocks the next one");
            assert_eq!(exchange.is_answered_early(), world.sent && !world.read);
            let ending = world.last && world.read && world.encoded;
            assert_eq!(exchange.is_ending(), ending, "nothing but encoded bytes is left");
            let mut go = |mut to: World, exchange: Exchange| {
                if to.read && to.sent {
                    assert_eq!(exchange, Exchange::default(), "the next exchange starts afresh");
                    to = World::default();
                }
                open.push((to, exchange));
            };
            if !world.read {
                go(World { read: true, ..world }, exchange.request_read());
            }
            go(World { last: true, ..world }, exchange.last());
            // The library answers as soon as it has the head.
            if !world.encoded {
                go(World { encoded: true, ..world }, exchange.response_encoded());
            }
            let sent = world.encoded;
            go(World { sent, ..world }, exchange.flushed());
        }
        assert_eq!(seen.len(), 10, "all states except those of a finished exchange");
    }
}
