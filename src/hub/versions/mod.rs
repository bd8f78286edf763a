//! Versions of models that a user keeps under names of his own: saved once, never changed, loaded by `--model NAME@V`.
//!
//! ```text
//! $STAIRWELL_HOME/versions/blobs/SHA256             a file's content, once for all versions
//!                          NAME/V/version.json      where it is from, when it was saved, its files and their hashes
//!                          NAME/V/files/FILE        a link to the blob
//!                          NAME/.tags/latest        the version that NAME@latest is
//! ```
//! A version is written beside its place and gets its name by one rename, so a process that is killed leaves none that is listed.

mod files;
mod store;

pub use store::{Removed, Store};

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// What is known of a version: `version.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Version {
    pub name: String,
    pub version: String,
    /// Seconds since 1970.
    pub created: u64,
    /// The same as `2026-11-30T20:15:00Z`.
    pub created_at: String,
    #[serde(default)]
    pub note: String,
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
    pub source: Source,
    /// The class that computes it, as Qwen3ForCausalLM.
    pub architecture: String,
    pub dtype: Option<String>,
    pub quantization: Option<String>,
    /// Bytes of all files.
    pub bytes: u64,
    /// SHA-256 of a line `SHA256  FILE` for each file, sorted: one hash for the whole version.
    pub digest: String,
    pub files: Vec<SavedFile>,
}

/// Where a version was saved from.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Source {
    pub path: PathBuf,
    /// `ORG/NAME` and the commit, if it was in the hub's cache.
    pub repository: Option<String>,
    pub commit: Option<String>,
}

/// A file of a version.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SavedFile {
    pub path: String,
    pub size: u64,
    pub sha256: String,
}

/// What a user says of a version when he saves it.
#[derive(Clone, Debug, Default)]
pub struct Labels {
    /// The version's name [default: v1, v2, …]
    pub version: Option<String>,
    pub note: String,
    pub metadata: BTreeMap<String, String>,
}

/// Seconds since 1970 as a date and time of UTC (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`).
fn utc(seconds: u64) -> String {
    let (days, time) = (seconds / 86_400, seconds % 86_400);
    // Days since 0000-03-01, so that a leap day is the last of its year.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", time / 3600, time / 60 % 60, time % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_date() {
        // `date -u -d @SECONDS +%FT%TZ`
        for (seconds, want) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (1_796_069_716, "2026-11-30T20:15:16Z"),
            (4_102_444_800, "2100-01-01T00:00:00Z"),
        ] {
            assert_eq!(utc(seconds), want);
        }
    }
}
