//! Reads the listeners with TLS, and that no two listeners want the same address.

use std::net::SocketAddr;
use std::ops::Range;

use toml::Spanned;
use toml::de::DeValue;

use crate::address::clash;
use crate::catalogue::listener::{self, CERTIFICATES_MAX, LISTENERS_MAX};
use crate::certificates::{authorities_in, identity_in};
use crate::machine::span_in;
use crate::reader::{Item, Section};
use crate::setting::Table;
use crate::settings::{Admin, ClientAuth, Identity, Server, TlsListener};
use crate::value::found;
use crate::word::ClientAuthKind;

pub(crate) fn read_tls(server: &Section<'_, '_>) -> Option<Vec<TlsListener>> {
    let sections = tables(server, "tls", &listener::TABLE, LISTENERS_MAX)?;
    // Every one is read, also after a wrong one.
    let listeners: Vec<Option<TlsListener>> = sections.iter().map(read_listener).collect();
    listeners.into_iter().collect()
}

/// The tables of a list; nothing if it is none, or one of them is none.
fn tables<'r, 'a>(
    section: &Section<'r, 'a>,
    key: &str,
    shape: &'static Table,
    count_max: usize,
) -> Option<Vec<Section<'r, 'a>>> {
    let Some(item) = section.item(key) else { return Some(Vec::new()) };
    let DeValue::Array(items) = item.get_ref() else {
        let message = format!("expected a list of tables, found {}", found(item));
        section.reader.error(item.span(), message, Some(format!("write `{}`", shape.header)));
        return None;
    };
    let items: &'r [Item<'a>] = items;
    if items.len() > count_max {
        let message = format!("there are more than {count_max} of `{}`", shape.header);
        section.reader.error(item.span(), message, None);
        return None;
    }
    let open = |item| Section::open(section.reader, item, shape, section.shown.next_table(key));
    let opened: Vec<_> = items.iter().map(open).collect();
    opened.into_iter().collect()
}

fn read_listener(section: &Section<'_, '_>) -> Option<TlsListener> {
    let listen = section.get(&listener::LISTEN);
    if let Some(listen) = &listen {
        section.refuse_repeats("listen", listen);
    }
    let certificates = read_certificates(section);
    let min_version = section.get(&listener::MIN_VERSION);
    let client_auth = read_client_auth(section);
    Some(TlsListener {
        listen: listen?,
        certificates: certificates?,
        min_version: min_version?,
        client_auth: client_auth?,
    })
}

fn read_certificates(section: &Section<'_, '_>) -> Option<Vec<Identity>> {
    let shape = &listener::CERTIFICATE_TABLE;
    let sections = tables(section, "certificates", shape, CERTIFICATES_MAX)?;
    if sections.is_empty() {
        let help = "write `certificates = [{ cert_file = \"cert.pem\", key_file = \"key.pem\" }]`";
        let message = "a listener with TLS needs a certificate";
        section.reader.absence(section.span.clone(), message, Some(help.to_owned()));
        return None;
    }
    let read: Vec<Option<Identity>> = sections.iter().map(read_certificate).collect();
    read.into_iter().collect()
}

fn read_certificate(section: &Section<'_, '_>) -> Option<Identity> {
    identity_in(section, &listener::CERT_FILE, &listener::KEY_FILE)
}

/// The outer nothing means that something is wrong, the inner one that nobody is asked.
fn read_client_auth(section: &Section<'_, '_>) -> Option<Option<ClientAuth>> {
    if section.item("client_ca_file").is_none() {
        let help = "write `client_ca_file` too, or remove it";
        section.refuse_key("client_auth", "means nothing without `client_ca_file`", help);
        return Some(None);
    }
    let ca = authorities_in(section, &listener::CLIENT_CA_FILE);
    let ca_file = section.get(&listener::CLIENT_CA_FILE);
    let kind = section.get(&listener::CLIENT_AUTH);
    Some(Some(ClientAuth {
        ca_file: ca_file?,
        ca: ca?,
        is_required: kind? == ClientAuthKind::Required,
    }))
}

/// A gateway that listens nowhere, and two listeners on one address: the second could never be opened.
pub(crate) fn refuse_clashes(root: &Section<'_, '_>, server: &Server, admin: &Admin) {
    let clients = addresses(root, server);
    if clients.is_empty() {
        let help = "write `listen = [\"127.0.0.1:8080\"]` under `[server]`, or a `[[server.tls]]`";
        let message = "the gateway would listen nowhere";
        root.reader.absence(span_in(root, "server", "listen"), message, Some(help.to_owned()));
    }
    let refuse = |span, message: &str| {
        if let Some(span) = span {
            root.reader.error(span, message, Some("give each a port of its own".to_owned()));
        }
    };
    for (at, (list, address, span)) in clients.iter().enumerate() {
        let clashes = |(of, earlier, _): &(usize, SocketAddr, _)| {
            // One that is repeated in its own list is told already.
            clash(*earlier, *address) && (of != list || earlier != address)
        };
        if clients.iter().take(at).any(clashes) {
            refuse(span.clone(), "a listener before this one takes its port");
        }
    }
    let shared = clients.iter().find(|(_, address, _)| clash(*address, admin.listen));
    if let Some((.., span)) = shared {
        let span = span_in(root, "admin", "listen").or_else(|| span.clone());
        refuse(span, "`[server]` and `[admin]` cannot listen on the same address");
    }
}

/// Where clients connect: the list that it is in, the address, and where it stands.
fn addresses(
    root: &Section<'_, '_>,
    server: &Server,
) -> Vec<(usize, SocketAddr, Option<Range<usize>>)> {
    let table = root.item("server").map(Spanned::get_ref);
    let tls = |at: usize| table?.get("tls")?.get_ref().as_array()?.get(at).map(Spanned::get_ref);
    let lists = std::iter::once((table, &server.listen))
        .chain(server.tls.iter().enumerate().map(|(at, one)| (tls(at), &one.listen)));
    let mut addresses = Vec::new();
    for (list, (table, listen)) in lists.enumerate() {
        let spans = table.and_then(|table| table.get("listen")?.get_ref().as_array());
        for (at, address) in listen.iter().enumerate() {
            let span = spans.and_then(|spans| spans.get(at)).map(Spanned::span);
            addresses.push((list, *address, span));
        }
    }
    addresses
}
