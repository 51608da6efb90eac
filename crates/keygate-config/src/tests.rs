//! What the file as a whole is checked for. Each case is a file and how its report looks.

use std::path::Path;

use super::*;

const EXAMPLE: &str = include_str!("../../../gateway.toml");

fn environment(name: &str) -> Option<String> {
    match name {
        "HOST" => Some("orders.internal".to_owned()),
        "SECRET" => Some("hunter2-hunter2".to_owned()),
        "DIGITS" => Some("73570".to_owned()),
        _ => None,
    }
}

fn parsed(text: &str) -> Result<Config, Report> {
    let folder = Path::new("/etc/keygate");
    parse(Source { name: "gateway.toml", text, folder, environment: &environment })
}

#[test]
fn the_shipped_example_has_no_problem() {
    let config = parsed(EXAMPLE).unwrap_or_else(|report| panic!("{report}"));
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
}

#[test]
fn show() {
    let text = r#"
[server]
listn = ["127.0.0.1:80"]
header_timeout = "10"
header_bytes_max = 3000
body_bytes_max = "${DIGITS}"
headers_max = 1000
[upstreams.orders]
targets = ["http://x:80", "b", "[::1]:80", "b:80", "b:80"]
[[routes]]
name = "a"
path = "/a"
upstream = "order"
[[routes]]
name = "a"
path = "a"
upstream = "orders"
auth = "pubic"
methods = ["get"]
"#;
    println!("{}", parsed(text).unwrap_err());
    println!("{}", parsed("[server\nx=1\n[admin]\nlisten='a\n").unwrap_err());
    println!("{}", parsed("").unwrap_err());
}
