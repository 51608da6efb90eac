//! `${NAME}` inside a string stands for an environment variable.

use crate::value::Wrong;

/// Replaces every reference. A variable that is unset or empty is an error: an empty secret or
/// path would be taken for a meant one.
///
/// # Errors
/// The first reference that cannot be replaced. Never tells a variable's value.
pub(crate) fn expand(
    text: &str,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<String, Wrong> {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        let Some((name, after)) = after.split_once('}').filter(|(name, _)| is_name(name)) else {
            return Err(Wrong::new("a broken `${…}` reference")
                .help("write `${NAME}`: letters, digits and `_`, not beginning with a digit"));
        };
        let Some(value) = environment(name).filter(|value| !value.is_empty()) else {
            return Err(Wrong::new(format!(
                "the environment variable `{name}` is not set, or is empty"
            ))
            .help(format!("set `{name}` before you start keygate, or write the value here")));
        };
        expanded.push_str(before);
        expanded.push_str(&value);
        rest = after;
    }
    expanded.push_str(rest);
    Ok(expanded)
}

/// Whether a text is `${NAME}`, nothing else.
pub(crate) fn is_one_reference(text: &str) -> bool {
    text.strip_prefix("${").and_then(|rest| rest.strip_suffix('}')).is_some_and(is_name)
}

pub(crate) fn is_name(name: &str) -> bool {
    const NAME_LENGTH_MAX: usize = 128;
    name.len() <= NAME_LENGTH_MAX
        && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expect: Result<&str, &str>) {
        let environment = |name: &str| match name {
            "HOST" => Some("orders.internal".to_owned()),
            "PORT_2" => Some("9000".to_owned()),
            "EMPTY" => Some(String::new()),
            "NESTED" => Some("${HOST}".to_owned()),
            _ => None,
        };
        let found = expand(text, &environment).map_err(|wrong| wrong.message);
        assert_eq!(found, expect.map(str::to_owned).map_err(str::to_owned), "{text}");
    }

    #[test]
    fn references_are_replaced_wherever_they_are() {
        check("${HOST}:${PORT_2}", Ok("orders.internal:9000"));
        check("no $reference { } $", Ok("no $reference { } $"));
    }

    #[test]
    fn a_value_is_not_expanded_again() {
        check("${NESTED}", Ok("${HOST}"));
    }

    #[test]
    fn unset_and_empty_are_errors() {
        check("${HOSTS}", Err("the environment variable `HOSTS` is not set, or is empty"));
        check("a${EMPTY}", Err("the environment variable `EMPTY` is not set, or is empty"));
    }

    #[test]
    fn a_broken_reference_is_an_error() {
        for text in ["${", "${}", "${HOST", "${1}", "${A-B}", "${A:-b}", "x${ HOST }"] {
            check(text, Err("a broken `${…}` reference"));
        }
    }
}
