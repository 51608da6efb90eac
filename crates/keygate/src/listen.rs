//! Binding: every listener is bound before anything is served, so that a taken port is one error
//! that names the setting and not a gateway that half works.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};

use tokio::net::TcpSocket;

use crate::failure::{Exit, Failure};

/// Connections that the kernel holds for us while we are busy; it may have a lower bound itself.
const BACKLOG_MAX: u32 = 4_096;

/// Binds one address. `setting` is where the operator can change it.
pub(crate) fn bind(address: SocketAddr, setting: &str) -> Result<TcpListener, Failure> {
    try_bind(address).map_err(|error| {
        let step = if error.kind() == ErrorKind::AddrInUse {
            "stop what listens there, or change"
        } else {
            "change"
        };
        let text = format!("cannot listen on {address}: {error}: {step} {setting}");
        Failure::new(Exit::Failed, text)
    })
}

fn try_bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // A restart must not wait for the last connections' TIME_WAIT.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG_MAX)?.into_std()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_taken_port_names_the_address_and_the_setting() {
        let first = bind("127.0.0.1:0".parse().unwrap(), "`[server] listen`").unwrap();
        let address = first.local_addr().unwrap();
        let Err(Failure::Other(exit, error)) = bind(address, "`[server] listen`") else {
            panic!("bound twice")
        };
        assert_eq!(exit, Exit::Failed);
        let text = error.to_string();
        assert!(text.contains(&address.to_string()) && text.contains("[server] listen"), "{text}");
        assert!(text.contains("in use"), "{text}");
    }
}
