//! Components by their names: requests, storages, brokers, functions.

use wiredflow_core::Value;
use wiredflow_core::node::{Node, NodeKind};

/// A component with its config, the keys that stand beside it, and the stage's own options.
#[derive(Clone, Debug)]
pub struct Component {
    pub(super) kind: String,
    pub(super) config: Node,
    pub(super) beside: Vec<(String, Node)>,
    pub(super) options: Vec<(String, Node)>,
}

impl Component {
    pub(super) fn of(kind: &str, config: Node) -> Self {
        Self {
            kind: kind.to_owned(),
            config,
            beside: Vec::new(),
            options: Vec::new(),
        }
    }

    /// Sets a key of the component itself: `headers`, `qos`, `max_bytes` …
    #[must_use]
    pub fn set(mut self, key: &str, value: impl Into<Node>) -> Self {
        self.config.set(key, value.into());
        self
    }

    /// Sets a key that stands beside it: `mapping`, `key`, `params`, `processes` …
    #[must_use]
    pub fn beside(mut self, key: &str, value: impl Into<Node>) -> Self {
        self.beside.push((key.to_owned(), value.into()));
        self
    }

    /// Sets an option of the stage: `name`, `timeout`, `retry`, `on_error`, `parallel` …
    #[must_use]
    pub fn option(mut self, key: &str, value: impl Into<Node>) -> Self {
        self.options.push((key.to_owned(), value.into()));
        self
    }

    /// Adds a header to a request.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        let mut headers = self
            .config
            .entry("headers")
            .map_or_else(Node::empty_map, |entry| entry.value.clone());
        headers.set(name, Node::text(value));
        self.config.set("headers", headers);
        self
    }

    /// What is done to each record before it is saved: `"add_datetime"`, or [`python`] or [`rust`]. Each call
    /// adds a step.
    #[must_use]
    pub fn preprocess(mut self, step: impl Into<Self>) -> Self {
        let step = step.into().with_options();
        for (key, value) in &mut self.beside {
            if let ("preprocess", NodeKind::List(steps)) = (key.as_str(), &mut value.kind) {
                steps.push(step);
                return self;
            }
        }
        self.beside("preprocess", Node::new(NodeKind::List(vec![step])))
    }

    /// How rows join those that are stored: `extend`, `update`, `overwrite`.
    #[must_use]
    pub fn mapping(self, mapping: &str) -> Self {
        self.beside("mapping", mapping)
    }

    /// Only this field's value is sent.
    #[must_use]
    pub fn field(self, field: &str) -> Self {
        self.beside("field", field)
    }

    /// Arguments for a function, by name.
    #[must_use]
    pub fn params(self, params: Value) -> Self {
        self.beside("params", params)
    }

    pub(super) fn node(&self) -> Node {
        Node::map([(self.kind.as_str(), self.config.clone())])
    }

    /// As it stands in a stage: `{kind: config, key: value …}`, or the bare word.
    pub(super) fn with_options(self) -> Node {
        if self.kind.is_empty() {
            return self.config;
        }
        let mut node = self.node();
        for (key, value) in self.beside {
            node.set(&key, value);
        }
        node
    }

    pub(super) fn word(&self) -> String {
        self.config.as_text().unwrap_or_default().to_owned()
    }
}

/// A bare word: an address, or the name of a shared storage.
impl From<&str> for Component {
    fn from(word: &str) -> Self {
        Self::of("", Node::text(word))
    }
}

/// A component by its kind and config, as the file has them: whatever has no function of its own here.
///
/// It stands where a component of its sort can: `source(component("webhook", …))`, `store(component("postgres", …))`,
/// `core_logic(component("sql", Value::from("select …")))`, `step(component("rename", …))`.
pub fn component(kind: &str, config: impl Into<Node>) -> Component {
    Component::of(kind, config.into())
}

/// A request to an HTTP server.
pub fn http(url: &str) -> Component {
    Component::of("http", Node::map([("url", Node::text(url))]))
}

/// A JSON array in a folder.
pub fn json(folder: &str) -> Component {
    Component::of("json", Node::map([("folder", Node::text(folder))]))
}

/// JSON lines in a folder.
pub fn jsonl(folder: &str) -> Component {
    Component::of("jsonl", Node::map([("folder", Node::text(folder))]))
}

/// A CSV file in a folder.
pub fn csv(folder: &str) -> Component {
    Component::of("csv", Node::map([("folder", Node::text(folder))]))
}

/// A table of an SQLite file: by default the pipeline's, in `data/<flow>.db`.
pub fn sqlite() -> Component {
    Component::of("sqlite", Node::empty_map())
}

/// A topic of an MQTT broker, as source or as receiver.
pub fn mqtt(broker: &str, topic: &str) -> Component {
    Component::of(
        "mqtt",
        Node::map([("broker", Node::text(broker)), ("topic", Node::text(topic))]),
    )
}

/// Several topics of an MQTT broker, as source.
pub fn mqtt_topics<'t>(broker: &str, topics: impl IntoIterator<Item = &'t str>) -> Component {
    let topics = topics.into_iter().map(Node::text).collect();
    Component::of(
        "mqtt",
        Node::map([
            ("broker", Node::text(broker)),
            ("topics", Node::new(NodeKind::List(topics))),
        ]),
    )
}

/// The records of a storage; `set` adds `limit` and other keys.
pub fn load(storage: &str) -> Component {
    Component::of("load", Node::map([("storage", Node::text(storage))]))
}

/// A server that takes records by POST.
pub fn http_post(url: &str) -> Component {
    Component::of("http_post", Node::map([("url", Node::text(url))]))
}

/// A server that takes records by PUT.
pub fn http_put(url: &str) -> Component {
    Component::of("http_put", Node::map([("url", Node::text(url))]))
}

/// A Python function: `file.py:name`.
pub fn python(source: &str) -> Component {
    Component::of("python", Node::text(source))
}

/// A Rust function that is linked in with [`Flow::function`](super::Flow::function).
pub fn rust(name: &str) -> Component {
    Component::of("rust", Node::text(name))
}
