//! Random values: texts that are easily taken for something else, documents, amounts.

use proptest::prelude::*;
use proptest::sample::select;
use wiredflow_core::Value;

/// A text as it may stand in a flow file, without `${`: often one that YAML could take for something else.
pub fn text() -> impl Strategy<Value = String> {
    let tricky = [
        "",
        " ",
        "no",
        "Null",
        "012",
        "1e3",
        "0x1f",
        "a: b",
        "a #b",
        "- a",
        "{a}",
        "é",
        "\u{85}",
        "😀",
        "a\nb\t\"c\"\\",
        "~",
        "*a",
        "%",
    ];
    prop_oneof![
        "[a-z]{1,8}",
        "[ -~]{0,12}",
        ".{0,8}",
        select(tricky.to_vec()).prop_map(str::to_owned),
    ]
    .prop_map(|text| text.replace("${", "$ {"))
}

/// A JSON document, not deep.
pub fn document() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-1e9..1e9_f64).prop_map(Value::from),
        text().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::vec((text(), inner), 0..4)
                .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

/// A map of params.
pub(super) fn params() -> impl Strategy<Value = Value> {
    let pairs = proptest::collection::vec(("[a-z_]{1,8}", document()), 0..4);
    pairs.prop_map(|pairs| Value::Object(pairs.into_iter().collect()))
}

/// A duration, from 10ms up.
pub(super) fn duration() -> impl Strategy<Value = String> {
    (10..5000_u32, select(vec!["ms", "s", "m", "h"]))
        .prop_map(|(number, unit)| format!("{number}{unit}"))
}
