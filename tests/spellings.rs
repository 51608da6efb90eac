//! Ten thousand ways to spell a path that somebody behind the gateway would resolve below `/admin`:
//! none of them leads a key there that is good for `/public` alone.

use std::collections::HashSet;

use crate::harness::{Connection, Gateway, KeySpec, Nginx, Setup, get, scale};

const SEED: u64 = 0x5eed_9a7e;
/// So many are made before nginx is asked about them.
const BATCH: usize = 512;

/// Says how it resolved the path of a request.
const TELL: &str = "location / { return 200 $uri; }\nlarge_client_header_buffers 8 32k;\n\
                    keepalive_requests 1000000;";

#[test]
fn no_spelling_leads_a_key_for_public_to_admin() {
    let spellings = usize::try_from(scale("SPELLINGS", 10_000)).unwrap();
    let nginx = Nginx::start("", TELL);
    let setup = Setup::in_front_of_address(nginx.address()).log("info");
    let gateway = setup.route(&route("public")).route(&route("admin")).start();
    let key = gateway.key_with(&KeySpec::new(&["read:public"])).key;
    let admin = gateway.key_with(&KeySpec::new(&["read:admin"])).key;
    for (key, path) in [(&key, "/open/x"), (&admin, "/admin/x")] {
        let answer = gateway.send(&get(path).bearer(key));
        assert_eq!((answer.status, &*answer.text()), (200, path), "{}", answer.text());
    }
    let mut random = fastrand::Rng::with_seed(SEED);
    let (mut seen, mut by_nginx, mut by_reference) = (HashSet::new(), 0, 0);
    while seen.len() < spellings {
        let batch: Vec<String> = (0..BATCH).map(|_| spelling(&mut random)).collect();
        let batch: Vec<String> = batch.into_iter().filter(|path| !seen.contains(path)).collect();
        let told = resolved_by_nginx(&nginx, &batch);
        let leads: Vec<&String> = batch
            .iter()
            .zip(&told)
            .filter(|(path, told)| {
                let nginx = told.as_deref().is_some_and(is_admin);
                let reference = is_admin(&resolve(path));
                by_nginx += usize::from(nginx);
                by_reference += usize::from(reference);
                nginx || reference
            })
            .map(|(path, _)| path)
            .collect();
        leads_nowhere(&gateway, &key, &leads);
        seen.extend(leads.into_iter().cloned());
    }
    println!("{} spellings: nginx takes {by_nginx}, the reference {by_reference}", seen.len());
    assert!(by_nginx > spellings / 10 && by_reference > spellings / 2, "the spellings are poor");
}

fn route(name: &str) -> String {
    // The usual `/public` needs no key.
    let path = if name == "public" { "open" } else { name };
    format!(
        "name = \"{name}.by-key\"\npath = \"/{path}\"\nupstream = \"main\"\nauth = \"key\"\n\
         environment = \"live\"\nscopes = [\"read:{name}\"]"
    )
}

fn is_admin(path: &str) -> bool {
    path == "/admin" || path.starts_with("/admin/")
}

/// Sends each with the key; none may be served.
#[track_caller]
fn leads_nowhere(gateway: &Gateway, key: &str, paths: &[&String]) {
    for path in paths {
        let head = format!("GET {path} HTTP/1.1\r\nHost: a\r\nX-API-Key: {key}\r\n\r\n");
        let answer =
            gateway.send_raw(head.as_bytes()).unwrap_or_else(|b| panic!("{path:?}: {b:?}"));
        assert!(
            matches!(answer.status, 400 | 403 | 404) && !answer.code().is_empty(),
            "{path:?} was answered {} {}",
            answer.status,
            answer.text()
        );
    }
}

/// What nginx makes of each path; nothing of one that it refuses.
fn resolved_by_nginx(nginx: &Nginx, paths: &[String]) -> Vec<Option<String>> {
    let mut told = Vec::new();
    let mut connection = Connection::open(nginx.address());
    for path in paths {
        let head = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
        let _ = connection.send(head.as_bytes());
        let answer = connection.answer("GET").ok();
        let is_kept = answer.as_ref().is_some_and(|answer| answer.status == 200);
        if !is_kept {
            connection = Connection::open(nginx.address());
        }
        told.push(answer.filter(|answer| answer.status == 200).map(|answer| answer.text()));
    }
    told
}

/// A path that climbs out of `/open`, or goes to `/admin` at once, spelt in some odd way.
fn spelling(random: &mut fastrand::Rng) -> String {
    const START: [&str; 6] = ["/open", "/open/x", "/open/x/y", "/", "", "/v1/orders"];
    let mut path = (*random.choice(&START).unwrap()).to_owned();
    let depth = path.split('/').filter(|segment| !segment.is_empty()).count();
    for _ in 0..depth + random.usize(..2) {
        path.push_str(&slash(random));
        path.push_str(&dots(random));
    }
    for _ in 0..random.usize(..3) {
        path.push_str(&slash(random));
        path.push_str(random.choice(&["", ".", "%2e", "x/..", "x/%2e%2e", "./.", ".;a"]).unwrap());
    }
    path.push_str(&slash(random));
    path.push_str(&word(random));
    if random.u8(..3) == 0 {
        path.push_str(&slash(random));
        path.push_str(random.choice(&["users", "", ".", "%2e", "x/..", "a%20b"]).unwrap());
    }
    // Otherwise it is no path at all.
    if path.starts_with('/') { path } else { format!("/{path}") }
}

fn slash(random: &mut fastrand::Rng) -> String {
    const ODD: [&str; 14] = [
        "//",
        "///",
        "%2f",
        "%2F",
        "/%2f",
        "\\",
        "%5c",
        "/./",
        "/%2e/",
        "%c0%af",
        "%e0%80%af",
        "%f0%80%80%af",
        "/.;/",
        ";/",
    ];
    if random.u8(..3) > 0 { "/".into() } else { (*random.choice(&ODD).unwrap()).into() }
}

fn dots(random: &mut fastrand::Rng) -> String {
    const ODD: [&str; 14] = [
        "%2e%2e",
        "%2E%2e",
        ".%2e",
        "%2e.",
        "..;",
        "..;a=b",
        "..%3b",
        "%c0%ae%c0%ae",
        "%e0%80%ae.",
        "..%00",
        "..%20",
        "..%09",
        "%2e%2e;x",
        "..%3Bx",
    ];
    if random.u8(..3) > 0 { "..".into() } else { (*random.choice(&ODD).unwrap()).into() }
}

/// `admin`, with some of its letters escaped or in capitals, or something cut off behind it.
fn word(random: &mut fastrand::Rng) -> String {
    const END: [&str; 10] = [";", ";a=b", "%3b", "%00", "%00.html", "?x", "%3fx", "#x", "%23", ""];
    let mut word = String::new();
    for letter in "admin".chars() {
        word.push_str(&match random.u8(..12) {
            0 => format!("%{:02x}", u32::from(letter)),
            1 => format!("%{:02X}", u32::from(letter)),
            2 => letter.to_ascii_uppercase().to_string(),
            _ => letter.to_string(),
        });
    }
    if random.u8(..4) == 0 {
        word.push_str(random.choice(&END).unwrap());
    }
    word
}

/// The path as an upstream resolves it that forgives everything at once: decodes once, takes overlong
/// UTF-8 for what it stands for, `\` for `/`, cuts at NUL, `;` and white space, merges slashes,
/// resolves dots and knows no case.
fn resolve(target: &str) -> String {
    let path = target.split(['?', '#']).next().unwrap_or_default();
    let mut text = String::from_utf8_lossy(&folded(&decoded(path.as_bytes()))).into_owned();
    text = text.replace('\\', "/").to_lowercase();
    let text = text.split('\0').next().unwrap_or_default();
    let mut segments: Vec<&str> = Vec::new();
    for segment in text.split('/') {
        match segment.split(';').next().unwrap_or_default().trim() {
            "" | "." => {}
            ".." => drop(segments.pop()),
            name => segments.push(name),
        }
    }
    format!("/{}", segments.join("/"))
}

fn decoded(path: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = path;
    while let Some((&byte, after)) = rest.split_first() {
        let digits = after.get(..2).and_then(|digits| str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(decoded) if byte == b'%' => {
                bytes.push(decoded);
                rest = &after[2..];
            }
            _ => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    bytes
}

/// Turns overlong forms of ASCII into what they stand for.
fn folded(bytes: &[u8]) -> Vec<u8> {
    let mut folded = Vec::new();
    let mut rest = bytes;
    while let Some((&first, after)) = rest.split_first() {
        let (byte, length) = match (first, after) {
            (0xc0 | 0xc1, [last, ..]) => ((first & 1) << 6 | last & 0x3f, 2),
            (0xe0, [0x80 | 0x81, last, ..]) => ((after[0] & 1) << 6 | last & 0x3f, 3),
            (0xf0, [0x80, 0x80 | 0x81, last, ..]) => ((after[1] & 1) << 6 | last & 0x3f, 4),
            _ => (first, 1),
        };
        folded.push(byte);
        rest = &rest[length..];
    }
    folded
}
