//! Guarantees for every input: no panic, a place for every problem, nothing told of a variable.

use proptest::prelude::*;

use super::redis::REDIS;
use super::*;
use crate::catalogue::TABLES;

/// Parses and renders in every way; the outcome must be a configuration or problems with places.
fn survives(text: &str) -> Result<(), TestCaseError> {
    let report = match parsed(text) {
        Ok(config) => {
            prop_assert!(!config.warnings.join("\n").contains("hunter2"));
            return Ok(());
        }
        Err(report) => report,
    };
    prop_assert!(!report.problems().is_empty());
    for problem in report.problems() {
        prop_assert!(problem.line().is_some_and(|line| line <= text.split('\n').count()));
        prop_assert!(problem.column().is_some_and(|column| column > 0));
    }
    prop_assert!(!report.render(Colours::On).is_empty());
    prop_assert!(report.to_string().contains("gateway.toml:"));
    // What every variable and file holds.
    prop_assert!(!report.to_string().contains("hunter2"));
    prop_assert!(!report.into_lines().is_empty());
    Ok(())
}

/// Pieces of a file, to be put together in any order.
fn pieces() -> impl Strategy<Value = Vec<&'static str>> {
    let mut pieces: Vec<&'static str> = vec![
        "[",
        "]",
        "[[",
        "]]",
        "{",
        "}",
        "=",
        ".",
        ",",
        "\n",
        "\r\n",
        " ",
        "\"",
        "\"\"\"",
        "'",
        "#",
        "\\",
        "\\u00e9",
        "\u{e9}",
        "\u{1f511}",
        "\u{feff}",
        "\0",
        "${",
        "${WORDS}",
        "$",
        "-",
        "0x",
        "1e9",
        "nan",
        "1979-05-27",
        "true",
        "99999999999999999999",
        "\"10s\"",
        "\"1GiB\"",
        "\"60/m\"",
        "[\"9/d\", \"8/month\"]",
        "rate = \"1/month\"\n",
        "burst = 1_000\n",
        "cost = 9\n",
        "\"account\"",
        "\"/a/{b}\"",
        "\"read:a\"",
        "\"::1\"",
        "\"127.0.0.1:1\"",
        "[server]\n",
        "[[routes]]\n",
        "[upstreams.a]\n",
        "[tiers.a]\n",
        "name = \"a\"\n",
        "auth = \"public\"\n",
        "kind = \"redis\"\n",
        "urls = [\"redis://a\"]\n",
        "\"rediss://[::1]:1\"",
        "\"sentinel\"",
        "\"cluster\"",
        "\"redis.password\"",
        "\"both.pem\"",
    ];
    pieces.extend(TABLES.iter().map(|table| table.header));
    pieces.extend(TABLES.iter().flat_map(|table| table.keys()));
    prop::collection::vec(prop::sample::select(pieces), 0..60)
}

/// One change of some bytes.
#[derive(Clone, Debug)]
struct Change {
    at: prop::sample::Index,
    removed: usize,
    inserted: Vec<u8>,
}

fn change() -> impl Strategy<Value = Change> {
    let inserted = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..4),
        prop::sample::select(vec!["\"", "[", "]", "=", "\n", "{", "${", "0", "é"])
            .prop_map(|text| text.as_bytes().to_vec()),
    ];
    (any::<prop::sample::Index>(), 0usize..20, inserted)
        .prop_map(|(at, removed, inserted)| Change { at, removed, inserted })
}

proptest! {
    #[test]
    fn any_text_is_parsed_or_refused_with_a_place(text in any::<String>()) {
        survives(&text)?;
    }

    #[test]
    fn any_bytes_read_as_text_are_parsed_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        survives(&String::from_utf8_lossy(&bytes))?;
    }

    #[test]
    fn any_order_of_a_files_pieces_is_parsed_or_refused(pieces in pieces()) {
        survives(&pieces.concat())?;
    }

    #[test]
    fn a_damaged_example_is_parsed_or_refused(
        fleet in any::<bool>(),
        changes in prop::collection::vec(change(), 1..5),
    ) {
        let example = if fleet { format!("{HEAD}{REDIS}") } else { EXAMPLE.to_owned() };
        let mut bytes = example.into_bytes();
        for Change { at, removed, inserted } in changes {
            let start = at.index(bytes.len());
            let end = (start + removed).min(bytes.len());
            bytes.splice(start..end, inserted);
        }
        survives(&String::from_utf8_lossy(&bytes))?;
    }
}

#[test]
fn depth_and_length_are_bounded() {
    let deep = [
        "[".repeat(100_000),
        format!("x = {}", "[".repeat(100_000)),
        format!("x = {}", "{a=".repeat(100_000)),
        format!("{}x = 1", "a.".repeat(100_000)),
        format!("[{}x]", "a.".repeat(100_000)),
        format!("x = {}", format!("{{ {}x = ", "a.".repeat(70)).repeat(75)),
        "x = 1\n".repeat(100_000),
        "\"".repeat(100_001),
        format!("x = \"{}\"", "${A".repeat(100_000)),
        format!("server = {{ {} }}", "a = 1, ".repeat(20_000)),
    ];
    for text in deep {
        survives(&text).unwrap_or_else(|error| panic!("{error}: {}", &text[..40]));
    }
    let long = "#".repeat(FILE_BYTES_MAX + 1);
    assert!(report(&long).contains("longer than 4 MiB"));
}

#[test]
fn a_thousand_problems_are_shown_and_the_rest_are_counted() {
    let text = report(&"[server]\n".repeat(2_001));
    assert!(text.ends_with("and 1000 more"), "{}", &text[text.len() - 100..]);
}

#[test]
fn what_a_variable_holds_is_never_told() {
    let mut cases = 0;
    for table in TABLES {
        for setting in table.settings {
            for variable in ["WORDS", "DIGITS", "ADDRESS", "URL"] {
                let secret = environment(variable).unwrap();
                for value in [
                    format!("\"${{{variable}}}\""),
                    format!("[\"${{{variable}}}\", \"${{{variable}}}\"]"),
                    format!("\"x${{{variable}}}:1\""),
                ] {
                    let header = table.header.replace("NAME", "name");
                    for beside in
                        ["", "kind = \"redis\"\n", "kind = \"redis\"\nmode = \"sentinel\"\n"]
                    {
                        let text = format!("{header}\n{} = {value}\n{beside}", setting.key());
                        let shown = match parsed(&text) {
                            Ok(config) => config.warnings.join("\n"),
                            Err(report) => {
                                format!("{report} {report:?} {}", report.render(Colours::On))
                            }
                        };
                        // Part of it would be too much as well.
                        for part in [&secret, "hunter2", "53570"] {
                            assert!(!shown.contains(part), "{text}\n{shown}");
                        }
                        cases += 1;
                    }
                }
            }
        }
    }
    assert!(cases > 400);
}

#[test]
fn names_from_the_environment_are_not_told_when_routes_conflict() {
    let route = "[[routes]]\nname = \"${WORDS}\"\npath = \"/${WORDS}\"\nupstream = \"orders\"\nauth = \"key\"\n";
    let other = route.replace("name = \"$", "name = \"b$");
    let shown = report(&format!("{HEAD}{UPSTREAM}{route}{route}{other}"));
    assert!(
        shown.contains("two routes have this name") && shown.contains("serve the same requests")
    );
    assert!(!shown.contains("hunter2"), "{shown}");
}

#[test]
fn a_file_that_cannot_be_read_is_one_clear_problem() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gateway.toml");
    let problem = || load(&file).unwrap_err().to_string();
    assert!(problem().contains("cannot read the file: No such file"), "{}", problem());
    std::fs::write(&file, b"[server]\nlisten = \"\xff\"\n").unwrap();
    assert!(problem().contains("not UTF-8 text from this line on"), "{}", problem());
    assert!(problem().contains("gateway.toml:2:1"), "{}", problem());
    std::fs::write(&file, vec![b'#'; FILE_BYTES_MAX + 10]).unwrap();
    assert!(problem().contains("longer than 4 MiB"), "{}", problem());
    assert!(load(folder.path()).is_err());
}

#[test]
fn paths_are_relative_to_the_files_folder() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gateway.toml");
    std::fs::write(&file, EXAMPLE).unwrap();
    let config = load(&file).unwrap();
    let Store::Embedded(store) = config.store else { panic!("not the embedded store") };
    assert_eq!(store.path, folder.path().join("data/keygate.db"));
}
