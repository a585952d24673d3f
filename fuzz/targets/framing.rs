//! Where requests end. The first byte of the input is the size of the pieces in which the rest
//! arrives.
#![no_main]

use actix_codec::Decoder;
use actix_http::ServiceConfig;
use actix_http::error::ParseError;
use actix_http::h1::{Codec, Message, MessageType};
use actix_web::rt::{System, SystemRunner};
use libfuzzer_sys::fuzz_target;
use resttool::testing::Framing;

thread_local! {
    // It has a clock of its own, which runs there: one for all codecs.
    static CONFIG: (SystemRunner, ServiceConfig) = {
        let system = System::new();
        let config = system.block_on(async { ServiceConfig::default() });
        (system, config)
    };
}

/// Whole requests, and the rest of the last one.
fn split(sent: &[u8], size: usize) -> (Vec<Vec<u8>>, Vec<u8>) {
    let (mut framing, mut requests, mut request) = (Framing::new(), Vec::new(), Vec::new());
    for piece in sent.chunks(size) {
        let mut piece = piece.to_vec();
        loop {
            let accepted = framing.accept(&mut piece);
            request.extend(piece.drain(..accepted.bytes));
            if !accepted.whole {
                break;
            }
            requests.push(std::mem::take(&mut request));
        }
    }
    (requests, request)
}

/// What the HTTP library decodes: heads, and ends of content.
fn decoded(bytes: &[u8]) -> Result<(usize, usize), ParseError> {
    let mut codec = CONFIG.with(|(_, config)| Codec::new(config.clone()));
    let (mut bytes, mut heads, mut ends) = (bytes.into(), 0, 0);
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

fuzz_target!(|input: &[u8]| {
    let Some((&size, sent)) = input.split_first() else { return };
    let (requests, rest) = split(sent, usize::from(size).max(1));
    assert_eq!((requests.clone(), rest.clone()), split(sent, sent.len().max(1)), "in any pieces");
    // The HTTP library finds one request in each, or refuses it, and none in the rest.
    for request in requests {
        let seen = decoded(&request);
        assert!(matches!(seen, Ok((1, 1)) | Err(_)), "{seen:?}");
    }
    let seen = decoded(&rest);
    assert!(matches!(seen, Ok((0 | 1, 0)) | Err(_)), "{seen:?}");
});
