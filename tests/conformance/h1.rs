//! HTTP/1.1 connections of which every byte is said by the case, on either side of the gateway.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::{Case, deviations, h1_cases, h1_gateway, hold};
use crate::harness::{Answer, Broken, Connection, Gateway, Setup, Upstream};

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

/// How long a gateway that says nothing is waited for.
const SILENCE: Duration = Duration::from_secs(5);

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
    hold("HTTP/1.1", &cases, deviations::HTTP_1, |talk| {
        *said.lock().unwrap() = talk.behind;
        upstream.forget();
        outcome(&gateway, &upstream, talk)
    });
    gateway.is_alive_and_well();
}

fn outcome(gateway: &Gateway, upstream: &Upstream, talk: &Talk) -> String {
    let mut connection = gateway.connect();
    connection.read_timeout(SILENCE);
    // The gateway may refuse before it has read everything.
    let _ = connection.send(&talk.request);
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
                // A request of the case before may arrive late, and broken off.
                let seen = upstream.seen();
                let seen = seen.iter().rfind(|seen| seen.body.complete);
                let value = seen.and_then(|seen| seen.header(name));
                value.map_or_else(|| "none".to_owned(), ToOwned::to_owned)
            }
            Ok(answer) => answer.status.to_string(),
            Err(broken) => spoken(&broken),
        },
        Look::BodyBehind => {
            let answered = statuses(&mut connection, &method, 1);
            let seen = upstream.seen();
            // A request of the case before may arrive late, and broken off.
            let body = seen.iter().find(|seen| seen.body.complete);
            let text = body.map(|seen| String::from_utf8_lossy(&seen.body.start).into_owned());
            format!("{answered} {}", text.unwrap_or_else(|| "not whole".to_owned()))
        }
    }
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
