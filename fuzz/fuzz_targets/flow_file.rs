//! A flow file: parsed, filled, read, and written so that it reads as the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wiredflow_core::fields::Reading;
use wiredflow_core::fill::{Lookup, fill};
use wiredflow_core::{config_reader, yaml};

struct Outside;

impl Lookup for Outside {
    fn env(&self, name: &str) -> Option<String> {
        (name.len() < 4).then(|| format!("${{env:{name}}}: [5s"))
    }

    fn file(&self, _: &str) -> Result<String, String> {
        Err("no such file".to_owned())
    }
}

fuzz_target!(|text: &str| {
    let node = match yaml::parse(text) {
        Ok(node) => node,
        Err(problem) => return assert!(!problem.message.is_empty()),
    };
    let mut reading = Reading::default();
    let filled = fill(&node, &Outside, &mut reading, &mut Vec::new());
    let flow = config_reader::read_flow(&filled, "flow", &mut reading);
    assert!(flow.is_some() || reading.failed());
    let written = yaml::write(&node);
    assert_eq!(yaml::parse(&written).expect("what is written is read"), node, "{written}");
});
