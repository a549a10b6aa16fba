use serde_json::json;

use super::*;
use crate::yaml;

fn read(text: &str) -> Result<Conditions, String> {
    let mut reading = Reading::default();
    let conditions = Conditions::from_node(&yaml::parse(text).unwrap(), &mut reading);
    match reading.into_problems().first() {
        Some(problem) => Err(problem.message.clone()),
        None => Ok(conditions.unwrap()),
    }
}

#[track_caller]
fn check(text: &str, record: &Value, expected: bool) {
    assert_eq!(
        read(text).unwrap().hold(record),
        expected,
        "{text} of {record}"
    );
}

#[test]
fn each_comparison_says_what_its_name_says() {
    let record =
        json!({"t": 21.5, "site": "north", "tags": ["a", "b"], "none": null, "main": {"temp": 3}});
    for (text, expected) in [
        ("{field: t, above: 20}", true),
        ("{field: t, above: 21.5}", false),
        ("{field: t, at_least: 21.5}", true),
        ("{field: t, below: 22, above: 21}", true),
        ("{field: t, at_most: 21}", false),
        ("{field: site, is: north}", true),
        ("{field: site, is_not: north}", false),
        ("{field: site, one_of: [south, north]}", true),
        ("{field: site, one_of: []}", false),
        ("{field: site, above: nor, below: o}", true),
        ("{field: site, contains: ort}", true),
        ("{field: tags, contains: b}", true),
        ("{field: tags, contains: c}", false),
        ("{field: none, exists: true}", false),
        ("{field: absent, exists: false}", true),
        ("{field: absent, is: null}", true),
        ("{field: absent, is_not: 5}", true),
        ("{field: absent, below: 5}", false),
        ("{field: main.temp, is: 3}", true),
        ("[{field: t, above: 20}, {field: site, is: south}]", false),
        (
            "{any: [{field: t, above: 30}, {field: site, is: north}]}",
            true,
        ),
        ("{any: []}", false),
        ("[]", true),
    ] {
        check(text, &record, expected);
    }
    check("{field: ., above: 4}", &json!(5), true);
    check("{field: t, above: 4}", &json!(5), false);
}

#[test]
fn what_storages_make_of_values_does_not_matter() {
    for found in [json!(5), json!(5.0), json!("5"), json!(" 5.0")] {
        check("{field: n, is: 5, above: 4.5}", &json!({"n": found}), true);
    }
    for found in [json!(true), json!(1), json!("true")] {
        check("{field: ok, is: true}", &json!({"ok": found}), true);
        check("{field: ok, is: false}", &json!({"ok": found}), false);
    }
    // A text in the file is a text.
    check("{field: n, is: \"5\"}", &json!({"n": 5}), false);
    check("{field: n, above: \"20\"}", &json!({"n": 5}), false);
    check("{field: n, above: 20}", &json!({"n": "many"}), false);
}

#[test]
fn e3_large_integers_are_compared_exactly() {
    let record = json!({"n": 9_007_199_254_740_993_u64, "most": u64::MAX, "least": i64::MIN});
    check("{field: n, is: 9007199254740992}", &record, false);
    check("{field: n, above: 9007199254740992}", &record, true);
    check("{field: most, above: 9223372036854775807}", &record, true);
    check("{field: least, below: 0}", &record, true);
}

#[test]
fn what_is_no_condition_is_refused_with_its_reason() {
    for (text, part) in [
        ("{field: a}", "a comparison is missing"),
        ("{above: 5}", "`field` is missing"),
        ("{field: a, abov: 5}", "unknown key `abov`"),
        ("{field: a, above: [5]}", "expected a number or a text"),
        ("{field: a, above: null}", "expected a number or a text"),
        ("{field: a, one_of: 5}", "expected a list of values"),
        ("{field: a..b, is: 5}", "is no field"),
        ("{any: [{field: a, is: 1}], field: b}", "`any` stands alone"),
        ("temperature > 20", "expected a condition such as"),
    ] {
        let message = read(text).unwrap_err();
        assert!(message.contains(part), "{text}: {message}");
    }
}

#[test]
fn a_number_from_the_environment_is_a_number() {
    let mut node = yaml::parse("{field: a, above: x}").unwrap();
    node.set("above", Node::new(NodeKind::Filled("20".to_owned())));
    let conditions = Conditions::from_node(&node, &mut Reading::default()).unwrap();
    assert!(conditions.hold(&json!({"a": 21})));
}
