//! Words of what is told of requests.

use super::choose;
use crate::settings::{ClientAddress, QueryShown, Sample};
use crate::value::{FromText, Wrong};

/// `[access_log] sink`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AccessLogSinkKind {
    Off,
    Stdout,
    File,
}

impl FromText for AccessLogSinkKind {
    const TYPE: &'static str = "word";
    const RULE: &'static str = "`off`, `stdout`, `file`";

    fn from_text(text: &str) -> Result<Self, Wrong> {
        choose(text, &[("off", Self::Off), ("stdout", Self::Stdout), ("file", Self::File)])
    }
}

impl FromText for QueryShown {
    const TYPE: &'static str = "word";
    const RULE: &'static str = "`off`, `names`, `full`";

    fn from_text(text: &str) -> Result<Self, Wrong> {
        choose(text, &[("off", Self::Off), ("names", Self::Names), ("full", Self::Full)])
    }
}

impl FromText for ClientAddress {
    const TYPE: &'static str = "word";
    const RULE: &'static str = "`full`, `masked`, `off`";

    fn from_text(text: &str) -> Result<Self, Wrong> {
        choose(text, &[("full", Self::Full), ("masked", Self::Masked), ("off", Self::Off)])
    }
}

/// A part of all requests, in percent with up to four decimals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SampleShare(pub(crate) Sample);

impl FromText for SampleShare {
    const TYPE: &'static str = "percentage";
    const RULE: &'static str = "`\"0%\"` to `\"100%\"`, in steps of 0.0001";
    const UNIT: Option<&'static str> = Some("%");

    fn from_text(text: &str) -> Result<Self, Wrong> {
        let wrong =
            || Wrong::new("not a percentage").help("write one such as `\"1%\"` or `\"0.01%\"`");
        let number = text.strip_suffix('%').ok_or_else(wrong)?;
        let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
        let is_digits = |text: &str, most| {
            (1..=most).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
        };
        if !is_digits(whole, 3) || !is_digits(part, 4) {
            return Err(wrong());
        }
        let whole: u32 = whole.parse().map_err(|_| wrong())?;
        let part: u32 = format!("{part:0<4}").parse().map_err(|_| wrong())?;
        let millionths = whole * 10_000 + part;
        if millionths > Sample::ALL.0 {
            return Err(Wrong::new("more than all").help("write at most `\"100%\"`"));
        }
        Ok(Self(Sample(millionths)))
    }
}

/// Where spans are sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OtlpEndpoint(pub(crate) Box<str>);

impl FromText for OtlpEndpoint {
    const TYPE: &'static str = "URL";
    const RULE: &'static str = "begins with `http://` or `https://`";

    fn from_text(text: &str) -> Result<Self, Wrong> {
        const LENGTH_MAX: usize = 2_048;
        let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
        let authority = rest.map(|rest| rest.split('/').next().unwrap_or_default());
        let is_good = text.len() <= LENGTH_MAX
            && text.bytes().all(|byte| byte.is_ascii_graphic())
            && authority.is_some_and(|authority| !authority.is_empty() && !authority.contains('@'))
            && !text.contains(['?', '#']);
        if !is_good {
            let help = "write one such as `\"http://127.0.0.1:4318\"`, without a user or a query";
            return Err(Wrong::new("not an http or https URL").help(help));
        }
        Ok(Self(text.into()))
    }
}

/// What traces call this gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServiceName(pub(crate) Box<str>);

impl FromText for ServiceName {
    const TYPE: &'static str = "text";
    const RULE: &'static str = "1 to 255 visible ASCII characters";

    fn from_text(text: &str) -> Result<Self, Wrong> {
        let is_good = (1..=255).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
        if is_good { Ok(Self(text.into())) } else { Err(Wrong::new("not such a name")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_are_read_to_the_fourth_decimal() {
        let read = |text| SampleShare::from_text(text).map(|SampleShare(sample)| sample.0).ok();
        for (text, millionths) in
            [("100%", 1_000_000), ("0%", 0), ("1%", 10_000), ("0.5%", 5_000), ("0.0001%", 1)]
        {
            assert_eq!(read(text), Some(millionths), "{text}");
        }
        for wrong in ["", "%", "1", "100.0001%", "1000%", "-1%", "1.%", ".5%", "1.00001%", "1 %"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn an_endpoint_is_a_url_that_holds_no_password() {
        for good in ["http://127.0.0.1:4318", "https://otel.internal/v1/traces", "http://[::1]:1"] {
            assert!(OtlpEndpoint::from_text(good).is_ok(), "{good}");
        }
        for wrong in
            ["", "127.0.0.1:4318", "http://", "http:///a", "ftp://a", "http://u:p@a", "http://a?b"]
        {
            assert!(OtlpEndpoint::from_text(wrong).is_err(), "{wrong}");
        }
    }
}
