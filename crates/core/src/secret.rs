//! `Secret`: text that must never be seen.

mod kept;

use secrecy::{ExposeSecret, SecretString};

use crate::record::{Map, Value};

/// A text that came from `${env:}` or `${file:}`, or a key to a peer. It has no `Display` and no
/// `Serialize`, its `Debug` shows stars, and its memory is wiped when it is dropped.
#[derive(Clone, Debug)]
pub struct Secret {
    text: SecretString,
    /// How the flow file calls it.
    name: Option<Box<str>>,
}

impl Secret {
    /// Wraps a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self {
            text: SecretString::from(text.into()),
            name: None,
        }
    }

    /// Wraps a text that the flow file calls by a name: `env:NAME` or `file:PATH`.
    pub fn named(text: impl Into<String>, name: &str) -> Self {
        Self {
            name: Some(name.into()),
            ..Self::new(text)
        }
    }

    /// How the flow file calls it; none where it does not come from there.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// The text itself, for the one call to the peer that needs it.
    pub fn expose(&self) -> &str {
        self.text.expose_secret()
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.expose() == other.expose()
    }
}

/// Takes known secrets out of texts that people or files will see.
///
/// Values shorter than four characters are left alone: taking out every `1` would destroy the text
/// and hide nothing.
#[derive(Clone, Debug, Default)]
pub struct Scrubber {
    secrets: Vec<Secret>,
}

impl Scrubber {
    /// A scrubber of these secrets, longest first so that no rest of a longer one stays.
    pub fn new(mut secrets: Vec<Secret>) -> Self {
        secrets.retain(|secret| secret.expose().len() >= 4);
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.expose().len()));
        Self { secrets }
    }

    /// The text with every known secret replaced by `***`.
    pub fn scrub(&self, text: &str) -> String {
        let mut clean = text.to_owned();
        for secret in &self.secrets {
            if clean.contains(secret.expose()) {
                clean = clean.replace(secret.expose(), "***");
            }
        }
        clean
    }

    /// A JSON object with every known secret in its texts replaced, names of fields included.
    pub fn scrub_map(&self, map: &Map) -> Map {
        let entry = |(name, value): (&String, &Value)| (self.scrub(name), self.scrub_value(value));
        map.iter().map(entry).collect()
    }

    fn scrub_value(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.scrub(text)),
            Value::Array(values) => {
                Value::Array(values.iter().map(|value| self.scrub_value(value)).collect())
            }
            Value::Object(map) => Value::Object(self.scrub_map(map)),
            Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_no_secret() {
        assert!(!format!("{:?}", Secret::new("canary")).contains("canary"));
    }

    #[test]
    fn no_text_of_a_document_keeps_a_secret() {
        let scrubber = Scrubber::new(vec![Secret::new("canary")]);
        let document = serde_json::json!({"a": ["x canary", {"canary": 1}], "b": 2});
        let clean = scrubber.scrub_map(document.as_object().unwrap());
        let expected = serde_json::json!({"a": ["x ***", {"***": 1}], "b": 2});
        assert_eq!(Value::Object(clean), expected);
    }

    #[test]
    fn the_longer_secret_goes_first() {
        let scrubber = Scrubber::new(vec![Secret::new("abcd"), Secret::new("abcdefgh")]);
        assert_eq!(scrubber.scrub("x abcdefgh y abcd"), "x *** y ***");
    }
}
