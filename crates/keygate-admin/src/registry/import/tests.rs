use super::*;

#[test]
fn ids_follow_from_names_that_cannot_be_confused() {
    assert_eq!(name(&[b"app", b"kong"]), name(&[b"app", b"kong"]));
    assert_ne!(name(&[b"app", b"kong"]), name(&[b"appk", b"ong"]));
    assert_ne!(name(&[b"app", b"kong"]), name(&[b"app", b"kong", b""]));
}

#[test]
fn a_hint_holds_nothing_of_the_digest_or_the_key() {
    let digest = KeyDigest::of_imported(&sha256(b"my-key"));
    let hint = hint(&digest);
    assert!(hint.starts_with("imported_") && hint.len() == 15, "{hint}");
    let hex: String = digest.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(!hex.contains(&hint[9..]), "{hint}");
}
