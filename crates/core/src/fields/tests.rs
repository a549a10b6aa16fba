//! Reading config structs: defaults, short forms, and all problems at once.

use super::*;
use crate::yaml;

words! {
    /// How loud.
    enum Volume {
        /// Not loud.
        Low = "low",
        /// Loud.
        High = "high",
    }
}

config! {
    /// A test.
    struct Sample short url {
        /// An address.
        url: String,
        /// A time.
        timeout: Duration = "30s",
        /// A word.
        volume: Volume = "low",
        /// Optional.
        port: Option<u16>,
    }
}

fn read(text: &str) -> (Option<Sample>, Vec<String>) {
    let mut reading = Reading::default();
    let sample = Sample::from_node(&yaml::parse(text).unwrap(), &mut reading);
    let line = |problem: Problem| {
        let help = problem
            .help
            .map(|help| format!(" ({help})"))
            .unwrap_or_default();
        format!(
            "{:?} {}: {}{help}",
            problem.span, problem.path, problem.message
        )
    };
    (
        sample,
        reading.into_problems().into_iter().map(line).collect(),
    )
}

#[test]
fn defaults_and_the_short_form_fill_the_rest() {
    let (sample, problems) = read("http://x");
    let sample = sample.unwrap();
    assert_eq!(
        (sample.url.as_str(), sample.timeout),
        ("http://x", Duration::from_secs(30))
    );
    assert_eq!((sample.volume.word(), sample.port), ("low", None));
    assert!(problems.is_empty());
}

#[test]
fn e12_all_problems_are_told_at_once_with_place_and_nearest_word() {
    let (sample, problems) =
        read("timeot: 5s\nvolume: hihg\nport: 99999\nport: x\ntimeout: 5 parsecs\n");
    assert!(sample.is_none());
    let all = problems.join("\n");
    for part in [
        "1:1 : `url` is missing",
        "1:1 : unknown key `timeot` (did you mean `timeout`?",
        "2:9 volume: `hihg` is not possible here (did you mean `high`?",
        "4:1 : duplicate key `port`: first at line 3",
        "4:7 port: expected a whole number from 0 to 65535, found text",
        "5:10 timeout:",
    ] {
        assert!(all.contains(part), "{part} not in:\n{all}");
    }
}
