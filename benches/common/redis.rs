//! A real Redis for a bench, beside the clients.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;

use super::process::{PEERS_CORE, Running, free_port};

pub(crate) struct Redis {
    _process: Running,
    pub(crate) port: u16,
}

impl Redis {
    pub(crate) fn start(folder: &Path) -> Self {
        let port = free_port();
        let number = port.to_string();
        let args = ["--port", &number, "--save", "", "--bind", "127.0.0.1"];
        let process = Running::start(PEERS_CORE, "redis-server", &args, folder, port);
        Self { _process: process, port }
    }

    /// Sets many at once. Neither names nor values have line ends.
    pub(crate) fn set_all(&self, pairs: impl Iterator<Item = (String, String)>) {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut line = String::new();
        let pairs: Vec<(String, String)> = pairs.collect();
        for part in pairs.chunks(500) {
            let mut text = String::new();
            for (name, value) in part {
                text += &format!(
                    "*3\r\n$3\r\nSET\r\n${}\r\n{name}\r\n${}\r\n{value}\r\n",
                    name.len(),
                    value.len()
                );
            }
            (&stream).write_all(text.as_bytes()).unwrap();
            for _ in part {
                line.clear();
                reader.read_line(&mut line).unwrap();
                assert_eq!(line, "+OK\r\n");
            }
        }
    }

    /// How often gateways asked it to run a script, which is how they ask for anything that limits need.
    pub(crate) fn scripts(&self) -> u64 {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        (&stream).write_all(b"*2\r\n$4\r\nINFO\r\n$12\r\ncommandstats\r\n").unwrap();
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let length = line.trim().strip_prefix('$').unwrap().parse().unwrap();
        let mut text = vec![0; length];
        reader.read_exact(&mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        let calls = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            line.strip_prefix(":calls=")?.split(',').next()?.parse::<u64>().ok()
        };
        ["cmdstat_eval", "cmdstat_evalsha"].into_iter().filter_map(calls).sum()
    }
}
