//! HTTP/2's streams, their windows, and what else a connection says (RFC 9113 sections 5 to 7).

use super::h2::{CONTINUATION, PADDED, PRIORITY, PUSH_PROMISE, Step, WINDOW_UPDATE};
use super::h2_cases::{
    ANSWERED, CLOSED_STREAM, FLOW, FRAME_SIZE, GOES_ON, PROTOCOL, STREAMS_CLOSED, STREAMS_FLOW,
    STREAMS_PROTOCOL, STREAMS_SIZE, Steps, WHOLE, block, case, request, reset, send, setting,
    upload, window,
};
use crate::harness::h2_raw::{
    ACK, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, RST_STREAM, SETTINGS, fields_of,
};
use Step::{Answered, Read};

pub(crate) fn cases() -> Vec<Steps> {
    [streams(), bodies(), settings(), others()].into_iter().flatten().collect()
}

fn streams() -> Vec<Steps> {
    let data = |stream| send(DATA, END_STREAM, stream, b"late");
    let priority = |stream| send(PRIORITY, 0, stream, &[0, 0, 0, 0, 9]);
    let trailers = |stream| send(HEADERS, WHOLE, stream, &fields_of(&[("x", b"y")]));
    let done = |then: Step| vec![request(1), Answered(1), then];
    let ended = |then: Step| vec![upload(1), send(DATA, END_STREAM, 1, b"all"), then];
    let gone = |then: Step| vec![upload(1), Read, reset(1), Read, then];
    let hanging = |count: u32| -> Vec<Step> { (0..count).map(|at| upload(2 * at + 1)).collect() };
    vec![
        case("9113 5.1", "idle: DATA", vec![data(1)], PROTOCOL),
        case("9113 5.1", "idle: RST_STREAM", vec![reset(1)], PROTOCOL),
        case("9113 5.1", "idle: WINDOW_UPDATE", vec![window(1, 9)], PROTOCOL),
        case(
            "9113 5.1",
            "idle: CONTINUATION",
            vec![send(CONTINUATION, END_HEADERS, 1, &block("GET"))],
            PROTOCOL,
        ),
        case("9113 5.1", "idle: PRIORITY", vec![priority(1), request(1)], ANSWERED),
        case("9113 5.1", "half closed: DATA", ended(data(1)), STREAMS_CLOSED),
        case("9113 5.1", "half closed: HEADERS", ended(trailers(1)), STREAMS_CLOSED),
        case(
            "9113 5.1",
            "half closed: CONTINUATION",
            ended(send(CONTINUATION, END_HEADERS, 1, &[])),
            &[
                "GOAWAY PROTOCOL_ERROR",
                "GOAWAY STREAM_CLOSED",
                "RST_STREAM STREAM_CLOSED",
                "closed",
            ],
        ),
        case(
            "9113 5.1",
            "half closed: WINDOW_UPDATE and PRIORITY",
            vec![request(1), window(1, 9), priority(1)],
            ANSWERED,
        ),
        case(
            "9113 5.1",
            "closed by RST_STREAM: DATA",
            gone(data(1)),
            &["RST_STREAM STREAM_CLOSED", "GOAWAY STREAM_CLOSED", "closed", "goes on"],
        ),
        case("9113 5.1", "closed by RST_STREAM: HEADERS", gone(request(1)), STREAMS_CLOSED),
        case(
            "9113 5.1",
            "closed by RST_STREAM: PRIORITY and WINDOW_UPDATE",
            vec![upload(1), Read, reset(1), Read, priority(1), window(1, 9)],
            GOES_ON,
        ),
        case("9113 5.1", "closed by RST_STREAM: a second RST_STREAM", gone(reset(1)), GOES_ON),
        case(
            "9113 5.1",
            "closed by both: DATA",
            done(data(1)),
            &["RST_STREAM STREAM_CLOSED", "GOAWAY STREAM_CLOSED", "closed", "goes on"],
        ),
        case("9113 5.1", "closed by both: HEADERS", done(request(1)), CLOSED_STREAM),
        case("9113 5.1", "closed by both: PRIORITY", done(priority(1)), GOES_ON),
        case("9113 5.1", "closed by both: RST_STREAM", done(reset(1)), GOES_ON),
        case("9113 5.1", "closed by both: WINDOW_UPDATE", done(window(1, 9)), GOES_ON),
        case("9113 5.1.1", "HEADERS on stream 0", vec![request(0)], PROTOCOL),
        case("9113 5.1.1", "a client's stream with an even number", vec![request(2)], PROTOCOL),
        case(
            "9113 5.1.1",
            "a new stream below the last one",
            vec![request(5), Answered(5), request(3)],
            &["GOAWAY PROTOCOL_ERROR", "GOAWAY STREAM_CLOSED", "closed"],
        ),
        case(
            "9113 5.1.1",
            "streams that are passed over",
            vec![request(1), Answered(1), request(99)],
            ANSWERED,
        ),
        case(
            "9113 5.1.2",
            "one stream more than the server allows",
            [hanging(100), vec![Read, upload(201)]].into_iter().flatten().collect(),
            &[
                "RST_STREAM REFUSED_STREAM",
                "RST_STREAM PROTOCOL_ERROR",
                "GOAWAY PROTOCOL_ERROR",
                "closed",
            ],
        ),
        case(
            "9113 5.1.2",
            "a stream after another has ended",
            [hanging(100), vec![Read, reset(1), Read, request(201)]]
                .into_iter()
                .flatten()
                .collect(),
            ANSWERED,
        ),
        case(
            "9113 5.3.1",
            "HEADERS that depend on their own stream",
            vec![send(HEADERS, WHOLE | 0x20, 1, &[&[0, 0, 0, 1, 9][..], &block("GET")].concat())],
            &["answered", "RST_STREAM PROTOCOL_ERROR", "GOAWAY PROTOCOL_ERROR", "closed"],
        ),
        case(
            "9113 5.3.2",
            "HEADERS with a priority",
            vec![send(HEADERS, WHOLE | 0x20, 1, &[&[0, 0, 0, 0, 9][..], &block("GET")].concat())],
            ANSWERED,
        ),
    ]
}

fn bodies() -> Vec<Steps> {
    let padded = |kind, flags, payload: &[u8]| send(kind, flags | PADDED, 1, payload);
    let get = block("GET");
    let with_pads =
        |pads: u8, block: &[u8]| [&[pads][..], block, &vec![0; usize::from(pads)]].concat();
    vec![
        case("9113 6.1", "DATA on stream 0", vec![send(DATA, 0, 0, b"whose?")], PROTOCOL),
        case(
            "9113 6.1",
            "padded DATA",
            vec![upload(1), padded(DATA, END_STREAM, &with_pads(9, b"body"))],
            ANSWERED,
        ),
        case(
            "9113 6.1",
            "DATA that is all padding",
            vec![upload(1), padded(DATA, END_STREAM, &with_pads(9, b""))],
            ANSWERED,
        ),
        case(
            "9113 6.1",
            "DATA with more padding than there is",
            vec![upload(1), padded(DATA, END_STREAM, &[5, 0, 0, 0, 0])],
            PROTOCOL,
        ),
        case(
            "9113 6.1",
            "padded DATA that does not say how much",
            vec![upload(1), padded(DATA, END_STREAM, &[])],
            &["GOAWAY PROTOCOL_ERROR", "GOAWAY FRAME_SIZE_ERROR", "closed"],
        ),
        case(
            "9113 6.2",
            "padded HEADERS",
            vec![padded(HEADERS, WHOLE, &with_pads(9, &get))],
            ANSWERED,
        ),
        case(
            "9113 6.2",
            "HEADERS with more padding than there is",
            vec![padded(HEADERS, WHOLE, &[9, 0x82])],
            PROTOCOL,
        ),
        case(
            "9113 6.2",
            "HEADERS with half a priority",
            vec![send(HEADERS, WHOLE | 0x20, 1, &[0, 0, 0])],
            &["GOAWAY PROTOCOL_ERROR", "GOAWAY FRAME_SIZE_ERROR", "closed"],
        ),
        case(
            "9113 6.3",
            "PRIORITY on stream 0",
            vec![send(PRIORITY, 0, 0, &[0, 0, 0, 1, 9])],
            PROTOCOL,
        ),
        case(
            "9113 6.3",
            "PRIORITY of four bytes",
            vec![upload(1), send(PRIORITY, 0, 1, &[0, 0, 0, 0])],
            STREAMS_SIZE,
        ),
        case("9113 6.4", "RST_STREAM on stream 0", vec![reset(0)], PROTOCOL),
        case(
            "9113 6.4",
            "RST_STREAM of three bytes",
            vec![upload(1), send(RST_STREAM, 0, 1, &[0, 0, 8])],
            FRAME_SIZE,
        ),
        case(
            "9113 6.4",
            "a request that is reset while it runs",
            vec![upload(1), Read, reset(1), Read, request(3)],
            ANSWERED,
        ),
        case(
            "9113 7",
            "RST_STREAM with an unknown code",
            vec![upload(1), Read, send(RST_STREAM, 0, 1, &0xdead_beef_u32.to_be_bytes())],
            GOES_ON,
        ),
    ]
}

fn settings() -> Vec<Steps> {
    vec![
        case(
            "9113 6.5",
            "SETTINGS are acknowledged, in their order before what follows",
            vec![setting(4, 70_000), Read, setting(1, 0), Read],
            GOES_ON,
        ),
        case(
            "9113 6.5",
            "an acknowledgement with a payload",
            vec![send(SETTINGS, ACK, 0, &[0; 6])],
            FRAME_SIZE,
        ),
        case("9113 6.5", "SETTINGS on a stream", vec![send(SETTINGS, 0, 1, &[])], PROTOCOL),
        case("9113 6.5", "SETTINGS of five bytes", vec![send(SETTINGS, 0, 0, &[0; 5])], FRAME_SIZE),
        case("9113 6.5.2", "ENABLE_PUSH of 2", vec![setting(2, 2)], PROTOCOL),
        case("9113 6.5.2", "INITIAL_WINDOW_SIZE of 2^31", vec![setting(4, 1 << 31)], FLOW),
        case("9113 6.5.2", "MAX_FRAME_SIZE of 2^14 - 1", vec![setting(5, (1 << 14) - 1)], PROTOCOL),
        case("9113 6.5.2", "MAX_FRAME_SIZE of 2^24", vec![setting(5, 1 << 24)], PROTOCOL),
        case("9113 6.5.2", "a table size of 0", vec![setting(1, 0), request(1)], ANSWERED),
        case(
            "9113 6.5.2",
            "a setting that nobody knows",
            vec![setting(0xff, 1), request(1)],
            ANSWERED,
        ),
        case(
            "9113 6.5.3",
            "the last of two values counts",
            vec![send(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0, 0, 4, 0, 0, 0xff, 0xff]), request(1)],
            ANSWERED,
        ),
        case(
            "9113 6.9.2",
            "no window for new streams: nothing of a body is sent",
            vec![setting(4, 0), Read, request(1)],
            GOES_ON,
        ),
        case(
            "9113 6.9.2",
            "a window that opens later, for streams that wait",
            vec![setting(4, 0), Read, request(1), Read, setting(4, 65_535)],
            ANSWERED,
        ),
        case(
            "9113 6.9.1",
            "a window of one byte after the other",
            vec![
                setting(4, 0),
                Read,
                request(1),
                Read,
                window(1, 1),
                Read,
                window(1, 4),
                Read,
                window(1, 999),
            ],
            ANSWERED,
        ),
    ]
}

fn others() -> Vec<Steps> {
    let get = block("GET");
    vec![
        case(
            "9113 6.6",
            "a client's PUSH_PROMISE",
            vec![
                upload(1),
                send(PUSH_PROMISE, END_HEADERS, 1, &[&[0, 0, 0, 2][..], &get].concat()),
            ],
            PROTOCOL,
        ),
        case(
            "9113 6.7",
            "an acknowledgement of a PING that was not sent",
            vec![send(PING, ACK, 0, b"no ping!")],
            GOES_ON,
        ),
        case("9113 6.7", "PING on a stream", vec![send(PING, 0, 1, b"a stream")], PROTOCOL),
        case("9113 6.7", "PING of seven bytes", vec![send(PING, 0, 0, b"seven..")], FRAME_SIZE),
        case("9113 6.8", "GOAWAY on a stream", vec![send(GOAWAY, 0, 1, &[0; 8])], PROTOCOL),
        case(
            "9113 6.8",
            "a client that goes away still gets its answer",
            vec![upload(1), send(GOAWAY, 0, 0, &[0; 8]), send(DATA, END_STREAM, 1, b"body")],
            ANSWERED,
        ),
        case(
            "9113 7",
            "GOAWAY with an unknown code",
            vec![send(GOAWAY, 0, 0, &[0, 0, 0, 0, 0xde, 0xad, 0xbe, 0xef])],
            &["goes on", "closed", "GOAWAY NO_ERROR"],
        ),
        case("9113 6.9", "no increment of the connection's window", vec![window(0, 0)], PROTOCOL),
        case(
            "9113 6.9",
            "no increment of a stream's window",
            vec![upload(1), window(1, 0)],
            STREAMS_PROTOCOL,
        ),
        case(
            "9113 6.9",
            "WINDOW_UPDATE of three bytes",
            vec![send(WINDOW_UPDATE, 0, 0, &[0, 0, 9])],
            FRAME_SIZE,
        ),
        case(
            "9113 6.9.1",
            "the connection's window beyond 2^31 - 1",
            vec![window(0, (1 << 31) - 1)],
            FLOW,
        ),
        case(
            "9113 6.9.1",
            "a stream's window beyond 2^31 - 1",
            vec![upload(1), window(1, (1 << 31) - 1)],
            STREAMS_FLOW,
        ),
        case(
            "9113 6.9.2",
            "a setting that takes a stream's window beyond 2^31 - 1",
            vec![upload(1), window(1, 1 << 30), setting(4, (1 << 31) - 1)],
            FLOW,
        ),
        case(
            "9113 6.10",
            "CONTINUATION on stream 0",
            vec![
                send(HEADERS, END_STREAM, 1, &get[..7]),
                send(CONTINUATION, END_HEADERS, 0, &get[7..]),
            ],
            PROTOCOL,
        ),
        case(
            "9113 6.10",
            "CONTINUATION after a header block's end",
            vec![upload(1), send(CONTINUATION, END_HEADERS, 1, &[])],
            PROTOCOL,
        ),
        case(
            "9113 6.10",
            "CONTINUATION after DATA",
            vec![upload(1), send(DATA, 0, 1, b"body"), send(CONTINUATION, END_HEADERS, 1, &[])],
            PROTOCOL,
        ),
    ]
}
