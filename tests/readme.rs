//! What the shipped files say is so: the example configuration is valid, and every command in the
//! README is one that the binary knows.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use crate::harness::run;

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
fn every_command_in_the_readme_exists_with_its_options() {
    let readme = fs::read_to_string(shipped("README.md")).unwrap();
    let commands: BTreeSet<&str> = shell_lines(&readme).filter_map(command).collect();
    assert!(!commands.is_empty(), "no command in the README");
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

/// The lines of the README's shell blocks, continued lines joined.
fn shell_lines(readme: &str) -> impl Iterator<Item = &str> {
    let blocks = readme.split("```").enumerate().filter(|(index, _)| index % 2 == 1);
    let shell = blocks.filter_map(|(_, block)| {
        ["sh\n", "bash\n", "console\n"].iter().find_map(|name| block.strip_prefix(name))
    });
    shell.flat_map(str::lines)
}

/// What follows `keygate` in a line that calls it.
fn command(line: &str) -> Option<&str> {
    let line = line.trim().trim_start_matches("$ ");
    let (program, rest) = line.split_once(' ')?;
    let rest = rest.split(['|', '#', '>', '&', '\\']).next()?;
    (program == "keygate" || program.ends_with("/keygate")).then_some(rest.trim())
}
