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
fn a_bare_value_in_a_maps_place_is_shown_written_out() {
    config! {
        /// Without a short form.
        struct Long {
            /// A time.
            timeout: Option<Duration>,
            /// A word.
            volume: Option<Volume>,
            /// A number.
            port: Option<u16>,
            /// Any text.
            name: Option<String>,
        }
    }
    let help = |text: &str| {
        let mut reading = Reading::default();
        let mut node = yaml::parse(&format!("a: {text}")).unwrap();
        if text == "filled" {
            node = Node::new(NodeKind::Filled("hidden".to_owned()));
        } else {
            node = node.entry("a").unwrap().value.clone();
        }
        assert_eq!(Long::from_node(&node, &mut reading), None);
        let problem = reading.into_problems().remove(0);
        assert!(
            problem
                .message
                .starts_with("expected a map such as {`timeout: …`")
        );
        problem.help
    };
    for (text, expected) in [
        ("5", "write `{port: 5}`"),
        ("99999", "write `{name: 99999}`"),
        ("5s", "write `{timeout: 5s}`"),
        ("high", "write `{volume: high}`"),
        ("'a: b'", "write `{name: 'a: b'}`"),
        ("filled", "write `{name: …}`"),
    ] {
        assert_eq!(help(text).unwrap().replace('"', "'"), expected);
    }
    assert_eq!(help("true"), None);
    assert_eq!(help("[1]"), None);
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
