//! Params that are kept without their secrets, and get them back when they are needed again.

use serde_json::json;

use super::Scrubber;
use crate::record::{Map, Value};

/// What stands for a secret in a text that is kept.
const STARS: &str = "***";

/// A part of a text.
enum Part<'a> {
    Text(&'a str),
    /// A secret, by its name in the flow file; none where it has no name.
    Secret(Option<&'a str>),
}

impl Scrubber {
    /// A JSON object without its secrets, as [`Scrubber::scrub_map`] gives it, and the places where they stood, by
    /// their names in the flow file: for [`Scrubber::restore`]. No places: it held none.
    pub fn keep(&self, map: &Map) -> (Map, Option<Value>) {
        let mut places = Vec::new();
        let kept = self.keep_map(map, &mut Vec::new(), &mut places);
        (kept, (!places.is_empty()).then_some(Value::Array(places)))
    }

    /// What was kept, with the secrets as they are now in the places that [`Scrubber::keep`] has noted.
    ///
    /// # Errors
    /// Why a place cannot be filled, in words that follow "its params ".
    pub fn restore(&self, kept: &Map, places: &Value) -> Result<Map, String> {
        let mut whole = Value::Object(kept.clone());
        for place in places.as_array().into_iter().flatten() {
            let Some(parts) = place["text"].as_array() else {
                return Err("held a secret in the name of a field, which is not kept".to_owned());
            };
            let mut text = String::new();
            for part in parts {
                match (part.as_str(), part["secret"].as_str()) {
                    (Some(part), _) => text.push_str(part),
                    (None, Some(name)) => text.push_str(self.named(name).ok_or_else(|| {
                        format!(
                            "held the secret `${{{name}}}`, which is not in the flow file any more"
                        )
                    })?),
                    (None, None) => return Err("held a secret that is not kept".to_owned()),
                }
            }
            let mut steps = place["at"].as_array().into_iter().flatten();
            let found = steps.try_fold(&mut whole, |value, step| match (value, step) {
                (Value::Object(map), Value::String(name)) => map.get_mut(name),
                (Value::Array(values), Value::Number(place)) => {
                    values.get_mut(usize::try_from(place.as_u64()?).ok()?)
                }
                _ => None,
            });
            *found.ok_or("held a secret in a place that is gone")? = Value::String(text);
        }
        match whole {
            Value::Object(map) => Ok(map),
            _ => Err("are no object".to_owned()),
        }
    }

    fn named(&self, name: &str) -> Option<&str> {
        let found = self
            .secrets
            .iter()
            .find(|secret| secret.name() == Some(name));
        found.map(super::Secret::expose)
    }

    fn keep_map(&self, map: &Map, at: &mut Vec<Value>, places: &mut Vec<Value>) -> Map {
        let mut kept = Map::new();
        for (name, value) in map {
            let clean = self.scrub(name);
            at.push(Value::String(clean.clone()));
            if clean != *name {
                places.push(json!({ "at": at }));
            }
            let value = self.keep_value(value, at, places);
            at.pop();
            kept.insert(clean, value);
        }
        kept
    }

    fn keep_value(&self, value: &Value, at: &mut Vec<Value>, places: &mut Vec<Value>) -> Value {
        match value {
            Value::String(text) => {
                let parts = self.parts(text);
                if parts.iter().all(|part| matches!(part, Part::Text(_))) {
                    return value.clone();
                }
                let told = |part: &Part<'_>| match part {
                    Part::Text(text) => json!(text),
                    Part::Secret(name) => json!({ "secret": name }),
                };
                let told: Vec<Value> = parts.iter().map(told).collect();
                places.push(json!({ "at": at, "text": told }));
                let shown = parts.iter().map(|part| match part {
                    Part::Text(text) => text,
                    Part::Secret(_) => STARS,
                });
                Value::String(shown.collect())
            }
            Value::Array(values) => {
                let each = |(place, value): (usize, &Value)| {
                    at.push(Value::from(place));
                    let kept = self.keep_value(value, at, places);
                    at.pop();
                    kept
                };
                Value::Array(values.iter().enumerate().map(each).collect())
            }
            Value::Object(map) => Value::Object(self.keep_map(map, at, places)),
            Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
        }
    }

    /// A text taken apart at its secrets, the longest of which go first.
    fn parts<'a>(&'a self, text: &'a str) -> Vec<Part<'a>> {
        let mut parts = vec![Part::Text(text)];
        for secret in &self.secrets {
            if !text.contains(secret.expose()) {
                continue;
            }
            parts = parts
                .into_iter()
                .flat_map(|part| match part {
                    Part::Text(text) => {
                        let mut split = Vec::new();
                        for (number, text) in text.split(secret.expose()).enumerate() {
                            if number > 0 {
                                split.push(Part::Secret(secret.name()));
                            }
                            if !text.is_empty() {
                                split.push(Part::Text(text));
                            }
                        }
                        split
                    }
                    secret @ Part::Secret(_) => vec![secret],
                })
                .collect();
        }
        parts
    }
}

#[cfg(test)]
mod tests {
    use super::super::Secret;
    use super::*;

    fn scrubber(key: &str) -> Scrubber {
        Scrubber::new(vec![
            Secret::named(key, "env:KEY"),
            Secret::named("canary-longer", "file:k"),
            Secret::new("nameless"),
        ])
    }

    #[track_caller]
    fn check(params: &Value, expected: Result<Value, &str>) {
        let params = params.as_object().unwrap();
        let (kept, places) = scrubber("canary").keep(params);
        let text = format!("{}{places:?}", Value::Object(kept.clone()));
        assert!(
            !text.contains("canary") && !text.contains("nameless"),
            "{text}"
        );
        assert_eq!(kept, scrubber("canary").scrub_map(params));
        let places = places.unwrap_or_else(|| json!([]));
        match (scrubber("tomorrow").restore(&kept, &places), expected) {
            (Ok(restored), Ok(expected)) => assert_eq!(Value::Object(restored), expected),
            (Err(why), Err(part)) => assert!(why.contains(part), "{why}"),
            (restored, expected) => panic!("{restored:?} is not {expected:?}"),
        }
    }

    #[test]
    fn params_get_the_secrets_of_today_back_and_nothing_else() {
        let literal = json!({"a": "${env:KEY}", "b": ["***", 1], "c": {"d": null}});
        check(&literal, Ok(literal.clone()));
        check(
            &json!({"h": {"key": "Bearer canary!"}, "l": ["canarycanary", "canary-longer"], "n": 3}),
            Ok(
                json!({"h": {"key": "Bearer tomorrow!"}, "l": ["tomorrowtomorrow", "canary-longer"], "n": 3}),
            ),
        );
        check(&json!({"a": "nameless"}), Err("a secret that is not kept"));
        check(&json!({"x canary": 1}), Err("in the name of a field"));
    }

    #[test]
    fn a_secret_that_the_file_no_longer_names_is_named() {
        let (kept, places) = scrubber("canary").keep(json!({"a": "canary"}).as_object().unwrap());
        let why = Scrubber::default().restore(&kept, &places.unwrap());
        assert_eq!(
            why,
            Err("held the secret `${env:KEY}`, which is not in the flow file any more".to_owned())
        );
    }
}
