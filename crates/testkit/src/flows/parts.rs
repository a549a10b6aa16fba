//! The parts of random flows: triggers, stages with their options, storages.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use wiredflow_core::Value;
use wiredflow_core::node::{Node, NodeKind};

use super::values::{document, duration, params, text};
use super::{FUNCTION, chosen, number};

/// The entries of a map, in order.
#[derive(Default)]
pub(super) struct Entries(Vec<(String, Node)>);

impl Entries {
    pub(super) fn put(&mut self, key: &str, value: impl Into<Node>) {
        self.0.push((key.to_owned(), value.into()));
    }

    pub(super) fn put_some(&mut self, key: &str, value: Option<impl Into<Node>>) {
        value.into_iter().for_each(|value| self.put(key, value));
    }

    pub(super) fn node(self) -> Node {
        Node::map(self.0)
    }
}

/// The keys of a trigger, and whether it is a source.
pub(super) fn trigger() -> impl Strategy<Value = (Vec<(&'static str, Node)>, bool)> {
    let crons = select(vec![
        "0 6 * * *",
        "*/15 6-18 * * MON-FRI",
        "30 0 2 1-7 * +MON",
        "0 0 L * *",
    ]);
    let zones = option::of(select(vec!["UTC", "Europe/Berlin", "America/New_York"]));
    let times = select(vec!["2026-03-01T06:00:00+01:00", "2099-12-31T23:59:59Z"]);
    let topics = prop_oneof![
        select(vec!["plant/+/temperature", "/demo/integers", "#"])
            .prop_map(|topic| ("topic", Node::text(topic))),
        vec("[a-z/]{1,9}", 1..3).prop_map(|topics| {
            let topics = topics
                .into_iter()
                .enumerate()
                .map(|(index, topic)| Node::text(format!("t{index}/{topic}")));
            ("topics", Node::new(NodeKind::List(topics.collect())))
        }),
    ];
    let mqtt = (
        topics,
        option::of(0..2_u8),
        option::of(1..9000_u16),
        login(),
    )
        .prop_map(|((key, topics), qos, expiry, login)| {
            let mut mqtt = Entries::default();
            mqtt.put("broker", "localhost:1883");
            mqtt.put(key, topics);
            mqtt.put_some("qos", qos.map(number));
            mqtt.put_some(
                "session_expiry",
                expiry.map(|seconds| format!("{seconds}s")),
            );
            login
                .into_iter()
                .for_each(|(key, value)| mqtt.put(key, value));
            Node::map([("mqtt", mqtt.node())])
        });
    let webhook =
        (1024..65535_u16, "[a-z]{0,6}", option::of(1..60_u8)).prop_map(|(port, path, within)| {
            let mut webhook = Entries::default();
            webhook.put("listen", format!("127.0.0.1:{port}"));
            webhook.put("path", format!("/{path}"));
            webhook.put_some("reply_within", within.map(|seconds| format!("{seconds}s")));
            Node::map([("webhook", webhook.node())])
        });
    prop_oneof![
        webhook.prop_map(|webhook| (vec![("source", webhook)], true)),
        duration().prop_map(|period| (vec![("every", Node::from(period))], false)),
        (crons, zones).prop_map(|(cron, zone)| {
            let zone = zone.map(|zone| ("time_zone", Node::text(zone)));
            (
                std::iter::once(("cron", Node::text(cron)))
                    .chain(zone)
                    .collect(),
                false,
            )
        }),
        times.prop_map(|time| (vec![("at", Node::text(time))], false)),
        Just((vec![("once", number(true))], false)),
        mqtt.prop_map(|mqtt| (vec![("source", mqtt)], true)),
    ]
}

fn login() -> impl Strategy<Value = Vec<(&'static str, String)>> {
    let secret = prop_oneof![
        "[a-z]{1,8}".prop_map(|name| format!("${{env:{name}:-none}}")),
        "[ -#%-~]{1,8}"
    ];
    option::of(secret).prop_map(|secret| match secret {
        Some(secret) => vec![("username", "wiredflow".to_owned()), ("password", secret)],
        None => Vec::new(),
    })
}

/// A storage: its kind, the kind's config, the options beside it.
#[derive(Clone, Debug)]
pub(super) struct StorageDraft {
    kind: &'static str,
    folder: Option<&'static str>,
    mapping: Option<&'static str>,
    labelled: bool,
    function: Option<Value>,
    key: bool,
}

pub(super) fn storage() -> impl Strategy<Value = StorageDraft> {
    let kinds = select(vec!["json", "jsonl", "csv", "sqlite"]);
    let mappings = option::of(select(vec!["extend", "update", "overwrite"]));
    let folders = option::of(select(vec!["data", "other/place"]));
    let flags = (any::<bool>(), option::of(params()), any::<bool>());
    (kinds, folders, mappings, flags).prop_map(
        |(kind, folder, mapping, (labelled, function, key))| StorageDraft {
            kind,
            folder,
            mapping,
            labelled,
            function,
            key: key && kind == "sqlite" && mapping != Some("update"),
        },
    )
}

impl StorageDraft {
    /// `number` keeps the tables of a database apart.
    pub(super) fn node(&self, number: usize) -> Node {
        let mut config = Entries::default();
        match (self.kind, self.folder) {
            ("sqlite", Some(folder)) => {
                config.put("path", format!("{folder}/rows.db"));
                config.put("table", format!("table {number}"));
            }
            ("sqlite", None) => {}
            (_, folder) => config.put("folder", folder.unwrap_or("data")),
        }
        let mut storage = Entries::default();
        storage.put(self.kind, config.node());
        storage.put_some("mapping", self.mapping);
        let mut steps = Vec::new();
        steps.extend(self.labelled.then(|| Node::text("add_datetime")));
        steps.extend(
            self.function
                .iter()
                .map(|params| function(Some(params.clone()))),
        );
        if !steps.is_empty() {
            storage.put("preprocess", Node::new(NodeKind::List(steps)));
        }
        storage.put_some("key", self.key.then_some("id"));
        storage.node()
    }
}

fn function(params: Option<Value>) -> Node {
    let mut function = Entries::default();
    function.put("rust", FUNCTION);
    function.put_some("params", params);
    function.node()
}

/// What a stage does; names of storages are chosen when all are known.
#[derive(Clone, Debug)]
enum Step {
    Ready(&'static str, Node),
    Store(StorageDraft),
    StoreNamed(Index),
    Load(Index, Option<u8>),
}

#[derive(Clone, Debug)]
pub(super) struct StageDraft {
    step: Step,
    options: Vec<(&'static str, Node)>,
}

pub(super) fn stage() -> impl Strategy<Value = StageDraft> {
    let with_function = (
        select(vec!["configuration", "core_logic", "store"]),
        option::of(params()),
    )
        .prop_map(|(kind, params)| Step::Ready(kind, function(params)));
    let step = prop_oneof![
        http().prop_map(|config| Step::Ready("http", config)),
        with_function,
        storage().prop_map(Step::Store),
        any::<Index>().prop_map(Step::StoreNamed),
        (any::<Index>(), option::of(1..200_u8)).prop_map(|(which, limit)| Step::Load(which, limit)),
        send().prop_map(|config| Step::Ready("send", config)),
        record_step().prop_map(|(kind, config)| Step::Ready(kind, config)),
    ];
    step.prop_map(|step| StageDraft {
        step,
        options: Vec::new(),
    })
}

/// A small step on records.
fn record_step() -> impl Strategy<Value = (&'static str, Node)> {
    let field = || "[a-z]{1,6}(\\.[a-z]{1,4})?";
    let filter = (field(), -1e6..1e6_f64).prop_map(|(field, limit)| {
        (
            "filter",
            Node::map([("field", Node::from(field)), ("above", number(limit))]),
        )
    });
    let set = ("[a-z]{1,6}", document())
        .prop_map(|(field, value)| ("set", Node::map([(field, Node::from(value))])));
    let rename = ("a[a-z]{0,5}", "b[a-z]{0,5}")
        .prop_map(|(from, to)| ("rename", Node::map([(from, Node::from(to))])));
    let drop = field().prop_map(|field| {
        let fields = Node::new(NodeKind::List(vec![Node::from(field)]));
        ("drop", Node::map([("fields", fields)]))
    });
    prop_oneof![filter, set, rename, drop]
}

fn url() -> impl Strategy<Value = String> {
    prop_oneof![
        (1..65535_u16, "[a-z0-9/]{0,8}")
            .prop_map(|(port, path)| format!("http://localhost:{port}/{path}")),
        Just("${env:NUMBERS_URL:-https://example.org/a?b=c}".to_owned()),
    ]
}

fn headers() -> impl Strategy<Value = Node> {
    let pairs = vec(("X-[A-Za-z-]{0,9}", "[!-#%-~]{1,12}"), 1..3);
    pairs.prop_map(|mut pairs| {
        pairs.sort_by_key(|(name, _)| name.to_lowercase());
        pairs.dedup_by_key(|(name, _)| name.to_lowercase());
        Node::map(
            pairs
                .into_iter()
                .map(|(name, value)| (name, Node::from(value))),
        )
    })
}

fn http() -> impl Strategy<Value = Node> {
    let body = option::of(prop_oneof![
        text().prop_map(|text| ("body", Node::from(text))),
        document().prop_map(|document| ("json", Node::from(document))),
    ]);
    let method = option::of(select(vec!["GET", "POST", "PUT", "patch"]));
    let query = option::of(vec(("[a-z]{1,5}", text()), 1..3));
    (url(), method, option::of(headers()), query, body).prop_map(
        |(url, method, headers, query, body)| {
            let mut config = Entries::default();
            config.put("url", url);
            config.put_some("method", method);
            config.put_some("headers", headers);
            config.put_some(
                "query",
                query.map(|mut pairs| {
                    pairs.sort();
                    pairs.dedup_by(|one, other| one.0 == other.0);
                    Node::map(
                        pairs
                            .into_iter()
                            .map(|(name, value)| (name, Node::from(value))),
                    )
                }),
            );
            body.into_iter()
                .for_each(|(key, value)| config.put(key, value));
            config.node()
        },
    )
}

fn send() -> impl Strategy<Value = Node> {
    let mqtt = ("[a-z/]{1,9}", option::of(0..2_u8), login()).prop_map(|(topic, qos, login)| {
        let mut mqtt = Entries::default();
        mqtt.put("broker", "localhost:1883");
        mqtt.put("topic", format!("to/{topic}"));
        mqtt.put_some("qos", qos.map(number));
        login
            .into_iter()
            .for_each(|(key, value)| mqtt.put(key, value));
        ("mqtt", mqtt.node())
    });
    let http = (
        select(vec!["http_post", "http_put"]),
        url(),
        option::of(headers()),
    )
        .prop_map(|(kind, url, headers)| {
            let mut config = Entries::default();
            config.put("url", url);
            config.put_some("headers", headers);
            (kind, config.node())
        });
    let custom = Just(("rust", Node::text(FUNCTION)));
    let field = option::of(prop_oneof!["[a-z]{1,8}", Just("sorted list".to_owned())]);
    (prop_oneof![mqtt, http, custom], field).prop_map(|((kind, config), field)| {
        let mut send = Entries::default();
        send.put(kind, config);
        send.put_some("field", field);
        send.node()
    })
}

/// The keys that any stage may have beside its kind; its name is given later.
pub(super) fn options() -> impl Strategy<Value = Vec<(&'static str, Node)>> {
    let attempts = prop_oneof![(1..9_u8).prop_map(number), Just(Node::text("forever"))];
    let retry = (
        option::of(attempts),
        option::of(duration()),
        option::of(duration()),
    )
        .prop_map(|(attempts, backoff, max)| {
            let mut retry = Entries::default();
            retry.put_some("attempts", attempts);
            retry.put_some("backoff", backoff);
            retry.put_some("max", max);
            ("retry", retry.node())
        });
    let batch = (1..500_u16, duration()).prop_map(|(max, within)| {
        (
            "batch",
            Node::map([("max", number(max)), ("within", Node::from(within))]),
        )
    });
    let key = prop_oneof![
        duration().prop_map(|limit| ("timeout", Node::from(limit))),
        retry,
        select(vec!["stop", "dead_letter", "skip"]).prop_map(|word| ("on_error", Node::text(word))),
        (1..9_u8).prop_map(|calls| ("parallel", number(calls))),
        any::<bool>().prop_map(|ordered| ("ordered", number(ordered))),
        batch,
        (0.001..1e5_f64)
            .prop_map(|limit| ("rate_limit", Node::map([("per_second", number(limit))]))),
        Just(("name", Node::text(""))),
        Just(("remote", Node::text("local"))),
    ];
    vec(key, 0..4).prop_map(|mut keys| {
        keys.sort_by_key(|(key, _)| *key);
        keys.dedup_by_key(|(key, _)| *key);
        keys
    })
}

impl StageDraft {
    pub(super) fn with_options(self, options: Vec<(&'static str, Node)>) -> Self {
        Self { options, ..self }
    }

    /// Whether it brings a storage along, where so many shared ones can be named.
    pub(super) fn is_inline_storage(&self, shared: usize) -> bool {
        matches!(self.step, Step::Store(_))
            || (shared == 0 && matches!(self.step, Step::StoreNamed(_)))
    }

    /// `pipeline` and `index` are the numbers of its pipeline and of the stage in it.
    pub(super) fn node(
        &self,
        (pipeline, index): (usize, usize),
        shared: &[String],
        loadable: &[String],
    ) -> Node {
        let (kind, config) = match &self.step {
            Step::Ready(kind, config) => (*kind, config.clone()),
            Step::Store(storage) => ("store", storage.node(100 * (pipeline + 1) + index)),
            Step::StoreNamed(which) => (
                "store",
                Node::text(chosen(which, shared).unwrap_or("jsonl")),
            ),
            Step::Load(which, limit) => {
                let name = chosen(which, loadable);
                match (name, limit) {
                    (None, _) => (
                        "http",
                        Node::map([("url", Node::text("http://localhost:8027"))]),
                    ),
                    (Some(name), None) => ("load", Node::text(name)),
                    (Some(name), Some(limit)) => (
                        "load",
                        Node::map([("storage", Node::text(name)), ("limit", number(*limit))]),
                    ),
                }
            }
        };
        let mut stage = Entries::default();
        stage.put(kind, config);
        for (key, value) in &self.options {
            match *key {
                "name" => stage.put("name", format!("stage_{index}-x")),
                key => stage.put(key, value.clone()),
            }
        }
        stage.node()
    }
}
