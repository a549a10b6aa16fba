//! The name of a field, as the record steps and conditions take it: `temperature`, or `main.temp` of an object in
//! an object.

use crate::fields::{FromNode, Reading};
use crate::node::Node;
use crate::record::{Map, Value};

/// The path that means the record itself.
const WHOLE: &str = ".";

/// A field of a record. A field whose own name has the dots goes before one inside an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FieldPath(String);

impl FieldPath {
    /// Reads a path: names with dots between them, or `.` alone.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text != WHOLE && text.split('.').any(str::is_empty) {
            return Err(format!(
                "`{text}` is no field: write its name, as `temperature`, or a path, as `main.temp`"
            ));
        }
        Ok(Self(text.to_owned()))
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it means the record itself.
    pub fn is_whole(&self) -> bool {
        self.0 == WHOLE
    }

    /// The field's value; `None` where the record has no such field.
    pub fn find<'r>(&self, record: &'r Value) -> Option<&'r Value> {
        if self.is_whole() {
            return Some(record);
        }
        find(record.as_object()?, &self.0)
    }

    /// Gives the field a value, making the objects on the way to it.
    ///
    /// # Errors
    /// The name on the way that is there and no object.
    pub fn set(&self, record: &mut Map, value: Value) -> Result<(), String> {
        set(record, &self.0, value)
    }

    /// Takes the field out; the order of the others stays.
    pub fn remove(&self, record: &mut Map) -> Option<Value> {
        remove(record, &self.0)
    }
}

impl FromNode for FieldPath {
    const EXPECTS: &'static str = "a field's name, or a path such as `main.temp`";

    fn from_node(node: &Node, reading: &mut Reading) -> Option<Self> {
        let text = String::from_node(node, reading)?;
        Self::parse(&text)
            .map_err(|message| reading.error(node.span, message))
            .ok()
    }
}

fn find<'r>(fields: &'r Map, path: &str) -> Option<&'r Value> {
    if let Some(value) = fields.get(path) {
        return Some(value);
    }
    let (head, rest) = path.split_once('.')?;
    find(fields.get(head)?.as_object()?, rest)
}

fn set(fields: &mut Map, path: &str, value: Value) -> Result<(), String> {
    let parts = path.split_once('.').filter(|_| !fields.contains_key(path));
    let Some((head, rest)) = parts else {
        fields.insert(path.to_owned(), value);
        return Ok(());
    };
    let inner = fields
        .entry(head)
        .or_insert_with(|| Value::Object(Map::new()));
    match inner {
        Value::Object(inner) => set(inner, rest, value),
        _ => Err(head.to_owned()),
    }
}

fn remove(fields: &mut Map, path: &str) -> Option<Value> {
    if let Some(value) = fields.shift_remove(path) {
        return Some(value);
    }
    let (head, rest) = path.split_once('.')?;
    remove(fields.get_mut(head)?.as_object_mut()?, rest)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn path(text: &str) -> FieldPath {
        FieldPath::parse(text).unwrap()
    }

    #[test]
    fn a_path_leads_into_objects_and_a_name_with_dots_goes_first() {
        let record = json!({"a": {"b": {"c": 1}}, "a.b": {"c": 2}, "x": [1]});
        assert_eq!(path("a.b.c").find(&record), Some(&json!(1)));
        assert_eq!(path("a.b").find(&record), Some(&json!({"c": 2})));
        for absent in ["b", "a.c", "x.0", "x.y.z"] {
            assert_eq!(path(absent).find(&record), None, "{absent}");
        }
        assert_eq!(path(".").find(&json!(7)), Some(&json!(7)));
        for bad in ["", "a.", ".a", "a..b", ".."] {
            FieldPath::parse(bad).unwrap_err();
        }
    }

    #[test]
    fn setting_makes_the_objects_on_the_way_and_removing_keeps_the_order() {
        let Value::Object(mut record) = json!({"a": 1, "b": 2, "c": {"d": 3}}) else {
            panic!()
        };
        path("c.e.f").set(&mut record, json!(4)).unwrap();
        assert_eq!(path("a.x").set(&mut record, json!(5)), Err("a".to_owned()));
        assert_eq!(path("a").remove(&mut record), Some(json!(1)));
        assert_eq!(path("c.d").remove(&mut record), Some(json!(3)));
        assert_eq!(path("c.d").remove(&mut record), None);
        assert_eq!(
            Value::Object(record).to_string(),
            r#"{"b":2,"c":{"e":{"f":4}}}"#
        );
    }
}
