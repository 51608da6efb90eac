//! The trace that a request belongs to, as `traceparent` names it (W3C Trace Context, section 3.2).
//!
//! Knows nothing of spans, nor of who records them.

use std::fmt;

/// The length of a `traceparent` of version 00.
const TRACEPARENT_LENGTH: usize = 55;

/// What all requests that one led to have in common. Zero is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TraceId(pub u128);

/// One step of a trace. Zero is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SpanId(pub u64);

/// What a `traceparent` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TraceParent {
    pub trace: TraceId,
    /// The step that the request is part of.
    pub span: SpanId,
    /// Whether whoever sent it records the trace.
    pub is_sampled: bool,
}

impl TraceParent {
    /// What a well-formed value says; nothing if it is not.
    #[must_use]
    pub fn parse(value: &[u8]) -> Option<Self> {
        let (version, rest) = value.split_at_checked(3)?;
        let (trace, rest) = rest.split_at_checked(33)?;
        let (span, rest) = rest.split_at_checked(17)?;
        let (flags, more) = rest.split_at_checked(2)?;
        let version = field::<2>(version)?;
        // ff is forbidden. Version 00 ends here; a later one may go on, after another dash.
        let is_whole = more.is_empty() || (version != 0 && more.starts_with(b"-"));
        if version == 0xff || !is_whole {
            return None;
        }
        let trace = TraceId(field::<32>(trace)?);
        let span = SpanId(u64::try_from(field::<16>(span)?).ok()?);
        let is_sampled = digits(flags)? & 1 != 0;
        (trace.0 != 0 && span.0 != 0).then_some(Self { trace, span, is_sampled })
    }

    /// As version 00 has it.
    #[must_use]
    pub fn text(self) -> [u8; TRACEPARENT_LENGTH] {
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
        let [_, _, _, rest @ .., _, flag] = &mut text;
        let Some((trace, [_, span @ ..])) = rest.split_first_chunk_mut() else { return text };
        *trace = self.trace.text();
        if let Some(span) = span.first_chunk_mut() {
            *span = self.span.text();
        }
        *flag = b'0' + u8::from(self.is_sampled);
        text
    }
}

impl TraceId {
    /// As it is written everywhere.
    #[inline]
    #[must_use]
    pub fn text(self) -> [u8; 32] {
        hex(self.0.to_be_bytes())
    }
}

impl SpanId {
    /// As it is written everywhere.
    #[inline]
    #[must_use]
    pub fn text(self) -> [u8; 16] {
        hex(self.0.to_be_bytes())
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// So many digits and the dash behind them.
fn field<const DIGITS: usize>(text: &[u8]) -> Option<u128> {
    let (number, dash) = text.split_at_checked(DIGITS)?;
    if dash == b"-" { digits(number) } else { None }
}

/// Lower case only: section 3.2.1.
fn digits(text: &[u8]) -> Option<u128> {
    text.iter().try_fold(0_u128, |number, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(digit))
    })
}

/// Two digits for each byte. Formatting with `{:x}` costs ten times as much.
#[inline]
#[must_use]
pub fn hex<const BYTES: usize, const DIGITS: usize>(bytes: [u8; BYTES]) -> [u8; DIGITS] {
    const { assert!(DIGITS == 2 * BYTES && BYTES.is_multiple_of(4)) };
    let mut digits = [0; DIGITS];
    let ((eights, _), (fours, _)) = (digits.as_chunks_mut(), bytes.as_chunks());
    for (eight, four) in eights.iter_mut().zip(fours) {
        *eight = eight_digits(u32::from_be_bytes(*four));
    }
    digits
}

/// All digits at once, each in a byte of one word.
#[inline]
fn eight_digits(number: u32) -> [u8; 8] {
    const EACH: u64 = 0x0101_0101_0101_0101;
    let number = u64::from(number);
    let halves = (number << 16 | number) & 0x0000_ffff_0000_ffff;
    let bytes = (halves << 8 | halves) & 0x00ff_00ff_00ff_00ff;
    let values = (bytes << 4 | bytes) & (EACH * 0xf);
    // One in each byte that is a letter: six more do not fit into four bits.
    let letters = ((values + EACH * 6) >> 4) & EACH;
    (values + EACH * u64::from(b'0') + letters * u64::from(b'a' - b'0' - 10)).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    const SPAN: &str = "b7ad6b7169203331";

    #[test]
    fn malformed_traces_are_told_from_good_ones() {
        let parent = TraceParent {
            trace: TraceId(0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c),
            span: SpanId(0xb7ad_6b71_6920_3331),
            is_sampled: true,
        };
        for good in [
            format!("00-{TRACE}-{SPAN}-01"),
            format!("00-{TRACE}-{SPAN}-ff"),
            format!("cc-{TRACE}-{SPAN}-01"),
            format!("cc-{TRACE}-{SPAN}-01-more"),
        ] {
            assert_eq!(TraceParent::parse(good.as_bytes()), Some(parent), "{good}");
        }
        let bad = [
            String::new(),
            format!("ff-{TRACE}-{SPAN}-01"),
            format!("0-{TRACE}-{SPAN}-01"),
            format!("00-{TRACE}-{SPAN}-01-more"),
            format!("cc-{TRACE}-{SPAN}-01more"),
            format!("00-{}-{SPAN}-01", "0".repeat(32)),
            format!("00-{TRACE}-{}-01", "0".repeat(16)),
            format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
            format!("00-{TRACE}-{SPAN}"),
            format!("00-{TRACE}-{SPAN}-"),
            format!("00-{TRACE}-{SPAN}-1"),
            format!("00-{TRACE}-{SPAN}-0x"),
            format!("00_{TRACE}-{SPAN}-01"),
            format!("00-{TRACE}é-{}-01", &SPAN[2..]),
        ];
        for bad in bad {
            assert_eq!(TraceParent::parse(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn only_the_sampled_flag_is_read() {
        for (flags, is_sampled) in [("00", false), ("01", true), ("02", false), ("03", true)] {
            let text = format!("00-{TRACE}-{SPAN}-{flags}");
            let parent = TraceParent::parse(text.as_bytes()).unwrap();
            assert_eq!(parent.is_sampled, is_sampled, "{flags}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(trace in 1_u128.., span in 1_u64.., is_sampled: bool) {
            let parent = TraceParent { trace: TraceId(trace), span: SpanId(span), is_sampled };
            prop_assert_eq!(TraceParent::parse(&parent.text()), Some(parent));
            prop_assert_eq!(parent.trace.text().to_vec(), parent.trace.to_string().into_bytes());
            prop_assert_eq!(parent.span.text().to_vec(), parent.span.to_string().into_bytes());
        }

        #[test]
        fn what_is_read_is_well_formed(
            text in "[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?|(?s).*",
        ) {
            if let Some(parent) = TraceParent::parse(text.as_bytes()) {
                prop_assert!(parent.trace.0 != 0 && parent.span.0 != 0);
                let again = parent.text();
                // All but the version, and what a later one has more.
                prop_assert_eq!(&again[2..53], &text.as_bytes()[2..53]);
            }
        }
    }
}
