//! HTTP/1.1 connections of which every byte is said by the case, on either side of the gateway.

use std::cell::Cell;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::{Case, deviations, h1_cases, h1_gateway, hold};
use crate::harness::{Answer, Broken, Connection, Gateway, Seen, Setup, Upstream};

/// What is sent, what answers behind the gateway, and what of it is looked at.
pub(crate) struct Talk {
    pub request: Vec<u8>,
    /// The client says no more after that.
    pub ends: bool,
    /// The answer behind the gateway, and the end of that connection; else one that is in order.
    pub behind: Option<&'static [u8]>,
    pub look: Look,
}

/// What the outcome tells.
#[derive(Clone, Copy)]
pub(crate) enum Look {
    /// The status of each answer up to the connection's end, or as many as this.
    Statuses(usize),
    /// The first answer's status, and its field of this name.
    Field(&'static str),
    /// The first answer's status and body.
    Body,
    /// A field of the request as it is behind the gateway.
    Behind(&'static str),
    /// The body of the request behind the gateway, and what came after it.
    BodyBehind,
}

/// How long a gateway that says nothing is waited for. One case is about that; all others come to an end
/// before, also on a machine that is slow.
const SILENCE: Duration = Duration::from_secs(15);

/// Tells a case's request behind the gateway from one of the case before, which may come late.
const NUMBER: &str = "x-case";

#[test]
fn http_1_1_is_spoken_as_rfc_9110_and_rfc_9112_say() {
    let said = Arc::new(Mutex::new(None::<&'static [u8]>));
    let behind = Arc::clone(&said);
    let upstream = Upstream::answering(move |exchange| {
        let answer = *behind.lock().unwrap();
        let Some(answer) = answer else {
            exchange.read_body()?;
            return exchange.answer(200, &[("X-Kept", "yes")], b"hello");
        };
        exchange.read_body()?;
        exchange.close();
        exchange.write(answer)
    });
    let mut gateway = Setup::in_front_of(&upstream).start();
    let cases: Vec<Case<Talk>> = h1_cases::cases().into_iter().chain(h1_gateway::cases()).collect();
    assert!(cases.len() >= 50);
    let number = Cell::new(0);
    hold("HTTP/1.1", &cases, deviations::HTTP_1, |talk| {
        *said.lock().unwrap() = talk.behind;
        number.set(number.get() + 1);
        outcome(&gateway, &upstream, talk, number.get())
    });
    gateway.is_alive_and_well();
}

fn outcome(gateway: &Gateway, upstream: &Upstream, talk: &Talk, number: usize) -> String {
    let mut connection = gateway.connect();
    connection.read_timeout(SILENCE);
    let number = number.to_string();
    let request = numbered(talk, &number);
    // The gateway may refuse before it has read everything.
    let _ = connection.send(&request);
    if talk.ends {
        connection.finish();
    }
    let method = talk.request.split(|&byte| byte == b' ').next().unwrap_or_default();
    let method = String::from_utf8_lossy(method).into_owned();
    match talk.look {
        Look::Statuses(most) => statuses(&mut connection, &method, most),
        Look::Field(name) => match connection.answer(&method) {
            Ok(answer) => format!("{} {}", answer.status, answer.header(name).unwrap_or("none")),
            Err(broken) => spoken(&broken),
        },
        Look::Body => match connection.answer(&method) {
            Ok(answer) => format!("{} {:?}", answer.status, answer.text()),
            Err(broken) => spoken(&broken),
        },
        Look::Behind(name) => match connection.answer(&method) {
            Ok(Answer { status: 200, .. }) => {
                let seen = of_case(upstream, &number);
                let value = seen.as_ref().and_then(|seen| seen.header(name));
                value.map_or_else(|| "none".to_owned(), ToOwned::to_owned)
            }
            Ok(answer) => answer.status.to_string(),
            Err(broken) => spoken(&broken),
        },
        Look::BodyBehind => {
            let answered = statuses(&mut connection, &method, 1);
            let seen = of_case(upstream, &number);
            let text = seen.map(|seen| String::from_utf8_lossy(&seen.body.start).into_owned());
            format!("{answered} {}", text.unwrap_or_else(|| "not whole".to_owned()))
        }
    }
}

/// The request with its number, where it is looked for behind the gateway.
fn numbered(talk: &Talk, number: &str) -> Vec<u8> {
    let mut request = talk.request.clone();
    let line = request.windows(2).position(|two| two == b"\r\n").map(|end| end + 2);
    if let (Look::Behind(_) | Look::BodyBehind, Some(end)) = (talk.look, line) {
        request.splice(end..end, format!("{NUMBER}: {number}\r\n").into_bytes());
    }
    request
}

/// What came behind the gateway with this number, whole.
fn of_case(upstream: &Upstream, number: &str) -> Option<Seen> {
    let is_it = |seen: &Seen| seen.body.complete && seen.header(NUMBER) == Some(number);
    upstream.seen().into_iter().find(is_it)
}

fn statuses(connection: &mut Connection, method: &str, most: usize) -> String {
    let mut told = Vec::new();
    while told.len() < most {
        match connection.answer(method) {
            Ok(answer) => told.push(answer.status.to_string()),
            Err(broken) => {
                told.push(spoken(&broken));
                break;
            }
        }
    }
    told.join(", ")
}

fn spoken(broken: &Broken) -> String {
    match broken {
        Broken::Closed => "closed".to_owned(),
        Broken::Silent => "silent".to_owned(),
        Broken::Cut => "cut".to_owned(),
        Broken::Malformed(what) => format!("malformed: {what}"),
    }
}
