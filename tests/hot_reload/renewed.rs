//! A certificate that is renewed while clients come all the time, in one step or in two.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use super::{count, replace};
use crate::harness::{Authority, Setup, Signed, TlsClient, Upstream, eventually, free_address};

const GET: &[u8] = b"GET /public HTTP/1.1\r\nHost: both.test\r\nConnection: close\r\n\r\n";
const CLIENTS: usize = 4;

/// Of the two certificates: a name that both are for, and one that each alone is for.
const BOTH: &str = "both.test";
const EACH: [&str; 2] = ["one.test", "other.test"];

/// Whether a new connection is served with a certificate of this name.
fn is_served(authority: &Authority, name: &str, address: SocketAddr) -> bool {
    let client = TlsClient::new(authority, name, &["http/1.1"], None);
    client.connect(address).is_ok_and(|mut connection| connection.say(GET, "").contains(" 200 "))
}

fn copy(from: &Path, to: &Path) {
    replace(to, &fs::read_to_string(from).unwrap());
}

#[test]
fn clients_who_come_all_the_time_notice_nothing_of_renewals() {
    let (upstream, address) = (Upstream::start(), free_address());
    let authority = Authority::new("ca");
    let signed: Vec<Signed> = EACH.iter().map(|name| authority.sign(&[name, BOTH])).collect();
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    fs::copy(&signed[0].certificate, &certificate).unwrap();
    fs::copy(&signed[0].key, &key).unwrap();
    let listener = format!(
        "[[server.tls]]\nlisten = [\"{address}\"]\n\
         certificates = [{{ cert_file = {certificate:?}, key_file = {key:?} }}]\n"
    );
    let gateway = Setup::in_front_of(&upstream).tables(&listener).log("info").watching().start();
    let (ended, served) = (AtomicBool::new(false), AtomicU64::new(0));
    let failed = Mutex::new(0);
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            let (authority, ended, served, failed) = (&authority, &ended, &served, &failed);
            scope.spawn(move || {
                while !ended.load(Ordering::SeqCst) {
                    if !is_served(authority, BOTH, address) {
                        *failed.lock().unwrap() += 1;
                        return;
                    }
                    served.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        let ends = Ends(&ended);
        for n in 1..=4 {
            let (next, own) = (EACH[n % 2], &signed[n % 2]);
            copy(&own.certificate, &certificate);
            if n > 2 {
                // Slowly: somebody looks in between.
                let refused = count(&gateway, "failure");
                eventually("the refusal", || (count(&gateway, "failure") > refused).then_some(()));
                assert!(!is_served(&authority, next, address));
            }
            copy(&own.key, &key);
            eventually("the new certificate", || {
                is_served(&authority, next, address).then_some(())
            });
        }
        drop(ends);
    });
    assert_eq!(failed.into_inner().unwrap(), 0);
    assert!(served.load(Ordering::SeqCst) > 0);
    // Counted just after it is in use.
    eventually("the count", || (count(&gateway, "success") >= 4.0).then_some(()));
    // Once for each of the two that were renewed slowly; the others may have been met half-way.
    assert!((2.0..=4.0).contains(&count(&gateway, "failure")), "{}", gateway.output());
}

struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}
