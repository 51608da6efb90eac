//! HTTP/2's beginning, frames and compression (RFC 9113 sections 3 and 4, RFC 7541), and the words in
//! which the cases of HTTP/2 are said.

use super::Case;
use super::h2::{CONTINUATION, PREFACE, PRIORITY, Step, WINDOW_UPDATE};
use crate::harness::h2_raw::{
    ACK, DATA, END_HEADERS, END_STREAM, HEADERS, PING, RST_STREAM, SETTINGS, fields_of, frame,
};
use Step::{Answered, NoGreeting, Send};

pub(crate) const GOES_ON: &[&str] = &["goes on"];
pub(crate) const ANSWERED: &[&str] = &["answered"];
/// A connection error may also be told by closing (section 5.4.1).
pub(crate) const PROTOCOL: &[&str] = &["GOAWAY PROTOCOL_ERROR", "closed"];
pub(crate) const FRAME_SIZE: &[&str] = &["GOAWAY FRAME_SIZE_ERROR", "closed"];
pub(crate) const COMPRESSION: &[&str] = &["GOAWAY COMPRESSION_ERROR", "closed"];
pub(crate) const FLOW: &[&str] = &["GOAWAY FLOW_CONTROL_ERROR", "closed"];
pub(crate) const CLOSED_STREAM: &[&str] = &["GOAWAY STREAM_CLOSED", "closed"];
/// A stream error may be taken for the connection's (section 5.4.2).
pub(crate) const STREAMS_FLOW: &[&str] =
    &["RST_STREAM FLOW_CONTROL_ERROR", "GOAWAY FLOW_CONTROL_ERROR", "closed"];
pub(crate) const STREAMS_CLOSED: &[&str] =
    &["RST_STREAM STREAM_CLOSED", "GOAWAY STREAM_CLOSED", "closed"];
pub(crate) const STREAMS_PROTOCOL: &[&str] =
    &["RST_STREAM PROTOCOL_ERROR", "GOAWAY PROTOCOL_ERROR", "closed"];
pub(crate) const STREAMS_SIZE: &[&str] =
    &["RST_STREAM FRAME_SIZE_ERROR", "GOAWAY FRAME_SIZE_ERROR", "closed"];

pub(crate) type Steps = Case<Vec<Step>>;

pub(crate) fn case(
    section: &'static str,
    name: &'static str,
    what: Vec<Step>,
    allowed: &'static [&'static str],
) -> Steps {
    Case { section, name, what, allowed }
}

pub(crate) const OPEN: u8 = END_HEADERS;
pub(crate) const WHOLE: u8 = END_HEADERS | END_STREAM;

/// A request's fields, in a form that needs no table.
pub(crate) fn block(method: &str) -> Vec<u8> {
    fields_of(&[
        (":method", method.as_bytes()),
        (":scheme", b"http"),
        (":path", b"/public"),
        (":authority", b"gateway.test"),
    ])
}

pub(crate) fn request(stream: u32) -> Step {
    Send(frame(HEADERS, WHOLE, stream, &block("GET")))
}

/// The head of a request whose body is to come.
pub(crate) fn upload(stream: u32) -> Step {
    Send(frame(HEADERS, OPEN, stream, &block("POST")))
}

pub(crate) fn send(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Step {
    Send(frame(kind, flags, stream, payload))
}

pub(crate) fn setting(id: u16, value: u32) -> Step {
    send(SETTINGS, 0, 0, &[&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
}

pub(crate) fn window(stream: u32, increment: u32) -> Step {
    send(WINDOW_UPDATE, 0, stream, &increment.to_be_bytes())
}

pub(crate) fn reset(stream: u32) -> Step {
    send(RST_STREAM, 0, stream, &8u32.to_be_bytes())
}

/// A whole request whose header block begins or ends like this.
fn compressed(before: &[u8], after: &[u8]) -> Vec<Step> {
    vec![send(HEADERS, WHOLE, 1, &[before, &block("GET"), after].concat())]
}

pub(crate) fn cases() -> Vec<Steps> {
    [beginning(), frames(), compression()].into_iter().flatten().collect()
}

fn beginning() -> Vec<Steps> {
    let hello = frame(SETTINGS, 0, 0, &[]);
    let raw = |parts: &[&[u8]]| vec![NoGreeting, Send(parts.concat())];
    let get = frame(HEADERS, WHOLE, 1, &block("GET"));
    let ping = frame(PING, 0, 0, b"too soon");
    vec![
        case(
            "9113 3.4",
            "preface, SETTINGS and a request at once",
            raw(&[PREFACE, &hello, &get]),
            ANSWERED,
        ),
        case(
            "9113 3.4",
            "a preface in two pieces",
            vec![
                NoGreeting,
                Send(PREFACE[..10].to_vec()),
                Send(PREFACE[10..].to_vec()),
                Send(hello.clone()),
            ],
            GOES_ON,
        ),
        case("9113 3.4", "the first frame is PING", raw(&[PREFACE, &ping]), PROTOCOL),
        case("9113 3.4", "the first frame is HEADERS", raw(&[PREFACE, &get]), PROTOCOL),
        case(
            "9113 3.4",
            "the first frame acknowledges SETTINGS",
            raw(&[PREFACE, &frame(SETTINGS, ACK, 0, &[])]),
            PROTOCOL,
        ),
        case(
            "9113 3.4",
            "a second preface",
            vec![Send(PREFACE.to_vec())],
            &["GOAWAY PROTOCOL_ERROR", "GOAWAY FRAME_SIZE_ERROR", "closed"],
        ),
    ]
}

fn frames() -> Vec<Steps> {
    let get = block("GET");
    let whole = |flags, payload: &[u8]| vec![send(HEADERS, flags, 1, payload)];
    vec![
        case("9113 4.1", "a frame of an unknown type", vec![send(0x16, 0, 0, b"what?")], GOES_ON),
        case(
            "9113 4.1",
            "an unknown type on a stream that is idle",
            vec![send(0xfa, 0xff, 7, b"what?")],
            GOES_ON,
        ),
        case(
            "9113 4.1",
            "flags that PING does not know",
            vec![send(PING, 0x16, 0, b"flags...")],
            GOES_ON,
        ),
        case(
            "9113 4.1",
            "the reserved bit of a stream's number",
            vec![send(PING, 0, 1 << 31, b"reserved")],
            GOES_ON,
        ),
        case(
            "9113 4.2",
            "DATA of the greatest size that is always allowed",
            vec![upload(1), send(DATA, END_STREAM, 1, &[b'x'; 1 << 14])],
            ANSWERED,
        ),
        case(
            "9113 4.2",
            "DATA of one byte more",
            vec![upload(1), send(DATA, END_STREAM, 1, &[b'x'; (1 << 14) + 1])],
            STREAMS_SIZE,
        ),
        case(
            "9113 4.2",
            "HEADERS that are too large a frame",
            whole(WHOLE, &vec![0; (1 << 14) + 1]),
            FRAME_SIZE,
        ),
        case(
            "9113 4.2",
            "SETTINGS that are too large a frame",
            vec![send(SETTINGS, 0, 0, &vec![0; 6 * 2731])],
            FRAME_SIZE,
        ),
        case(
            "9113 4.3",
            "a header block in three frames, split within a field",
            vec![
                send(HEADERS, END_STREAM, 1, &get[..7]),
                send(CONTINUATION, 0, 1, &get[7..20]),
                send(CONTINUATION, END_HEADERS, 1, &get[20..]),
            ],
            ANSWERED,
        ),
        case(
            "9113 4.3",
            "CONTINUATION without a byte",
            vec![
                send(HEADERS, END_STREAM, 1, &get),
                send(CONTINUATION, 0, 1, &[]),
                send(CONTINUATION, END_HEADERS, 1, &[]),
            ],
            ANSWERED,
        ),
        case(
            "9113 4.3",
            "PRIORITY within a header block",
            vec![send(HEADERS, END_STREAM, 1, &get), send(PRIORITY, 0, 1, &[0, 0, 0, 0, 9])],
            PROTOCOL,
        ),
        case(
            "9113 4.3",
            "PING within a header block",
            vec![send(HEADERS, END_STREAM, 1, &get), send(PING, 0, 0, b"within..")],
            PROTOCOL,
        ),
        case(
            "9113 4.3",
            "another stream's HEADERS within a header block",
            vec![send(HEADERS, END_STREAM, 1, &get), request(3)],
            PROTOCOL,
        ),
        case(
            "9113 4.3",
            "another stream's CONTINUATION within a header block",
            vec![
                send(HEADERS, END_STREAM, 1, &get[..7]),
                send(CONTINUATION, END_HEADERS, 3, &get[7..]),
            ],
            PROTOCOL,
        ),
        case(
            "9113 5.5",
            "an unknown frame within a header block",
            vec![send(HEADERS, END_STREAM, 1, &get), send(0x16, 0, 1, b"what?")],
            PROTOCOL,
        ),
        case(
            "9113 4.3",
            "a header block that ends within a field",
            whole(WHOLE, &get[..get.len() - 3]),
            COMPRESSION,
        ),
        case(
            "9113 10.5.1",
            "a header block without end, in small frames",
            {
                let more = frame(CONTINUATION, 0, 1, &fields_of(&[("x", &[b'x'; 8000])]));
                vec![send(HEADERS, END_STREAM, 1, &get), Send(more.repeat(1000))]
            },
            &[
                "GOAWAY ENHANCE_YOUR_CALM",
                "GOAWAY PROTOCOL_ERROR",
                "GOAWAY COMPRESSION_ERROR",
                "431",
                "closed",
            ],
        ),
        case(
            "9113 10.5",
            "empty CONTINUATION without end",
            {
                let more = frame(CONTINUATION, 0, 1, &[]);
                vec![send(HEADERS, END_STREAM, 1, &get), Send(more.repeat(20_000))]
            },
            &["GOAWAY ENHANCE_YOUR_CALM", "GOAWAY PROTOCOL_ERROR", "closed"],
        ),
    ]
}

fn compression() -> Vec<Steps> {
    let path = |text: &[u8]| {
        let mut block = vec![0x82, 0x86, 0x04];
        block.extend(text);
        block.extend(fields_of(&[(":authority", b"gateway.test")]));
        vec![send(HEADERS, WHOLE, 1, &block)]
    };
    vec![
        case(
            "7541 2.3.3",
            "an index beyond both tables",
            compressed(&[], &[0xff, 0x80, 0x01]),
            COMPRESSION,
        ),
        case("7541 6.1", "the index 0", compressed(&[], &[0x80]), COMPRESSION),
        case(
            "7541 5.1",
            "an integer beyond all bounds",
            compressed(&[], &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]),
            COMPRESSION,
        ),
        case("7541 5.2", "a value with Huffman coding", path(&PUBLIC_IN_HUFFMAN), ANSWERED),
        case(
            "7541 5.2",
            "padding of eight bits",
            compressed(&[], &[0x00, 0x01, b'x', 0x82, 0xf3, 0xff]),
            COMPRESSION,
        ),
        case(
            "7541 5.2",
            "padding of zeros",
            compressed(&[], &[0x00, 0x01, b'x', 0x81, 0xf2]),
            COMPRESSION,
        ),
        case(
            "7541 5.2",
            "the end of the string within it",
            compressed(&[], &[0x00, 0x01, b'x', 0x84, 0xff, 0xff, 0xff, 0xff]),
            COMPRESSION,
        ),
        case(
            "7541 5.2",
            "a text longer than its block",
            compressed(&[], &[0x00, 0x01, b'x', 0x7f, 0x20, b'x']),
            COMPRESSION,
        ),
        case("7541 6.3", "a smaller table at a block's begin", compressed(&[0x20], &[]), ANSWERED),
        case(
            "7541 6.3",
            "a table larger than allowed",
            compressed(&[0x3f, 0xe2, 0x1f], &[]),
            COMPRESSION,
        ),
        case("7541 4.2", "a table's size at a block's end", compressed(&[], &[0x20]), COMPRESSION),
        case(
            "7541 6.2.1",
            "a field that a later request takes from the table",
            vec![
                send(HEADERS, WHOLE, 1, &[&block("GET")[..], &[0x40, 1, b'x', 1, b'y']].concat()),
                Answered(1),
                send(HEADERS, WHOLE, 3, &[&block("GET")[..], &[0xbe]].concat()),
            ],
            ANSWERED,
        ),
        case(
            "7541 6.2.3",
            "a field that is never to be indexed",
            compressed(&[], &[0x10, 1, b'x', 1, b'y']),
            ANSWERED,
        ),
        case(
            "7541 6.2.2",
            "a name of the static table",
            compressed(&[], &[0x0f, 0x2b, 1, b'y']),
            ANSWERED,
        ),
        case(
            "7541 4.1",
            "a field larger than the whole table",
            vec![
                send(HEADERS, WHOLE, 1, &[&block("GET")[..], &large_indexed()].concat()),
                Answered(1),
                // The table is empty then (section 4.4).
                send(HEADERS, WHOLE, 3, &[&block("GET")[..], &[0xbe]].concat()),
            ],
            COMPRESSION,
        ),
    ]
}

/// `/public` as a string with Huffman coding (RFC 7541 appendix B).
const PUBLIC_IN_HUFFMAN: [u8; 6] = [0x85, 0x62, 0xbb, 0x63, 0xa0, 0xc4];

/// A field of 5000 bytes, to be indexed.
fn large_indexed() -> Vec<u8> {
    let mut field = vec![0x40, 1, b'x', 0x7f, 0x89, 0x26];
    field.extend([b'y'; 5000]);
    field
}
