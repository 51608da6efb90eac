use proptest::prelude::*;

use super::*;
use crate::fuzzing;

fn read(body: &str) -> Result<Option<usize>, BadChunks> {
    Chunks::default().advance(body.as_bytes())
}

#[track_caller]
fn whole(body: &str) {
    assert_eq!(read(body), Ok(Some(body.len())), "{body:?}");
    let followed = format!("{body}GET / HTTP/1.1\r\n");
    assert_eq!(read(&followed), Ok(Some(body.len())), "{body:?}");
}

#[track_caller]
fn bad(body: &str) {
    assert!(read(body).is_err(), "{body:?}: {:?}", read(body));
}

#[test]
fn a_body_is_read_to_its_end() {
    whole("0\r\n\r\n");
    whole("5\r\nhello\r\n0\r\n\r\n");
    whole("005\r\nhello\r\n00\r\n\r\n");
    whole("a\r\n0123456789\r\nA\r\n0\r\n\r\nabcde\r\n0\r\n\r\n");
    whole("5;a=b\r\nhello\r\n0;last\r\n\r\n");
    whole("5;\r\nhello\r\n0\r\n\r\n");
    whole("5 \t; a = \"b\"\r\nhello\r\n0 \r\n\r\n");
    whole("0\r\nA: b\r\nC:\r\n\r\n");
    whole("0\r\nA: \u{e9}\t;\r\n\r\n");
    assert_eq!(read(""), Ok(None));
    assert_eq!(read("5\r\nhel"), Ok(None));
}

/// Each is told at the byte that is wrong: nothing behind it is needed.
#[test]
fn what_is_no_body_is_told_at_once() {
    bad("\r");
    bad(";");
    bad(" ");
    bad("x");
    bad("+");
    bad("-");
    bad("0x");
    bad("5 5");
    bad("5\n");
    bad("5\r5");
    bad("5;\n");
    bad("5;\0");
    bad("5;\x7f");
    bad("5;a\rb");
    bad("5;\"\r\"");
    bad("5\r\nhello\n");
    bad("5\r\nhello\r0");
    bad("5\r\nhellox");
    bad("0\r\n\n");
    bad("0\r\n\rx");
    bad("0\r\n ");
    bad("0\r\n:");
    bad("0\r\nA :");
    bad("0\r\nA\r");
    bad("0\r\nA: b\n");
    bad("0\r\nA: \0");
    bad("0\r\nA: b\r\n c");
}

#[test]
fn each_part_has_a_bound() {
    let bytes = |count: usize| "b".repeat(count);
    whole(&format!("{}5\r\nhello\r\n0\r\n\r\n", "0".repeat(14)));
    bad(&"0".repeat(16));
    assert_eq!(read("fffffffffffffff\r\n"), Ok(None));
    whole(&format!("1;{}\r\nx\r\n0;{}\r\n\r\n", bytes(255), bytes(255)));
    bad(&format!("1;{}", bytes(256)));
    bad(&format!("1{}", " ".repeat(257)));
    whole(&format!("0\r\n{}\r\n", "A: b\r\n".repeat(64)));
    bad(&format!("0\r\n{}A", "A: b\r\n".repeat(64)));
    whole(&format!("0\r\nA:{}\r\n\r\n", bytes(8 * 1024 - 4)));
    bad(&format!("0\r\nA:{}\r\n", bytes(8 * 1024 - 3)));
    bad(&format!("0\r\n{}", bytes(8 * 1024 + 1)));
}

/// Pieces of bodies, good and bad: put together at random, one in some is a body.
fn part() -> impl Strategy<Value = Vec<u8>> {
    let fixed = prop::sample::select(vec![
        "0\r\n\r\n",
        "0\r\n",
        "\r\n",
        "1\r\nx\r\n",
        "3\r\n\r\n\r\r\n",
        "5;a=\"b\"\r\nhello\r\n",
        "A: b\r\n",
        "1 \r\ny\r\n",
        "\n",
        "\r",
        "\0",
        ";",
        " ",
        "x",
    ]);
    let sized = prop::collection::vec(any::<u8>(), 0..40)
        .prop_map(|data| [format!("{:x}\r\n", data.len()).as_bytes(), &data, b"\r\n"].concat());
    prop_oneof![8 => fixed.prop_map(|text| text.as_bytes().to_vec()), 3 => sized]
}

proptest! {
    #[test]
    fn it_agrees_with_a_plain_reading_however_it_comes(
        piece in any::<u8>(),
        parts in prop::collection::vec(part(), 0..12),
    ) {
        fuzzing::chunks(&[vec![piece], parts.concat()].concat());
    }

    #[test]
    fn where_it_is_cut_makes_no_difference(
        parts in prop::collection::vec(part(), 0..12),
        mut cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let body = parts.concat();
        let mut cuts: Vec<usize> = cuts.drain(..).map(|cut| cut.index(body.len() + 1)).collect();
        cuts.sort_unstable();
        let mut chunks = Chunks::default();
        let (mut before, mut found) = (0, Ok(None));
        for end in cuts.into_iter().chain([body.len()]) {
            found = chunks.advance(&body[before..end]).map(|ended| ended.map(|at| before + at));
            if found != Ok(None) {
                break;
            }
            before = end;
        }
        prop_assert_eq!(found, Chunks::default().advance(&body));
    }
}
