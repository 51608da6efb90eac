//! A real nginx, as a server behind the gateway: its configuration is the test's, its files are in a
//! folder of its own.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;

use tempfile::TempDir;

use super::process::{Process, free_address};
use super::wait::{eventually_within, patience};

pub struct Nginx {
    _process: Process,
    address: SocketAddr,
    _folder: TempDir,
}

impl Nginx {
    /// Starts a server that listens with these options, such as `ssl http2`, and has these settings.
    #[track_caller]
    pub fn start(listen: &str, server: &str) -> Self {
        const TRIES: usize = 5;
        let mut output = String::new();
        for _ in 0..TRIES {
            let folder = tempfile::tempdir().unwrap();
            let address = free_address();
            fs::write(folder.path().join("nginx.conf"), configuration(address, listen, server))
                .unwrap();
            let prefix = folder.path().to_str().unwrap().to_owned();
            let arguments = ["-p", &prefix, "-c", "nginx.conf", "-e", "stderr"];
            let mut process = Process::program(Path::new("nginx"), folder.path(), &arguments);
            let is_up = eventually_within(patience(), || {
                if TcpStream::connect(address).is_ok() {
                    Some(true)
                } else {
                    (!process.is_running()).then_some(false)
                }
            });
            if is_up == Some(true) {
                return Self { _process: process, address, _folder: folder };
            }
            output = process.stderr();
        }
        panic!("nginx did not start:\n{output}");
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// One process in the foreground, which ends with the test.
fn configuration(address: SocketAddr, listen: &str, server: &str) -> String {
    format!(
        "daemon off;\nmaster_process off;\npid nginx.pid;\nerror_log stderr warn;\n\
         events {{ worker_connections 512; }}\n\
         http {{\naccess_log off;\nclient_body_temp_path body;\nproxy_temp_path proxy;\n\
         fastcgi_temp_path fastcgi;\nuwsgi_temp_path uwsgi;\nscgi_temp_path scgi;\n\
         server {{\nlisten {address} {listen};\n{server}\n}}\n}}\n"
    )
}
