//! A client that keeps its connection, and makes another when the gateway has ended it: quick
//! enough to ask thousands of times.

use std::net::SocketAddr;

use super::answer::Answer;
use super::h1::{Broken, Connection};
use super::request::{Request, get};

pub struct Caller {
    address: SocketAddr,
    connection: Option<Connection>,
}

impl Caller {
    pub fn new(address: SocketAddr) -> Self {
        Self { address, connection: None }
    }

    /// The answer, unless there is no gateway.
    pub fn try_send(&mut self, request: &Request) -> Result<Answer, Broken> {
        if let Some(connection) = &mut self.connection {
            match connection.exchange(request) {
                // A kept connection may end at any time: another may do.
                Err(Broken::Closed) => {}
                other => return self.keep_if_whole(other),
            }
        }
        let mut connection = Connection::try_open(self.address).map_err(|_| Broken::Closed)?;
        let answer = connection.exchange(request);
        self.connection = Some(connection);
        self.keep_if_whole(answer)
    }

    #[track_caller]
    pub fn send(&mut self, request: &Request) -> Answer {
        self.try_send(request).unwrap_or_else(|broken| panic!("{}: {broken:?}", self.address))
    }

    /// The status of a call with this key.
    #[track_caller]
    pub fn status(&mut self, key: &str) -> u16 {
        self.send(&get("/v1/orders").bearer(key)).status
    }

    fn keep_if_whole(&mut self, answer: Result<Answer, Broken>) -> Result<Answer, Broken> {
        if answer.is_err() {
            self.connection = None;
        }
        answer
    }
}
