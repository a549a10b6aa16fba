//! Time zones by name, with the nearest names when one is not known.

use jiff::tz::TimeZone;

/// How alike (0 to 1) a name must be to be offered.
const ALIKE: f64 = 0.8;

/// The time zone of an IANA name, in any case.
///
/// Zones are read from the system's data, so that its updates count, and else from the data built into the program.
pub(super) fn find(name: &str) -> Result<TimeZone, String> {
    TimeZone::get(name).map_err(|_| {
        let near = nearest(name);
        let hint = if near.is_empty() {
            "use a name such as `Europe/Berlin`, `America/New_York` or `UTC`".to_owned()
        } else {
            format!("is {} meant?", near.join(" or "))
        };
        let short: String = name.chars().take(60).collect();
        format!("time zone `{short}` is not known; {hint}")
    })
}

/// Up to three names that are like `name` as a whole or in their last part (`berlin` finds `Europe/Berlin`), best first.
fn nearest(name: &str) -> Vec<String> {
    let wanted = name.trim().replace(' ', "_").to_lowercase();
    if wanted.is_empty() || wanted.len() > 64 {
        return Vec::new();
    }
    let mut alike: Vec<(f64, String)> = jiff::tz::db()
        .available()
        .filter_map(|known| {
            let lower = known.as_str().to_lowercase();
            let city = lower.rsplit('/').next().unwrap_or(&lower);
            let score = likeness(&wanted, &lower).max(likeness(&wanted, city));
            let special = lower.starts_with("posix/") || lower.starts_with("right/");
            (score >= ALIKE && !special).then(|| (score, known.as_str().to_owned()))
        })
        .collect();
    alike.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    alike
        .into_iter()
        .take(3)
        .map(|(_, known)| format!("`{known}`"))
        .collect()
}

/// From 0 to 1; 0 without a closer look when the lengths alone keep it below [`ALIKE`].
fn likeness(wanted: &str, known: &str) -> f64 {
    let longer = wanted.len().max(known.len());
    if wanted.len().abs_diff(known.len()) * 4 > longer {
        return 0.0;
    }
    strsim::normalized_damerau_levenshtein(wanted, known)
}
