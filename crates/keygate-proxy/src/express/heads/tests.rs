use proptest::prelude::*;

use super::*;

const TOLD: &[(&str, &str)] = &[("ratelimit", "r=1"), ("x-ratelimit-limit", "5")];

fn taken_over(read: &[u8]) -> (Progress, String) {
    let told: Vec<_> = TOLD
        .iter()
        .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
        .collect();
    let (request_id, date) = (HeaderValue::from_static("id"), HeaderValue::from_static("today"));
    let ours = Ours { request_id: &request_id, told: &told, date: &date, is_last: false };
    let mut out = Vec::new();
    let progress = take_over(read, &ours, &mut out);
    (progress, String::from_utf8_lossy(&out).into_owned())
}

fn plain(read: &str) -> (Plain, String) {
    match taken_over(read.as_bytes()) {
        (Progress::Plain(plain), out) => (plain, out),
        (other, _) => panic!("{other:?}: {read:?}"),
    }
}

#[test]
fn a_plain_answer_is_taken_over_with_what_is_ours_in_it() {
    let (plain, out) = plain(
        "HTTP/1.1 200 Fine\r\ncontent-LENGTH: 5\r\nX-A: 1\r\ndate: long ago\r\nRateLimit: theirs\r\n\
         x-request-id: theirs\r\nConnection: close\r\nDate: again\r\nX-a: 2\r\n\r\nhello",
    );
    let Plain { status, body, is_kept, .. } = plain;
    assert_eq!((status, body, is_kept), (StatusCode::OK, 5, false));
    assert_eq!(
        out,
        "HTTP/1.1 200 Fine\r\ncontent-LENGTH: 5\r\nX-A: 1\r\ndate: today\r\n\
         Connection: keep-alive\r\nX-a: 2\r\nx-request-id: id\r\nratelimit: r=1\r\n\
         x-ratelimit-limit: 5\r\n\r\n"
    );
}

#[test]
fn an_answer_without_a_body_ends_with_its_head() {
    for (status, length) in [("204 No", ""), ("304 Not", "Content-Length: 10\r\n")] {
        let head = format!("HTTP/1.1 {status}\r\n{length}\r\n");
        let (plain, _) = plain(&head);
        assert_eq!((plain.head, plain.body, plain.is_kept), (head.len(), 0, true));
    }
}

#[test]
fn what_is_not_plain_is_left_alone() {
    for odd in [
        "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n",
        "HTTP/1.1 200 OK\r\n\r\n",
        "HTTP/1.1 100 Continue\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n",
        "HTTP/1.1 204 No\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: X-Hop\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\nConnection: close\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTrailer: X\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nUpgrade: h2c\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 2\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 2\r\n\r\n",
        "HTTP/1.1 007 OK\r\nContent-Length: 2\r\n\r\n",
        "SMTP ready\r\n\r\n",
    ] {
        assert_eq!(taken_over(odd.as_bytes()).0, Progress::Odd, "{odd:?}");
    }
}

#[test]
fn a_head_is_waited_for_to_its_end() {
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-A: 1\r\n\r\n";
    for length in 0..head.len() {
        assert_eq!(taken_over(&head.as_bytes()[..length]).0, Progress::NeedMore, "{length}");
    }
    assert_eq!(plain(head).0.head, head.len());
}

proptest! {
    /// Whatever an upstream says: what its client is sent has one clear end, which is where we look for it.
    #[test]
    fn what_is_sent_on_is_framed_as_it_was_read(
        lines in prop::collection::vec(
            prop_oneof![
                "(Content-Length|content-length): [0-9]{1,3}",
                "(Connection|Transfer-Encoding|Date|X-A): (close|keep-alive|chunked|, a)",
                "[A-Za-z-]{1,12}:[ \t]{0,2}[ -~\u{e9}]{0,9}",
                "[ -~\t\r\n\0]{0,12}",
            ],
            0..6,
        ),
        status in "(200|204|304|101|103|[0-9]{3})",
    ) {
        let read = format!("HTTP/1.1 {status} OK\r\n{}\r\n\r\nbody", lines.join("\r\n"));
        let (progress, out) = taken_over(read.as_bytes());
        if let Progress::Plain(plain) = progress {
            prop_assert!(read.get(..plain.head).is_some_and(|head| head.ends_with("\n")));
            let mut headers = [httparse::EMPTY_HEADER; 64];
            let mut sent = httparse::Response::new(&mut headers);
            let parsed = sent.parse(out.as_bytes());
            prop_assert_eq!(parsed, Ok(httparse::Status::Complete(out.len())));
            prop_assert_eq!(sent.code, Some(plain.status.as_u16()));
            let lengths: Vec<_> = sent
                .headers
                .iter()
                .filter(|header| header.name.eq_ignore_ascii_case("content-length"))
                .map(|header| String::from_utf8_lossy(header.value).parse::<u64>().unwrap())
                .collect();
            match plain.status.as_u16() {
                204 | 304 => prop_assert!(plain.body == 0 && lengths.len() <= 1),
                _ => prop_assert_eq!(lengths, [plain.body]),
            }
            let is_named = |name| sent.headers.iter().filter(|h| h.name.eq_ignore_ascii_case(name)).count();
            for once in ["connection", "date", "x-request-id", "ratelimit"] {
                prop_assert_eq!(is_named(once), 1, "{}", once);
            }
            prop_assert_eq!(is_named("transfer-encoding"), 0);
        }
    }

    #[test]
    fn no_bytes_are_too_strange(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let read = [&b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n"[..], &bytes, b"\r\n\r\n"].concat();
        taken_over(&read);
        taken_over(&bytes);
        read_request(&Bytes::from(bytes), 100);
    }

    /// By either reading a request is the same.
    #[test]
    fn a_request_is_read_as_it_was_sent(
        method in "(GET|POST|PUT|DELETE|PATCH)",
        target in "/[a-z0-9/._~%A-F-]{0,20}(\\?[a-z=&]{0,9})?",
        headers in prop::collection::vec(("[A-Za-z][A-Za-z0-9-]{0,9}", "[!-~][ -~]{0,9}[!-~]"), 0..8),
    ) {
        let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let head = format!("{method} {target} HTTP/1.1\r\n{lines}\r\n");
        let length = head.len();
        let read = read_request(&Bytes::from(head + "the body"), length).unwrap();
        prop_assert_eq!(read.method.as_str(), method);
        prop_assert_eq!(read.raw_path(), target.as_bytes());
        prop_assert_eq!(read.headers.len(), headers.len());
        for (name, value) in &headers {
            let mut values = read.headers.get_all(name.as_str()).iter();
            prop_assert!(values.any(|read| read.as_bytes() == value.as_bytes()));
        }
    }
}
