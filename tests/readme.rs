//! What the shipped files say is so: the example configuration is valid, the README's commands are
//! ones that the binary knows, and those about keys do what they say, pasted as they stand. So do
//! those of the page about limits, and its configuration.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::json;

use crate::harness::{Gateway, KeySpec, Setup, Upstream, binary, get, run};

fn shipped(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").join(name)
}

#[test]
fn the_shipped_configuration_is_valid() {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(shipped("gateway.toml"), folder.path().join("gateway.toml")).unwrap();
    let exit = run(folder.path(), &["check"], &[]);
    assert_eq!(exit.code, Some(0), "{}", exit.stderr);
}

#[test]
fn the_readmes_way_from_an_account_to_a_revoked_key_can_be_pasted() {
    let readme = fs::read_to_string(shipped("README.md")).unwrap();
    let upstream = Upstream::start();
    let gateway = Setup::in_front_of(&upstream).start();
    let has_curl = Command::new("curl").arg("--version").output().is_ok();
    let said = paste(&readme, &gateway, has_curl);
    assert!(!has_curl || said.contains("HTTP/1.1 200"), "{said}");
    assert!(said.contains("revoked"), "{said}");
}

#[test]
fn the_page_about_limits_limits_what_it_says_and_its_commands_can_be_pasted() {
    let page = fs::read_to_string(shipped("deploy/limits.md")).unwrap();
    let upstream = Upstream::start();
    let tables = only_block(&page, "toml").replace("upstream = \"orders\"", "upstream = \"main\"");
    let gateway = Setup::in_front_of(&upstream).tables(&tables).start();

    let key = gateway.key_with(&KeySpec::new(&["read:orders"]).with("tier", json!("free"))).key;
    let answer = gateway.send(&get("/v1/orders").bearer(&key));
    assert_eq!(answer.status, 200, "{}", answer.text());
    let mut shown = only_block(&page, "http").lines();
    let policy = format!("RateLimit-Policy: {}", answer.header("ratelimit-policy").unwrap());
    assert_eq!(Some(&*policy), shown.next());
    let left = format!("RateLimit: {}", answer.header("ratelimit").unwrap());
    assert_eq!(untimed(&left), untimed(shown.next().unwrap()));
    let answer = gateway.send(&get("/v1/exports").bearer(&key));
    let left = answer.header("ratelimit").unwrap();
    assert!(left.contains("\"day\";r=994;"), "an export costs 5: {left}");

    let said = paste(&page, &gateway, false);
    for shown in ["used.rate", "0/100", "used.concurrency", "0/10", "used.day", "0/5000"] {
        assert!(said.contains(shown), "no {shown} in {said}");
    }
}

/// A field without its times, which go on.
fn untimed(field: &str) -> Vec<&str> {
    field.split(", ").map(|item| item.split(";t=").next().unwrap_or_default()).collect()
}

/// What the page's commands print that are about accounts and keys, run as they stand.
fn paste(page: &str, gateway: &Gateway, has_curl: bool) -> String {
    let program = PathBuf::from(binary());
    let script: Vec<String> = shell_blocks(page)
        .filter(|block| block.contains("keygate accounts") || block.contains("keygate keys"))
        .flat_map(str::lines)
        // The README's folder of the binary is not the one under test.
        .filter(|line| !line.starts_with("export PATH"))
        .filter(|line| has_curl || !line.starts_with("curl"))
        .map(|line| line.replace("127.0.0.1:8080", &gateway.proxy.to_string()))
        .collect();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(program.parent().unwrap().to_owned());
    let path = std::env::join_paths(folders.chain(std::env::split_paths(&path))).unwrap();
    let output = Command::new("sh")
        .args(["-e", "-c", &script.join("\n")])
        .env("PATH", path)
        .env("NO_PROXY", "*")
        .current_dir(gateway.folder())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaints}");
    format!("{said}{complaints}")
}

#[test]
fn every_command_on_the_pages_exists_with_its_options() {
    let pages = [
        "README.md",
        "deploy/redis.md",
        "deploy/limits.md",
        "deploy/peppers.md",
        "deploy/import.md",
    ];
    let pages = pages.map(|page| fs::read_to_string(shipped(page)).unwrap()).join("\n");
    let lines = shell_blocks(&pages).flat_map(str::lines).flat_map(unnested);
    let commands: BTreeSet<String> =
        lines.flat_map(|line| line.split('|').filter_map(command).collect::<Vec<_>>()).collect();
    assert!(!commands.is_empty(), "no command on the pages");
    for command in commands {
        let words: Vec<&str> = command.split_whitespace().collect();
        let subcommands = words.iter().take_while(|word| is_subcommand(word));
        let mut arguments: Vec<&str> = subcommands.copied().collect();
        let help = loop {
            let asked = [&arguments[..], &["--help"]].concat();
            let exit = run(&std::env::temp_dir(), &asked, &[]);
            if exit.code == Some(0) {
                break exit.stdout;
            }
            // The last word was an argument.
            assert!(arguments.pop().is_some(), "keygate {command}: {}", exit.stderr);
        };
        assert!(!arguments.is_empty(), "keygate {command}: not a command");
        for option in words.iter().filter(|word| word.starts_with('-') && **word != "-") {
            let name = option.split('=').next().unwrap_or_default();
            assert!(help.contains(name), "keygate {command}: no {name} in\n{help}");
        }
    }
}

fn is_subcommand(word: &str) -> bool {
    word.chars().all(|c| c.is_ascii_lowercase() || c == '-') && !word.starts_with('-')
}

/// What stands between the fences of the one block in this language.
fn only_block<'a>(page: &'a str, language: &str) -> &'a str {
    let fence = format!("```{language}\n");
    let mut blocks = page.split(&*fence).skip(1);
    let block = blocks.next().unwrap_or_else(|| panic!("no block of {language}"));
    assert!(blocks.next().is_none(), "two blocks of {language}");
    block.split("```").next().unwrap_or_default()
}

fn shell_blocks(readme: &str) -> impl Iterator<Item = &str> {
    let blocks = readme.split("```").enumerate().filter(|(index, _)| index % 2 == 1);
    blocks.filter_map(|(_, block)| block.strip_prefix("sh\n"))
}

/// A line and the lines within it: `a $(b)` is `b` and `a VALUE`.
fn unnested(line: &str) -> Vec<String> {
    let mut lines = vec![line.to_owned()];
    while let Some(start) = lines[0].rfind("$(") {
        let end = lines[0][start..].find(')').map_or(lines[0].len(), |end| start + end);
        let inner = lines[0][start + 2..end].to_owned();
        let rest = lines[0].get(end + 1..).unwrap_or_default();
        lines[0] = format!("{}VALUE{rest}", &lines[0][..start]);
        lines.push(inner);
    }
    lines
}

/// What follows `keygate` in a command that calls it.
fn command(line: &str) -> Option<String> {
    let (program, rest) = line.trim().split_once(' ')?;
    let rest = rest.split(['#', '>', '&', '\\']).next()?;
    (program == "keygate" || program.ends_with("/keygate")).then(|| rest.trim().to_owned())
}
