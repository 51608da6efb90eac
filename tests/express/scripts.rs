//! What upstreams answer and clients ask in the comparison of both ways.

/// An answer, byte for byte.
pub struct Script {
    pub name: &'static str,
    pub pieces: &'static [&'static [u8]],
    /// So many bytes behind that, and what follows them.
    pub fill: usize,
    pub after_fill: &'static [u8],
    /// Whether the connection ends then.
    pub closes: bool,
}

const fn keeps(name: &'static str, pieces: &'static [&'static [u8]]) -> Script {
    Script { name, pieces, fill: 0, after_fill: b"", closes: false }
}

const fn closes(name: &'static str, pieces: &'static [&'static [u8]]) -> Script {
    Script { name, pieces, fill: 0, after_fill: b"", closes: true }
}

const fn large(name: &'static str, head: &'static [&'static [u8]], after: &'static [u8]) -> Script {
    Script { name, pieces: head, fill: 300_000, after_fill: after, closes: false }
}

pub const SCRIPTS: &[Script] = &[
    keeps("cl", &[b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-MiXed-Case: Yes\r\n\r\nhello"]),
    keeps("zero", &[b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"]),
    keeps("204", &[b"HTTP/1.1 204 No Content\r\n\r\n"]),
    keeps("204cl", &[b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n"]),
    keeps("304", &[b"HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\nContent-Length: 10\r\n\r\n"]),
    keeps("205", &[b"HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n"]),
    keeps("reason", &[b"HTTP/1.1 299 Just Fine\r\nContent-Length: 2\r\n\r\nok"]),
    keeps("noreason", &[b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok"]),
    keeps("chunked", &[b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"]),
    keeps("chunkext", &[b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\n\r\n"]),
    keeps("trailers", &[b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n5\r\nhello\r\n0\r\nX-T: 1\r\n\r\n"]),
    closes("close", &[b"HTTP/1.1 200 OK\r\n\r\nuntil the end"]),
    closes("10", &[b"HTTP/1.0 200 OK\r\n\r\nold"]),
    closes("10cl", &[b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nold"]),
    keeps("10ka", &[b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 3\r\n\r\nold"]),
    closes("10te", &[b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nold\r\n0\r\n\r\n"]),
    keeps("clte", &[b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"]),
    keeps("cllist", &[b"HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\nhello"]),
    keeps("cl2diff", &[b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello"]),
    keeps("clbad", &[b"HTTP/1.1 200 OK\r\nContent-Length: abc\r\n\r\nhello"]),
    keeps("clneg", &[b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nhello"]),
    keeps("clplus", &[b"HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello"]),
    keeps("101", &[b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nraw"]),
    keeps("100", &[b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"]),
    keeps("103", &[b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"]),
    keeps("garbage", &[b"what is this\r\n\r\n"]),
    closes("eof", &[]),
    closes("halfhead", &[b"HTTP/1.1 200 OK\r\nContent-Le"]),
    closes("short", &[b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello"]),
    closes("shortchunk", &[b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel"]),
    closes("nolast", &[b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"]),
    keeps("badchunk", &[b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nZZ\r\n"]),
    keeps("over", &[b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhelloHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"]),
    keeps("overzero", &[b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"]),
    keeps("over204", &[b"HTTP/1.1 204 No\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"]),
    keeps("nominated", &[b"HTTP/1.1 200 OK\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nX-End: 2\r\nContent-Length: 2\r\n\r\nok"]),
    keeps("hop", &[b"HTTP/1.1 200 OK\r\nKeep-Alive: timeout=5\r\nProxy-Authenticate: x\r\nUpgrade: h2c\r\nTE: a\r\nContent-Length: 2\r\n\r\nok"]),
    closes("tegzip", &[b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"]),
    closes("teid", &[b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nok"]),
    closes("techunkgz", &[b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip\r\n\r\n2\r\nok\r\n0\r\n\r\n"]),
    keeps("fold", &[b"HTTP/1.1 200 OK\r\nX-A: 1\r\n 2\r\nContent-Length: 2\r\n\r\nok"]),
    keeps("space", &[b"HTTP/1.1 200 OK\r\nX-A : 1\r\nContent-Length: 2\r\n\r\nok"]),
    keeps("cookies", &[b"HTTP/1.1 200 OK\r\nSet-Cookie: a=1\r\nset-cookie: b=2\r\nContent-Length: 2\r\n\r\nok"]),
    keeps("slowhead", &[b"HTTP/1.1 20", b"0 OK\r\nConte", b"nt-Length: 5\r\n\r\nhe", b"llo"]),
    keeps("slowbody", &[b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n", b"ab", b"cd", b"ef"]),
    keeps("slowchunk", &[b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"2\r\nab", b"\r\n2\r\ncd\r\n", b"0\r\n\r\n"]),
    closes("event", &[b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n", b"data: a\n\n", b"data: b\n\n"]),
    keeps("401", &[b"HTTP/1.1 401 No\r\nWWW-Authenticate: Basic\r\nContent-Length: 2\r\n\r\nno"]),
    keeps("500", &[b"HTTP/1.1 500 Oops\r\nContent-Length: 2\r\n\r\nno"]),
    keeps("999", &[b"HTTP/1.1 999 Hm\r\nContent-Length: 2\r\n\r\nno"]),
    keeps("http2", &[b"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok"]),
    keeps("nul", &[b"HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 2\r\n\r\nok"]),
    keeps("utf8", &[b"HTTP/1.1 200 OK\r\nX: \xc3\xa9\xff\r\nContent-Length: 2\r\n\r\nok"]),
    keeps("lf", &[b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok"]),
    large("big", &[b"HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n"], b""),
    large("bigchunk", &[b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n493e0\r\n"], b"\r\n0\r\n\r\n"),
    large("longhead", &[b"HTTP/1.1 200 OK\r\nX-A: "], b"\r\nContent-Length: 2\r\n\r\nok"),
    keeps("halfhang", &[b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhal"]),
    keeps("hang", &[]),
];

/// A name, the method, and the request as it is sent.
pub const REQUESTS: &[(&str, &str, &[u8])] = &[
    ("close", "GET", b"GET /cl HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n"),
    ("keep-alive", "GET", b"GET /cl HTTP/1.1\r\nHost: a.test\r\nconnection: Keep-Alive\r\n\r\n"),
    ("nominated", "GET", b"GET /x HTTP/1.1\r\nHost: a.test\r\nConnection: keep-alive, X-Foo\r\nX-Foo: 1\r\n\r\n"),
    ("trailers", "GET", b"GET /x HTTP/1.1\r\nHost: a.test\r\nTE: trailers\r\nConnection: TE\r\n\r\n"),
    ("body", "POST", b"POST /x HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\n\r\nhello"),
    ("body of nothing", "POST", b"POST /x HTTP/1.1\r\nHost: a.test\r\nContent-Length: 0\r\n\r\n"),
    ("early", "POST", b"POST /early HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\n\r\nhello"),
    ("chunked", "POST", b"POST /x HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
    ("get with a body", "GET", b"GET /x HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\n\r\nhello"),
    ("delete", "DELETE", b"DELETE /x HTTP/1.1\r\nHost: a.test\r\n\r\n"),
    ("options", "OPTIONS", b"OPTIONS /x HTTP/1.1\r\nHost: a.test\r\n\r\n"),
    ("trace", "TRACE", b"TRACE /x HTTP/1.1\r\nHost: a.test\r\n\r\n"),
    ("unknown method", "FOO", b"FOO /x HTTP/1.1\r\nHost: a.test\r\n\r\n"),
    ("forged", "GET", b"GET /x HTTP/1.1\r\nHost: a.test\r\nX-Forwarded-For: 1.2.3.4\r\nX-Keygate-Key-Id: a\r\nx_request_id: b\r\nTraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\r\n"),
    ("hop by hop", "GET", b"GET /x HTTP/1.1\r\nHost: a.test\r\nKeep-Alive: 5\r\nProxy-Connection: x\r\nUpgrade: foo\r\nHTTP2-Settings: a\r\nProxy-Authorization: b\r\n\r\n"),
    ("expect", "POST", b"POST /x HTTP/1.1\r\nHost: a.test\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nok"),
    ("cookies", "GET", b"GET /x HTTP/1.1\r\nHost: a.test\r\nCookie: a=1\r\nCookie: b=2\r\n\r\n"),
    ("twice", "GET", b"GET /x HTTP/1.1\r\nHost: a.test\r\nX-A: 1\r\nx-a: 2\r\n\r\n"),
    ("empty value", "GET", b"GET /x HTTP/1.1\r\nHost: a.test\r\nX-A:\r\n\r\n"),
    ("pipelined", "GET", b"GET /pipeline HTTP/1.1\r\nHost: a.test\r\n\r\nGET /204 HTTP/1.1\r\nHost: a.test\r\n\r\n"),
    ("above", "GET", b"GET /../a/./x HTTP/1.1\r\nHost: a.test\r\n\r\n"),
    ("dots", "GET", b"GET /a/../x HTTP/1.1\r\nHost: a.test\r\n\r\n"),
    ("slashes", "GET", b"GET //x HTTP/1.1\r\nHost: a.test\r\n\r\n"),
    ("query", "GET", b"GET /x?a=b&c HTTP/1.1\r\nHost: a.test\r\n\r\n"),
    ("escaped", "GET", b"GET /ech%6f HTTP/1.1\r\nHost: a.test\r\n\r\n"),
    ("escaped slash", "GET", b"GET /a%2fb HTTP/1.1\r\nHost: a.test\r\n\r\n"),
    ("utf-8", "GET", b"GET /echo\xc3\xa9 HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("value of utf-8", "GET", b"GET /x HTTP/1.1\r\nHost: a.test\r\nX-A: \xc3\xa9\xff\r\n\r\n"),
    ("http/1.0", "GET", b"GET /cl HTTP/1.0\r\nHost: a\r\n\r\n"),
    ("http/1.0 chunked", "GET", b"GET /chunked HTTP/1.0\r\nHost: a\r\n\r\n"),
    ("absolute", "GET", b"GET http://a/x HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("no host", "GET", b"GET /x HTTP/1.1\r\n\r\n"),
    ("two hosts", "GET", b"GET /x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
    ("host with a port", "GET", b"GET /x HTTP/1.1\r\nHost: a.test:80\r\n\r\n"),
    ("two lengths", "POST", b"POST /x HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na"),
    ("length and chunked", "POST", b"POST /x HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("no key", "GET", b"GET /v1/orders HTTP/1.1\r\nHost: a.test\r\n\r\n"),
    ("no key, a body", "POST", b"POST /v1/orders HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\n\r\nhello"),
    ("bad key", "GET", b"GET /v1/orders HTTP/1.1\r\nHost: a.test\r\nAuthorization: Bearer nonsense\r\n\r\n"),
    ("wrong method", "DELETE", b"DELETE /v1/orders HTTP/1.1\r\nHost: a.test\r\n\r\n"),
    ("preflight", "OPTIONS", b"OPTIONS /x HTTP/1.1\r\nHost: a.test\r\nOrigin: https://a.test\r\nAccess-Control-Request-Method: GET\r\n\r\n"),
    ("many headers", "GET", b"GET /x HTTP/1.1\r\nHost: a.test\r\nX-0: y\r\nX-1: y\r\nX-2: y\r\nX-3: y\r\nX-4: y\r\nX-5: y\r\nX-6: y\r\nX-7: y\r\nX-8: y\r\nX-9: y\r\nX-10: y\r\nX-11: y\r\nX-12: y\r\nX-13: y\r\nX-14: y\r\nX-15: y\r\nX-16: y\r\nX-17: y\r\nX-18: y\r\nX-19: y\r\nX-20: y\r\nX-21: y\r\nX-22: y\r\nX-23: y\r\nX-24: y\r\nX-25: y\r\nX-26: y\r\nX-27: y\r\nX-28: y\r\nX-29: y\r\nX-30: y\r\nX-31: y\r\nX-32: y\r\nX-33: y\r\nX-34: y\r\nX-35: y\r\nX-36: y\r\nX-37: y\r\nX-38: y\r\nX-39: y\r\nX-40: y\r\nX-41: y\r\nX-42: y\r\nX-43: y\r\nX-44: y\r\nX-45: y\r\nX-46: y\r\nX-47: y\r\nX-48: y\r\nX-49: y\r\nX-50: y\r\nX-51: y\r\nX-52: y\r\nX-53: y\r\nX-54: y\r\nX-55: y\r\nX-56: y\r\nX-57: y\r\nX-58: y\r\nX-59: y\r\nX-60: y\r\nX-61: y\r\nX-62: y\r\nX-63: y\r\nX-64: y\r\nX-65: y\r\nX-66: y\r\nX-67: y\r\nX-68: y\r\nX-69: y\r\nX-70: y\r\nX-71: y\r\nX-72: y\r\nX-73: y\r\nX-74: y\r\nX-75: y\r\nX-76: y\r\nX-77: y\r\nX-78: y\r\nX-79: y\r\nX-80: y\r\nX-81: y\r\nX-82: y\r\nX-83: y\r\nX-84: y\r\nX-85: y\r\nX-86: y\r\nX-87: y\r\nX-88: y\r\nX-89: y\r\n\r\n"),
];
