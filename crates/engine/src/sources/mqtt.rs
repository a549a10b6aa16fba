//! `source: {mqtt: …}`: each message of some topics is a delivery.

use std::time::Duration;

use wiredflow_core::delivery::{Delivery, Settled};
use wiredflow_core::node::Node;
use wiredflow_core::secret::Secret;
use wiredflow_core::stage::Source;
use wiredflow_core::{Error, Result, config};

use crate::catalogue::{CheckCx, SourceKind};
use crate::mqtt::Version;
use crate::mqtt::access::{Access, BrokerAddress, Qos, TopicFilter, span_of};
use crate::mqtt::subscriber::Subscription;
use crate::mqtt::tls::TlsChoice;
use crate::payload::{Format, Shaping, TopicField};
use crate::resources::Resources;

config! {
    /// Messages of an MQTT broker, as they come; one is acknowledged when every required sink has it.
    /// The broker keeps those that come while the flow is away or behind, up to a limit of its own
    /// (mosquitto: 1000, `max_queued_messages`), and drops what is more.
    pub(crate) struct MqttSourceConfig {
        /// The broker; the usual port is 1883, or 8883 with `tls`.
        broker: BrokerAddress,
        /// What to subscribe to; `+` stands for any one level, `#` for all that follow.
        topic: Option<TopicFilter>,
        /// The same, for several.
        topics: Vec<TopicFilter>,
        /// 1: what was not stored comes again, so nothing is lost, and after a fault some may come twice.
        /// 2: as 1, and only the end of the flow's process or of the broker by force brings one twice. 0: what is
        /// under way is lost when the flow ends.
        qos: Qos = "1",
        /// `5` or `3.1.1`; left out, 5, and 3.1.1 where the broker speaks no 5.
        version: Option<Version>,
        /// Who we are.
        username: Option<String>,
        /// The password.
        password: Option<Secret>,
        /// The session's name at the broker; made from flow and pipeline and kept when left out.
        client_id: Option<String>,
        /// `true`, or `{ca, cert, key}`: files in PEM; `{insecure: true}` takes any certificate, for a trial.
        tls: TlsChoice,
        /// How long the broker keeps messages while the flow is away (with MQTT 5).
        session_expiry: Duration = "24h",
        /// What payloads are: `json`, where an array gives many records; `text` and `binary` give
        /// records with one field, `value`: the text as it is, the bytes in base64.
        format: Format = "json",
        /// The field of each record that gets the topic of its message, over one of that name in the payload; a
        /// payload that is no map goes into the field `value` then.
        topic_field: Option<TopicField>,
    }
}

impl MqttSourceConfig {
    fn access(&self) -> Access {
        Access {
            broker: self.broker.clone(),
            version: self.version,
            username: self.username.clone(),
            password: self.password.clone(),
            client_id: self.client_id.clone(),
            tls: self.tls.clone(),
        }
    }

    fn filters(&self) -> Vec<String> {
        let all = self.topic.iter().chain(&self.topics);
        let mut filters: Vec<String> = all.map(|topic| topic.0.clone()).collect();
        filters.sort();
        filters.dedup();
        filters
    }
}

/// A subscription at a broker.
#[derive(Debug)]
pub(crate) struct MqttSource {
    subscription: Subscription,
    shaping: Option<Shaping>,
}

impl SourceKind for MqttSource {
    const NAME: &'static str = "mqtt";
    const EXAMPLE: &'static str = "mqtt: {broker: \"localhost:1883\", topic: plant/+/temperature}";
    type Config = MqttSourceConfig;

    fn check(config: &MqttSourceConfig, node: &Node, cx: &mut CheckCx<'_>) {
        if config.topic.is_none() && config.topics.is_empty() {
            let message = "`topic` is missing: what to subscribe to";
            cx.reading.error(node.span, message);
        }
        if config.session_expiry < Duration::from_secs(1) {
            let message = "`session_expiry` must be at least 1s: the broker holds what is not \
                           acknowledged for so long";
            cx.reading.error(span_of(node, "session_expiry"), message);
        }
        if config.qos == Qos::AtMostOnce {
            let message = "QoS 0 cannot be at-least-once: what is under way is lost when the flow or \
                           the connection ends";
            let help = "write `qos: 1` unless that does not matter";
            cx.reading
                .warning_with_help(span_of(node, "qos"), message, help);
        }
        config.access().check(node, cx);
    }

    async fn open(config: MqttSourceConfig, resources: &Resources) -> Result<Self> {
        let topics = config.filters();
        if topics.is_empty() {
            return Err(Error::config("a source needs a topic"));
        }
        let seconds = u32::try_from(config.session_expiry.as_secs()).unwrap_or(u32::MAX);
        let subscription =
            Subscription::open(&config.access(), topics, config.qos, seconds, resources).await?;
        Ok(Self {
            subscription,
            shaping: Shaping::of(config.format, config.topic_field),
        })
    }
}

impl Source for MqttSource {
    async fn next(&self, most: usize) -> Result<Vec<Delivery>> {
        let deliveries = self.subscription.next(most).await?;
        Ok(match &self.shaping {
            None => deliveries,
            Some(shaping) => deliveries
                .into_iter()
                .map(|delivery| shaping.shaped(delivery))
                .collect(),
        })
    }

    async fn settle(&self, settled: Vec<Settled>) -> Result<()> {
        self.subscription.settle(&settled);
        Ok(())
    }

    async fn close(&self) {
        self.subscription.close();
    }
}
