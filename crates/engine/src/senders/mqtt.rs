//! `send: {mqtt: …}`: publishes to one topic.

use std::sync::Arc;

use wiredflow_core::node::Node;
use wiredflow_core::secret::Secret;
use wiredflow_core::stage::Cx;
use wiredflow_core::storage::CommitReceipt;
use wiredflow_core::{Result, config};

use crate::catalogue::{CheckCx, SenderKind};
use crate::mqtt::Version;
use crate::mqtt::access::{Access, BrokerAddress, Qos, TopicName};
use crate::mqtt::publisher::{Letter, Publishing};
use crate::mqtt::tls::TlsChoice;
use crate::payload::Format;
use crate::resources::Resources;
use crate::senders::{Message, Sender};

config! {
    /// Publishes each record, or one field of it, to a topic of an MQTT broker. At QoS 1 and 2 a record counts
    /// as sent when the broker has confirmed it. With MQTT 5 the user property `msg-id` is the same when a record is
    /// sent again, also after a crash.
    pub(crate) struct MqttSenderConfig {
        /// The broker; the usual port is 1883, or 8883 with `tls`.
        broker: BrokerAddress,
        /// Where to publish.
        topic: TopicName,
        /// 1: the broker confirms each message. 2: it does so in two steps, and can hand it on at QoS 2; after a lost
        /// connection what was not confirmed is sent again, so it may arrive twice, at 1 and at 2. 0: it is
        /// written, and that is all that is known.
        qos: Qos = "1",
        /// `5` or `3.1.1`; left out, 5, and 3.1.1 where the broker speaks no 5.
        version: Option<Version>,
        /// Who we are.
        username: Option<String>,
        /// The password.
        password: Option<Secret>,
        /// Our name at the broker; made from flow, pipeline and stage and kept when left out.
        client_id: Option<String>,
        /// `true`, or `{ca, cert, key}`: files in PEM; `{insecure: true}` takes any certificate, for a trial.
        tls: TlsChoice,
        /// What is sent: `json` (a bare text where one field is sent that is one); `text`: the text of `field` as it is,
        /// a number or truth in its letters; `binary`: the bytes that the text of `field` stands for in base64.
        format: Format = "json",
    }
}

impl MqttSenderConfig {
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
}

/// A connection to publish by.
#[derive(Debug)]
pub(crate) struct MqttSender {
    publishing: Publishing,
    sink: Arc<str>,
    format: Format,
}

impl SenderKind for MqttSender {
    const NAME: &'static str = "mqtt";
    const EXAMPLE: &'static str =
        "send: {mqtt: {broker: \"localhost:1883\", topic: plant/alarm}, field: text}";
    type Config = MqttSenderConfig;

    fn check(config: &MqttSenderConfig, node: &Node, cx: &mut CheckCx<'_>) {
        config.access().check(node, cx);
    }

    async fn open(config: MqttSenderConfig, resources: &Resources) -> Result<Self> {
        let topic = &config.topic.0;
        let publishing = Publishing::open(&config.access(), topic, config.qos, resources).await?;
        Ok(Self {
            publishing,
            format: config.format,
            sink: Arc::clone(&resources.stage),
        })
    }
}

impl Sender for MqttSender {
    async fn send(&self, messages: &[Message], cx: &Cx) -> Result<CommitReceipt> {
        let key = |record: usize| Some(Arc::clone(cx.keys.as_ref()?.get(record)?));
        let letter = |message: &Message| {
            Ok(Letter {
                key: key(message.record),
                record: message.record,
                body: self.format.body(message)?,
            })
        };
        let letters: Result<Vec<Letter>> = messages.iter().map(letter).collect();
        self.publishing.publish(letters?).await?;
        Ok(CommitReceipt::issue(Arc::clone(&self.sink), messages.len()))
    }
}
