//! `stages`: the catalogue.

use serde_json::Value;

use crate::tool;

#[test]
fn the_catalogue_has_every_kind_with_its_keys_and_an_example_that_is_yaml() {
    let test = tool();
    let catalogue = test.run(["stages", "--json"]).assert_code(0).json();
    let list = test.run(["stages"]).stdout;
    for (role, kinds) in catalogue.as_object().unwrap() {
        for kind in kinds.as_array().unwrap() {
            let name = kind["name"].as_str().unwrap();
            assert!(
                list.contains(&format!("\n  {name} ")),
                "{role} {name}\n{list}"
            );
            assert!(
                kind["doc"].as_str().unwrap().ends_with('.'),
                "{role} {name} is documented"
            );
            for field in kind["fields"].as_array().unwrap() {
                assert!(
                    !field["doc"].as_str().unwrap().is_empty(),
                    "{role} {name} {field}"
                );
                assert!(
                    !field["expects"].as_str().unwrap().is_empty(),
                    "{role} {name} {field}"
                );
            }
            let shown = test.run(["stages", name]);
            shown.assert_code(0);
            let example = kind["example"].as_str().unwrap();
            assert!(
                shown.stdout.contains(example.lines().next().unwrap()),
                "{}",
                shown.stdout
            );
            wiredflow_core::yaml::parse(example).unwrap();
        }
    }
    let names = |role: &str| -> Vec<&str> {
        let kinds = catalogue[role].as_array().into_iter().flatten();
        kinds.filter_map(|kind| kind["name"].as_str()).collect()
    };
    for (role, some) in [
        ("stages", &["core_logic", "store", "load", "send"][..]),
        ("storages", &["json", "jsonl"]),
        (
            "keys",
            &[
                "flow",
                "pipeline",
                "stage",
                "storage",
                "retry",
                "batch",
                "rate_limit",
            ],
        ),
    ] {
        assert!(
            some.iter().all(|name| names(role).contains(name)),
            "{role}: {:?}",
            names(role)
        );
    }
}

#[test]
fn a_kind_is_shown_with_types_defaults_and_meaning() {
    let shown = tool()
        .run(["stages", "batch"])
        .assert_code(0)
        .stdout
        .clone();
    for part in [
        "batch (keys)\nRegroups records before a stage.\n",
        "  max  a whole number; default 256\n      At most this many records in a batch.\n",
        "\nExample\n  batch: {max: 64, within: 250ms}\n",
    ] {
        assert!(shown.contains(part), "{part}\n{shown}");
    }
}

#[test]
fn e12_an_unknown_kind_is_answered_with_the_nearest() {
    let unknown = tool().run(["stages", "core_logik"]);
    unknown.assert_code(2);
    let expected = "error: there is no kind `core_logik`: did you mean `core_logic`?";
    assert!(unknown.stderr.starts_with(expected), "{}", unknown.stderr);
}

#[test]
fn one_kind_can_be_read_by_a_script() {
    let one = tool()
        .run(["stages", "retry", "--json"])
        .assert_code(0)
        .json();
    let fields = one["keys"][0]["fields"].as_array().unwrap();
    let attempts = fields
        .iter()
        .find(|field| field["name"] == "attempts")
        .unwrap();
    assert_eq!(
        (&attempts["default"], &attempts["required"]),
        (&Value::Null, &false.into())
    );
    assert_eq!(one.as_object().unwrap().len(), 1);
}

#[test]
fn the_document_has_a_table_for_each_kind_and_no_secret_of_the_machine() {
    let test = tool().env("API_KEY", "canary-12");
    let document = test
        .run(["stages", "--markdown"])
        .assert_code(0)
        .stdout
        .clone();
    let catalogue: Value = test.run(["stages", "--json"]).json();
    for (role, kinds) in catalogue.as_object().unwrap() {
        for kind in kinds.as_array().unwrap() {
            let head = format!("\n### `{}`\n", kind["name"].as_str().unwrap());
            assert!(document.contains(&head), "{role} {head}");
        }
    }
    assert!(!document.contains("canary-12"));
    assert!(
        document
            .lines()
            .all(|line| !line.starts_with("| `") || line.ends_with('|'))
    );
}
