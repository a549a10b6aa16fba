//! Whatever comes in: nothing that reads text or bytes panics, and what is refused is refused with a reason.

use bytes::BytesMut;
use proptest::prelude::*;
use proptest::sample::Index;
use wiredflow_core::fields::Reading;
use wiredflow_core::fill::{Lookup, fill};
use wiredflow_core::node::{Node, NodeKind};
use wiredflow_core::schedule::{Schedule, parse_time};
use wiredflow_core::units::{parse_duration, parse_size};
use wiredflow_core::{config_reader, frame, json, yaml};

/// Valid inputs of all parsers, to be damaged.
const VALID: [&str; 12] = [
    "pipelines:\n  numbers:\n    every: 10s\n    stages:\n      - http: {url: \"http://localhost\", headers: {a: 'b'}}\n      - store: json\n",
    "a: &x [1, 2.5, ~, {b: \"\\u00e9\"}]\nc: *x\nd: |\n  two\n  lines\n? e\n: !!str 5\n",
    "[{\"a\": 1, \"b\": [true, null, 1e-7, \"\\ud83d\\ude00\"]}, -0.0, 18446744073709551615]",
    "{\"type\":\"output\",\"id\":7,\"seq\":0,\"batch\":{\"many\":[1,{\"a\":[]}]}}",
    "{\"type\":\"call\",\"id\":1,\"attempt\":1,\"epoch\":0,\"function\":\"f\",\"params\":{},\"batch\":null,\"credit\":4}",
    "0 30 2 1-7,15W * +MON#2",
    "*/15 6-18 * JAN-MAR,12 FRIL",
    "2026-03-01T06:00:00.123456789+01:00[Europe/Berlin]",
    "1500ms",
    "64KiB",
    "x ${env:HOME:-de${fault} $${y} ${file:p.txt}",
    "999999999999999999999999d",
];

/// A valid input with some bytes changed, left out, doubled or brought in from another.
fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let change = (any::<Index>(), any::<Index>(), 0..5_u8, any::<u8>());
    let changes = proptest::collection::vec(change, 1..8);
    (any::<Index>(), changes).prop_map(|(which, changes)| {
        let mut bytes = which.get(&VALID).as_bytes().to_vec();
        for (from, to, how, byte) in changes {
            let at = from.index(bytes.len() + 1);
            let end = at + to.index(bytes.len() - at + 1);
            match how {
                0 => bytes.insert(at, byte),
                1 => drop(bytes.drain(at..end)),
                2 => {
                    let part = bytes[at..end].to_vec();
                    bytes.splice(at..at, part);
                }
                3 => {
                    let other = to.get(&VALID).as_bytes();
                    bytes.splice(at..at, other.iter().copied());
                }
                _ => bytes[at..end].iter_mut().for_each(|old| *old ^= byte),
            }
        }
        bytes
    })
}

fn anything() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..200),
        ".{0,80}".prop_map(String::into_bytes),
        "[-0-9a-zA-Z:{}\\[\\],&*!|>?'\"#%@ \n.+/$]{0,80}".prop_map(String::into_bytes),
        damaged(),
        damaged(),
    ]
}

struct Empty;

impl Lookup for Empty {
    fn env(&self, _: &str) -> Option<String> {
        None
    }

    fn file(&self, _: &str) -> Result<String, String> {
        Err("no such file".to_owned())
    }
}

/// Gives the bytes to everything that reads.
fn read_by_all(bytes: &[u8]) -> Result<(), TestCaseError> {
    if let Err(reason) = json::parse(bytes, json::MAX_PAYLOAD) {
        prop_assert!(!reason.is_empty());
    }
    let mut framed = BytesMut::from(&u32::try_from(bytes.len()).unwrap().to_be_bytes()[..]);
    framed.extend_from_slice(bytes);
    for mut stream in [framed, BytesMut::from(bytes)] {
        // The one that is framed, and whatever length stands in the first four bytes.
        while let Ok(Some(_)) = frame::decode(&mut stream, 1 << 20) {}
    }
    let Ok(text) = std::str::from_utf8(bytes) else {
        return Ok(());
    };
    for reason in [
        parse_duration(text).err(),
        parse_size(text).err(),
        parse_time(text).err(),
        Schedule::cron(text, "UTC").err(),
        Schedule::cron("0 6 * * *", text).err(),
    ] {
        prop_assert!(reason.is_none_or(|reason| !reason.is_empty()));
    }
    read_as_flow(text)
}

fn read_as_flow(text: &str) -> Result<(), TestCaseError> {
    let node = match yaml::parse(text) {
        Ok(node) => node,
        Err(problem) => {
            prop_assert!(!problem.message.is_empty());
            return Ok(());
        }
    };
    let mut reading = Reading::default();
    let filled = fill(&node, &Empty, &mut reading, &mut Vec::new());
    let flow = config_reader::read_flow(&filled, "flow", &mut reading);
    prop_assert!(flow.is_some() || reading.failed());
    let written = yaml::write(&node);
    prop_assert_eq!(yaml::parse(&written).unwrap(), node, "{}", written);
    Ok(())
}

/// Any tree.
fn tree() -> impl Strategy<Value = Node> {
    let number = prop_oneof![
        any::<i64>().prop_map(serde_json::Number::from),
        any::<u64>().prop_map(serde_json::Number::from),
        any::<f64>().prop_filter_map("finite", serde_json::Number::from_f64),
    ];
    let text = prop_oneof![
        ".{0,12}",
        "[-0-9a-zA-Z:{}\\[\\],&*!|>?'\"#%@ \n.+/$~=<]{0,8}",
        any::<char>().prop_map(String::from)
    ];
    let leaf = prop_oneof![
        Just(Node::new(NodeKind::Null)),
        any::<bool>().prop_map(|yes| Node::new(NodeKind::Bool(yes))),
        number.prop_map(|number| Node::new(NodeKind::Number(number))),
        text.clone().prop_map(Node::text),
    ];
    leaf.prop_recursive(6, 64, 5, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5)
                .prop_map(|items| Node::new(NodeKind::List(items))),
            proptest::collection::vec((text.clone(), inner), 0..5).prop_map(Node::map),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn no_reader_panics_whatever_the_bytes(bytes in anything()) {
        read_by_all(&bytes)?;
    }

    #[test]
    fn a_tree_that_is_written_is_read_as_the_same(node in tree()) {
        let text = yaml::write(&node);
        prop_assert_eq!(yaml::parse(&text).unwrap(), node, "{}", text);
    }
}
