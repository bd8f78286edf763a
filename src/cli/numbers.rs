//! Numbers on the command line: what a flag takes, and the message if it is given something else.

use clap::builder::RangedI64ValueParser;

/// At least 1.
pub fn count() -> RangedI64ValueParser<usize> {
    count_to(u32::MAX)
}

/// 1 to `most`.
pub fn count_to(most: u32) -> RangedI64ValueParser<usize> {
    RangedI64ValueParser::new().range(1..=i64::from(most))
}
