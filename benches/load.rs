//! An upstream that answers at once, and clients that ask through a proxy as fast as it answers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::running::Running;

pub(crate) const CONNECTIONS: usize = 64;
const RESPONSE: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 12\r\n\r\nhello, world";

/// Answers every request with the same few bytes.
pub(crate) fn upstream(port: u16) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            drop(tokio::spawn(async move {
                let mut buffer = vec![0; 8192];
                let mut held = 0;
                while let Ok(read @ 1..) = stream.read(&mut buffer[held..]).await {
                    held += read;
                    if buffer[..held].ends_with(b"\r\n\r\n") {
                        held = 0;
                        if stream.write_all(RESPONSE).await.is_err() {
                            break;
                        }
                    }
                }
            }));
        }
    });
}

pub(crate) fn request(key: &str) -> Vec<u8> {
    format!(
        "GET /v1/orders/123 HTTP/1.1\r\nHost: api.example.com\r\nUser-Agent: bench/1.0\r\n\
         Accept: */*\r\nAuthorization: Bearer {key}\r\n\r\n"
    )
    .into_bytes()
}

pub(crate) struct Measured {
    pub(crate) per_second: f64,
    pub(crate) cpu_us: f64,
}

pub(crate) fn measure(
    proxy: &Running,
    port: u16,
    requests: &Arc<[Vec<u8>]>,
    time: Duration,
) -> Measured {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let cpu_before = proxy.cpu();
    let began = Instant::now();
    let done: u64 = runtime.block_on(async {
        let clients = (0..CONNECTIONS).map(|number| {
            let requests = Arc::clone(requests);
            tokio::spawn(client(port, requests, number, began + time))
        });
        let mut done = 0;
        for client in clients.collect::<Vec<_>>() {
            done += client.await.unwrap();
        }
        done
    });
    let cpu = proxy.cpu() - cpu_before;
    Measured {
        per_second: done as f64 / began.elapsed().as_secs_f64(),
        cpu_us: cpu.as_secs_f64() * 1e6 / done as f64,
    }
}

/// One keep-alive connection, one request at a time, another key each time.
async fn client(port: u16, requests: Arc<[Vec<u8>]>, number: usize, until: Instant) -> u64 {
    let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let mut buffer = vec![0; 8192];
    let mut done = 0;
    while Instant::now() < until {
        let next = (number + done as usize * CONNECTIONS) % requests.len();
        stream.write_all(&requests[next]).await.unwrap();
        let mut held = 0;
        loop {
            let read = stream.read(&mut buffer[held..]).await.unwrap();
            held += read;
            assert!(read > 0, "the proxy closed a connection");
            if buffer[..held].ends_with(b"hello, world") {
                break;
            }
            assert!(held < buffer.len(), "{}", String::from_utf8_lossy(&buffer));
        }
        assert!(
            buffer.starts_with(b"HTTP/1.1 200"),
            "{}",
            String::from_utf8_lossy(&buffer[..held])
        );
        done += 1;
    }
    done
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
