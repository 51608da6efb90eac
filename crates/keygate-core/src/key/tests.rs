use super::*;

fn pepper(byte: u8) -> Pepper {
    Pepper::new(&[byte; 32])
}

fn mint(pepper: &Pepper, brand: Option<&Brand>, entropy: u8) -> (String, MintedKey) {
    let make =
        || MintedKey::mint(KeyKind::Secret, Environment::Live, brand, pepper, &[entropy; 32]);
    (make().reveal().to_string(), make())
}

#[test]
fn a_minted_key_has_the_published_shape_and_names_its_record() {
    for entropy in [0, 1, 127, 255] {
        let (text, minted) = mint(&pepper(1), None, entropy);
        assert_eq!(text.len(), 58);
        assert!(text.starts_with("sk_live_"));
        assert_eq!(minted.hint, text[..12]);
        let presented = PresentedKey::parse(text.as_bytes(), None).unwrap();
        let peppers = Peppers::new(pepper(1), vec![]);
        assert_eq!(peppers.identify(&presented), Some(minted.digest));
    }
}

/// Computed apart from this code, with Python's hmac, hashlib and an own base58: the format is
/// a contract with keys that are already in customers' hands.
#[test]
fn the_key_format_is_what_it_always_was() {
    let entropy: [u8; 32] = std::array::from_fn(|i| u8::try_from(i).unwrap());
    let minted = MintedKey::mint(
        KeyKind::Secret,
        Environment::Live,
        None,
        &Pepper::new(&[0x42; 32]),
        &entropy,
    );
    assert_eq!(minted.reveal().as_str(), GOLDEN);
}

const GOLDEN: &str = include_str!("../golden_key.txt").trim_ascii();

#[test]
fn a_changed_character_is_rejected_by_the_tag() {
    let (text, _) = mint(&pepper(1), None, 9);
    let peppers = Peppers::new(pepper(1), vec![]);
    for at in 8..58 {
        let mut wrong = text.clone().into_bytes();
        wrong[at] = if wrong[at] == b'2' { b'3' } else { b'2' };
        if let Ok(key) = PresentedKey::parse(&wrong, None) {
            assert!(peppers.identify(&key).is_none(), "position {at}");
        }
    }
}

#[test]
fn a_key_of_a_previous_pepper_still_identifies() {
    let (text, minted) = mint(&pepper(1), None, 9);
    let key = PresentedKey::parse(text.as_bytes(), None).unwrap();
    let rotated = Peppers::new(pepper(2), vec![pepper(3), pepper(1)]);
    assert_eq!(rotated.identify(&key), Some(minted.digest));
    assert_eq!(Peppers::new(pepper(2), vec![]).identify(&key), None);
}

#[test]
fn a_brand_is_part_of_the_key() {
    let brand: Brand = "acme".parse().unwrap();
    let (text, minted) = mint(&pepper(1), Some(&brand), 9);
    assert!(text.starts_with("acme_sk_live_"));
    assert_eq!(minted.hint, text[..17]);
    let key = PresentedKey::parse(text.as_bytes(), Some(&brand)).unwrap();
    assert!(Peppers::new(pepper(1), vec![]).identify(&key).is_some());
    assert!(PresentedKey::parse(text.as_bytes(), None).is_err());
    assert!(has_our_shape(text.as_bytes(), Some(&brand)));
    for wrong in ["", "a", "sk", "Acme", "a_b", "1abc", "abcdefghijklmnopq"] {
        assert!(wrong.parse::<Brand>().is_err(), "{wrong}");
    }
}

#[test]
fn tags_are_numbers_of_32_bits() {
    assert_eq!(decode_tag(b"000000"), Some(0));
    assert_eq!(decode_tag(&encode_tag(u32::MAX)), Some(u32::MAX));
    assert_eq!(decode_tag(b"zzzzzz"), None);
    assert_eq!(decode_tag(b"00000-"), None);
}

#[test]
fn peppers_name_themselves_without_telling() {
    assert_ne!(pepper(1).id(), pepper(2).id());
    assert_eq!(pepper(1).id(), pepper(1).id());
    assert_eq!(pepper(1).id().to_string().parse::<PepperId>().unwrap(), pepper(1).id());
    assert_ne!(*pepper(1).derive("a"), *pepper(1).derive("b"));
}

proptest::proptest! {
    #[test]
    fn parsing_never_panics(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..90)) {
        let brand: Brand = "acme".parse().unwrap();
        let shaped = has_our_shape(&bytes, Some(&brand));
        proptest::prop_assert!(shaped || PresentedKey::parse(&bytes, Some(&brand)).is_err());
    }

    #[test]
    fn tags_round_trip(value: u32) {
        proptest::prop_assert_eq!(decode_tag(&encode_tag(value)), Some(value));
    }
}
