//! WebSockets and other tunnels: what goes in at one end comes out at the other, whatever it is, and the
//! gateway decides only who gets one.

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::frame::{Frame, Utf8Bytes};
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::harness::websocket::{WebSocket, WebSocketServer, runtime};
use crate::harness::{
    Certificates, Gateway, Request, Setup, Upstream, alone, assert_refused, eventually,
    free_address, get, scale,
};

fn start() -> (Gateway, WebSocketServer, String) {
    let server = WebSocketServer::start();
    let gateway = Setup::in_front_of_address(server.address).log("info").start();
    let key = gateway.key(&["read:orders"]);
    (gateway, server, key)
}

#[test]
fn a_websocket_carries_whatever_its_ends_say() {
    let (gateway, server, key) = start();
    let runtime = Arc::new(runtime());
    let bearer = format!("Bearer {key}");
    let headers = [("authorization", &*bearer), ("sec-websocket-protocol", "chat.v2, chat.v1")];
    let opened = WebSocket::open(&runtime, gateway.proxy, "/v1/orders/live?from=7", &headers);
    let (mut socket, answer) = opened.unwrap();
    assert_eq!(answer.headers()["sec-websocket-protocol"], "chat.v2");
    assert!(answer.headers().contains_key("x-request-id"));
    let seen = server.seen().remove(0);
    assert!(seen.starts_with("/v1/orders/live?from=7 "), "{seen}");
    assert!(seen.contains("x-keygate-key-id") && !seen.contains("authorization"), "{seen}");

    for message in [
        Message::text("grüße"),
        Message::binary(vec![0, 159, 146, 150]),
        Message::text(""),
        Message::binary(vec![7; 125]),
        Message::binary(vec![8; 126]),
        Message::binary(vec![9; 65_536]),
    ] {
        socket.send(message.clone());
        assert_eq!(socket.message(), message);
    }
    socket.send(Message::Ping("from the client".into()));
    assert_eq!(socket.message(), Message::Pong("from the client".into()));
    socket.send(Message::text("ping me"));
    assert_eq!(socket.message(), Message::Ping("from the server".into()));
    // The library answers it with the next message.
    socket.send(Message::text("go on"));
    assert_eq!(socket.message(), Message::text("go on"));
    let pong = || server.seen().iter().any(|seen| seen.contains("Pong")).then_some(());
    eventually("the answer to the server's ping", pong);
}

#[test]
fn a_message_in_fragments_arrives_and_one_of_a_megabyte_too() {
    let (gateway, _server, key) = start();
    let runtime = Arc::new(runtime());
    let headers = [("x-api-key", &*key)];
    let (mut socket, _) = WebSocket::open(&runtime, gateway.proxy, "/v1/orders", &headers).unwrap();
    let part = |text: &'static str, data, is_last| {
        Message::Frame(Frame::message(text, OpCode::Data(data), is_last))
    };
    socket.send(part("in ", Data::Text, false));
    socket.send(Message::Ping("between".into()));
    socket.send(part("three ", Data::Continue, false));
    socket.send(part("parts", Data::Continue, true));
    assert_eq!(socket.message(), Message::Pong("between".into()));
    assert_eq!(socket.message(), Message::text("in three parts"));
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..4 {
        let bytes: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(1 << 20).collect();
        socket.send(Message::binary(bytes.clone()));
        assert_eq!(socket.message(), Message::binary(bytes));
    }
}

#[test]
fn both_ends_may_talk_at_once() {
    const MESSAGES: usize = 200;
    let (gateway, _server, key) = start();
    let runtime = Arc::new(runtime());
    let headers = [("x-api-key", &*key)];
    let (socket, _) = WebSocket::open(&runtime, gateway.proxy, "/v1/orders", &headers).unwrap();
    let message = |n: usize| Message::binary(vec![(n % 251) as u8; 16_384 + n]);
    runtime.block_on(async {
        use futures_util::{SinkExt, StreamExt};
        let (mut sending, mut receiving) = socket.socket.split();
        let writer = tokio::spawn(async move {
            for n in 0..MESSAGES {
                sending.send(message(n)).await.unwrap();
            }
        });
        for n in 0..MESSAGES {
            let next = tokio::time::timeout(crate::harness::patience(), receiving.next()).await;
            assert_eq!(next.expect("in time").unwrap().unwrap(), message(n), "{n}");
        }
        writer.await.unwrap();
    });
}

#[test]
fn either_end_may_close_and_the_other_hears_why() {
    let (gateway, server, key) = start();
    let runtime = Arc::new(runtime());
    let headers = [("x-api-key", &*key)];
    let open = || WebSocket::open(&runtime, gateway.proxy, "/v1/orders", &headers).unwrap().0;
    let frame = |code: u16, reason: &str| CloseFrame {
        code: code.into(),
        reason: Utf8Bytes::from(reason.to_owned()),
    };
    let mut socket = open();
    socket.send(Message::text("close 4001"));
    assert_eq!(socket.message(), Message::Close(Some(frame(4001, "as you say"))));
    // The answer to it, and the end.
    assert!(matches!(socket.receive(), None | Some(Err(Error::ConnectionClosed))));

    let mut socket = open();
    socket.send(Message::Close(Some(frame(3999, "enough"))));
    assert!(matches!(socket.message(), Message::Close(_)));
    let heard = || server.seen().iter().any(|seen| seen.contains("enough")).then_some(());
    eventually("the server hears why", heard);

    // A client that is gone says nothing: its server's connection ends all the same.
    let before = server.seen().len();
    drop(open());
    eventually("the server's end of it ends", || {
        let seen = server.seen();
        let mut new = seen.iter().skip(before + 1);
        new.any(|seen| seen.contains("ResetWithoutClosingHandshake") || seen.contains("Io("))
            .then_some(())
    });
    eventually("nothing is in flight", || {
        (gateway.metric("keygate_inflight_requests") == 0.0).then_some(())
    });
}

#[test]
fn a_websocket_is_refused_like_any_request() {
    let (gateway, server, _key) = start();
    let other = gateway.key(&["read:accounts"]);
    let runtime = Arc::new(runtime());
    for (headers, status) in [(vec![], 401), (vec![("x-api-key", &*other)], 403)] {
        let opened = WebSocket::open(&runtime, gateway.proxy, "/v1/orders", &headers);
        let Err(error) = opened else { panic!("a WebSocket without a good key") };
        let Error::Http(answer) = *error else { panic!("{error:?}") };
        assert_eq!(answer.status(), status);
    }
    assert!(server.seen().is_empty());
}

fn upgrade(target: &str, protocol: &str) -> Request {
    get(target).header("Connection", "Upgrade, X-Hop").header("Upgrade", protocol)
}

/// Compression is agreed on by the ends: the offer, the answer and the frames with their reserved bits
/// are theirs.
#[test]
fn compressed_messages_and_their_terms_are_left_alone() {
    const TERMS: &str = "permessage-deflate; server_no_context_takeover";
    // A text, compressed: FIN, RSV1 and opcode 1; masked.
    const FRAME: [u8; 13] = [0xc1, 0x87, 1, 2, 3, 4, 0xf3, 0xca, 0xca, 0xcd, 0xc9, 0x05, 0x03];
    let upstream = Upstream::answering(|exchange| {
        exchange.close();
        let headers = [
            ("Connection", "Upgrade"),
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
            ("Sec-WebSocket-Extensions", TERMS),
        ];
        exchange.start(101, &headers)?;
        let mut bytes = [0; 64];
        let count = exchange.read(&mut bytes)?;
        exchange.write(&bytes[..count])
    });
    let gateway = Setup::in_front_of(&upstream).start();
    let offer = "permessage-deflate; client_max_window_bits; server_max_window_bits=10";
    let request = upgrade("/public", "websocket")
        .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
        .header("Sec-WebSocket-Version", "13")
        .header("Sec-WebSocket-Extensions", offer);
    let mut client = gateway.connect();
    let answer = client.exchange(&request).unwrap();
    assert_eq!((answer.status, answer.header("sec-websocket-extensions")), (101, Some(TERMS)));
    assert_eq!(answer.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    assert_eq!(upstream.only().header("sec-websocket-extensions"), Some(offer));
    client.send(&FRAME).unwrap();
    assert_eq!(client.read_some().as_deref(), Ok(&FRAME[..]));
}

/// An upstream that switches to whatever it is asked for, and then sends everything back.
fn switching() -> Upstream {
    Upstream::answering(|exchange| {
        let Some(protocol) = exchange.request.header("upgrade").map(str::to_owned) else {
            exchange.read_body()?;
            return exchange.answer(200, &[], b"stayed");
        };
        exchange.close();
        exchange.start(101, &[("Connection", "Upgrade"), ("Upgrade", &protocol)])?;
        let mut bytes = [0; 64];
        loop {
            match exchange.read(&mut bytes)? {
                0 => return Ok(()),
                count => exchange.write(&bytes[..count])?,
            }
        }
    })
}

#[test]
fn another_protocol_may_be_switched_to() {
    let upstream = switching();
    let gateway = Setup::in_front_of(&upstream).start();
    let key = gateway.key(&["read:orders"]);
    let mut client = gateway.connect();
    let refused = client.exchange(&upgrade("/v1/orders", "irc/6.9")).unwrap();
    assert_refused(&refused, 401, "api_key_missing");
    upstream.saw_nothing();
    let mut client = gateway.connect();
    let request = upgrade("/v1/orders", "irc/6.9").bearer(&key).header("X-Hop", "1");
    let answer = client.exchange(&request).unwrap();
    assert_eq!((answer.status, answer.header("upgrade")), (101, Some("irc/6.9")));
    let seen = upstream.only();
    assert_eq!(
        (seen.header("connection"), seen.header("upgrade")),
        (Some("Upgrade"), Some("irc/6.9"))
    );
    assert_eq!((seen.header("x-hop"), seen.header("authorization")), (None, None));
    assert!(seen.header("x-keygate-key-id").is_some());
    for words in [&b"NICK a\r\n"[..], b"GET / HTTP/1.1\r\n\r\n", &[0, 255, 13, 10]] {
        client.send(words).unwrap();
        assert_eq!(client.read_some().as_deref(), Ok(words));
    }
}

/// Behind a switch to HTTP/2 or TLS, requests would come that nobody decides.
#[test]
fn a_protocol_in_which_requests_could_hide_is_not_switched_to() {
    let upstream = switching();
    let gateway = Setup::in_front_of(&upstream).start();
    for protocol in ["h2c", "H2C", "HTTP/2.0", "TLS/1.0", "irc/6.9, h2c", "h2c,websocket"] {
        upstream.forget();
        let request = upgrade("/public", protocol).header("HTTP2-Settings", "AAMAAABkAAQAAP__");
        let answer = gateway.send(&request);
        assert_eq!((answer.status, &*answer.text()), (200, "stayed"), "{protocol}");
        let seen = upstream.only();
        assert_eq!((seen.header("upgrade"), seen.header("http2-settings")), (None, None));
    }
    // `Upgrade` without a `Connection` that names it is not for the next hop.
    upstream.forget();
    let answer = gateway.send(&get("/public").header("Upgrade", "irc/6.9"));
    assert_eq!(answer.text(), "stayed");
}

/// The limits on bodies are not for tunnels.
#[test]
fn a_tunnel_is_not_bounded_as_a_body_is() {
    let upstream = switching();
    let bounded = "name = \"b\"\npath = \"/b\"\nupstream = \"main\"\nauth = \"public\"\n\
                   body_bytes_max = \"1KiB\"\nresponse_bytes_max = \"1KiB\"\n";
    let gateway = Setup::in_front_of(&upstream).route(bounded).start();
    for protocol in ["websocket", "irc/6.9"] {
        let mut client = gateway.connect();
        assert_eq!(client.exchange(&upgrade("/b", protocol)).unwrap().status, 101);
        for _ in 0..100 {
            client.send(&[7; 60]).unwrap();
            let mut count = 0;
            while count < 60 {
                let more = client.read_some().unwrap();
                assert!(!more.is_empty(), "the tunnel ended");
                count += more.len();
            }
        }
    }
}

/// `WEBSOCKETS=9500` of them (each takes two of the gateway's files and two of the test's) say what one
/// costs while nothing happens on it.
#[test]
fn an_idle_websocket_costs_little() {
    let _alone = alone();
    let count = scale("WEBSOCKETS", 200);
    let runtime = runtime();
    let address = runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(echo(stream));
            }
        });
        address
    });
    let gateway = Setup::in_front_of_address(address).log("info").start();
    let open = |n: usize| {
        let proxy = gateway.proxy;
        runtime.block_on(async move {
            let mut all = Vec::new();
            for _ in 0..n {
                all.push(tokio::time::timeout(crate::harness::patience(), tunnel(proxy)).await);
            }
            all.into_iter().map(|one| one.expect("in time").unwrap()).collect::<Vec<_>>()
        })
    };
    // What the first requests cost is not the price of those that stay.
    let warm = open(20);
    let before = resident_kib(&gateway);
    let mut tunnels = open(usize::try_from(count).unwrap());
    let after = resident_kib(&gateway);
    let each = (after.saturating_sub(before) as f64) / (count as f64);
    println!("{count} idle WebSockets: {before} KiB before, {after} KiB after, {each:.1} KiB each");
    assert_eq!(gateway.metric("keygate_inflight_requests"), (count + warm.len() as u64) as f64);
    let last = tunnels.len() - 1;
    for place in [0, last / 2, last] {
        let tunnel = &mut tunnels[place];
        runtime.block_on(async {
            tunnel.write_all(b"still there").await.unwrap();
            let mut bytes = [0; 11];
            tunnel.read_exact(&mut bytes).await.unwrap();
            assert_eq!(&bytes, b"still there");
        });
    }
    const EACH_KIB_MAX: f64 = 256.0;
    assert!(each < EACH_KIB_MAX, "{each} KiB");
}

/// The server's end of a tunnel.
async fn echo(mut stream: TcpStream) {
    if read_head(&mut stream).await.is_none() {
        return;
    }
    let answer =
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    if stream.write_all(answer.as_bytes()).await.is_err() {
        return;
    }
    let mut bytes = [0; 64];
    while let Ok(count @ 1..) = stream.read(&mut bytes).await {
        if stream.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}

/// The client's end of a tunnel.
async fn tunnel(proxy: std::net::SocketAddr) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect(proxy).await?;
    stream.write_all(&upgrade("/public", "websocket").to_h1()).await?;
    let head = read_head(&mut stream).await.unwrap_or_default();
    assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
    Ok(stream)
}

async fn read_head(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    Some(head)
}

fn resident_kib(gateway: &Gateway) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux");
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// `wss`: the client speaks TLS with the gateway, and the gateway plain HTTP with the server.
#[test]
fn a_websocket_over_tls_carries_the_same() {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, ServerName};

    let certificates = Certificates::make();
    let path = |name: &str| certificates.path(name).display().to_string();
    let listen = free_address();
    let tls = format!(
        "[[server.tls]]\nlisten = [\"{listen}\"]\n\
         certificates = [{{ cert_file = \"{}\", key_file = \"{}\" }}]\n",
        path("server.pem"),
        path("server.key")
    );
    let server = WebSocketServer::start();
    let gateway = Setup::in_front_of_address(server.address).tables(&tls).start();
    let key = gateway.key(&["read:orders"]);
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(certificates.path("ca.pem")).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let runtime = Arc::new(runtime());
    let stream = runtime.block_on(async {
        let stream = TcpStream::connect(listen).await.unwrap();
        connector.connect(ServerName::try_from("localhost").unwrap(), stream).await.unwrap()
    });
    let headers = [("x-api-key", &*key)];
    let url = "wss://localhost/v1/orders";
    let (mut socket, _) = WebSocket::over(&runtime, stream, url, &headers).unwrap();
    for message in [Message::text("grüße"), Message::binary(vec![7; 1 << 20])] {
        socket.send(message.clone());
        assert_eq!(socket.message(), message);
    }
    socket.send(Message::text("close 4001"));
    assert!(
        matches!(socket.message(), Message::Close(Some(frame)) if u16::from(frame.code) == 4001)
    );
    assert!(server.seen()[0].contains("\"x-forwarded-proto\": \"https\""), "{:?}", server.seen());
}
