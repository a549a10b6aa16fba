//! Streams and consumers at the server: made when they are wanted, and compared with what was wanted.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::sync::OwnedMutexGuard;
use tokio::time::timeout;
use wiredflow_core::engine::{ANSWER_WITHIN, LEASE, QueueRules, Shelf};
use wiredflow_core::{Error, Result};

use crate::api::Refusal;
use crate::failure::{self, NO_STREAM, OTHER_STREAM, TOO_FEW};
use crate::link::Link;
use crate::names::{Bucket, Names};
use crate::version;

/// How long a stream remembers the ids of its messages.
pub(crate) const DEDUPE: Duration = Duration::from_secs(120);

/// How many messages are kept that were given too often, of all queues.
const MOST_SPENT: u64 = 100_000;

/// How many servers keep each message where there are as many.
const REPLICAS: usize = 3;

/// What is known to be at the server.
#[derive(Debug)]
pub(crate) struct Objects {
    pub(crate) link: Link,
    pub(crate) names: Names,
    /// How many replicas a stream is made with, as far as is known.
    replicas: AtomicUsize,
    /// Whether conditions on one subject do not hold against others that are put at the same time.
    pub(crate) is_hasty: bool,
    is_cluster: bool,
    known: Mutex<HashMap<String, Known>>,
    /// Held by who makes one, so that many who miss it ask for it once.
    making: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

/// A stream that was there in a turn of the connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Known {
    turn: u64,
    /// When it was made, in microseconds.
    pub(crate) made: u64,
    /// Those of a queue.
    pub(crate) rules: Option<QueueRules>,
}

/// A stream as the server tells of it.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) config: Map<String, Value>,
    pub(crate) made: u64,
    pub(crate) messages: u64,
    /// The number of the newest message.
    pub(crate) last: u64,
}

impl Objects {
    pub(crate) fn new(link: Link, names: Names) -> Self {
        // A server without a cluster says so.
        let info = link.client.server_info();
        let alone = info.cluster.is_none();
        Self {
            is_cluster: !alone,
            is_hasty: !alone && version::is_hasty(&info.version),
            link,
            names,
            replicas: AtomicUsize::new(if alone { 1 } else { REPLICAS }),
            known: Mutex::default(),
            making: Mutex::default(),
        }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A stream that was seen since the connection was made.
    pub(crate) fn seen(&self, stream: &str) -> Option<Known> {
        let turn = self.link.turn();
        let known = self.known().get(stream).copied();
        known.filter(|known| known.turn == turn)
    }

    pub(crate) fn note(
        &self,
        stream: &str,
        turn: u64,
        made: u64,
        rules: Option<QueueRules>,
    ) -> Known {
        let known = Known { turn, made, rules };
        self.known().insert(stream.to_owned(), known);
        known
    }

    /// The rules that a queue had when it was last seen, in whatever turn.
    pub(crate) fn rules_of(&self, stream: &str) -> Option<QueueRules> {
        self.known().get(stream).and_then(|known| known.rules)
    }

    /// The stream is not there, or not as it was: it is looked for anew. Its rules are remembered.
    pub(crate) fn doubt(&self, stream: &str) {
        if let Some(known) = self.known().get_mut(stream) {
            known.turn = 0;
        }
    }

    /// Nobody wants it any more.
    pub(crate) fn forget(&self, stream: &str) {
        self.known().remove(stream);
        let mut making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        making.remove(stream);
    }

    /// Waits until nobody else makes this stream.
    pub(crate) async fn alone(&self, stream: &str) -> Result<OwnedMutexGuard<()>> {
        let own = {
            let mut making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(making.entry(stream.to_owned()).or_default())
        };
        let waited = timeout(ANSWER_WITHIN, own.lock_owned()).await;
        waited.map_err(|_| Error::remote(format!("no answer within {} s", ANSWER_WITHIN.as_secs())))
    }

    /// The stream of a bucket, made where it is not there.
    pub(crate) async fn bucket(&self, bucket: Bucket) -> Result<(String, Known)> {
        let name = self.names.bucket(bucket);
        if let Some(known) = self.seen(&name) {
            return Ok((name, known));
        }
        let mut wanted = json!({
            "name": name,
            "subjects": [self.names.entries(bucket, None)?],
            "max_msgs_per_subject": 1,
            "allow_rollup_hdrs": true,
        });
        // One time for all entries: a server removes by itself what was not put again within it.
        if bucket != Bucket::Shelf(Shelf::Kept) {
            wanted["max_age"] = nanos(LEASE).into();
            wanted["duplicate_window"] = nanos(LEASE).into();
        }
        let known = self.made(&name, wanted).await?;
        Ok((name, known))
    }

    /// The stream of blobs.
    pub(crate) async fn blobs(&self) -> Result<(String, Known)> {
        let (name, subjects) = self.names.blobs();
        let wanted = json!({ "name": name, "subjects": [subjects], "max_msgs_per_subject": 1 });
        let known = self.made(&name, wanted).await?;
        Ok((name, known))
    }

    /// The stream of what was given too often.
    pub(crate) async fn spent(&self) -> Result<(String, Known)> {
        let (name, subjects) = self.names.spent();
        let wanted = json!({ "name": name, "subjects": [subjects], "max_msgs": MOST_SPENT });
        let known = self.made(&name, wanted).await?;
        Ok((name, known))
    }

    async fn made(&self, name: &str, wanted: Value) -> Result<Known> {
        if let Some(known) = self.seen(name) {
            return Ok(known);
        }
        let _alone = self.alone(name).await?;
        if let Some(known) = self.seen(name) {
            return Ok(known);
        }
        let turn = self.link.turn();
        let told = self.stream(wanted).await?;
        Ok(self.note(name, turn, told.made, None))
    }

    /// Has a stream be there with these settings, beside the ones of all; others that it has are left alone.
    pub(crate) async fn stream(&self, mut wanted: Value) -> Result<Told> {
        wanted["storage"] = "file".into();
        wanted["discard"] = "new".into();
        let name = wanted["name"].as_str().unwrap_or_default().to_owned();
        for _ in 0..5 {
            let Some(found) = self.look(&name).await? else {
                match self.create(&name, &mut wanted).await? {
                    Ok(told) if !self.is_cluster => return agreed(&wanted, told),
                    // Somebody else may be making it as well, and old clusters take his moment then.
                    Ok(_) => {
                        self.link.moment().await;
                        continue;
                    }
                    // Somebody else was faster.
                    Err(refusal) if refusal.code == OTHER_STREAM => continue,
                    Err(refusal) => return Err(failure::refused(&refusal)),
                }
            };
            if differing(&wanted, &found.config).is_none() && self.has_replicas(&found.config) {
                return Ok(found);
            }
            if let Some(told) = self.change(&name, &wanted, &found).await? {
                return agreed(&wanted, told);
            }
        }
        Err(Error::remote(format!(
            "the stream `{name}` is made and removed by others all the time"
        )))
    }

    /// What the server tells of a stream; none where there is none.
    pub(crate) async fn look(&self, name: &str) -> Result<Option<Told>> {
        match self
            .link
            .call(&format!("STREAM.INFO.{name}"), &Value::Null)
            .await?
        {
            Ok(said) => told(&said).map(Some),
            Err(refusal) if refusal.code == NO_STREAM => Ok(None),
            Err(refusal) => Err(failure::refused(&refusal)),
        }
    }

    async fn create(&self, name: &str, wanted: &mut Value) -> Result<Result<Told, Refusal>> {
        let replicas = self.replicas.load(Ordering::Relaxed);
        wanted["num_replicas"] = replicas.into();
        let verb = format!("STREAM.CREATE.{name}");
        let mut said = self.link.call(&verb, wanted).await?;
        if let Err(refusal) = &said
            && replicas > 1
            && TOO_FEW.contains(&refusal.code)
        {
            // It gets the others when it is looked at and they are there.
            wanted["num_replicas"] = 1.into();
            said = self.link.call(&verb, wanted).await?;
        }
        Ok(match said {
            Ok(said) => Ok(told(&said)?),
            Err(refusal) => Err(refusal),
        })
    }

    /// Changes a stream; none where it has gone meanwhile.
    async fn change(&self, name: &str, wanted: &Value, found: &Told) -> Result<Option<Told>> {
        let mut config = found.config.clone();
        if let Value::Object(wanted) = wanted {
            config.extend(wanted.clone());
        }
        let had = replicas_of(&found.config);
        let verb = format!("STREAM.UPDATE.{name}");
        for replicas in [had.max(self.replicas.load(Ordering::Relaxed)), had] {
            config.insert("num_replicas".to_owned(), replicas.into());
            match self
                .link
                .call(&verb, &Value::Object(config.clone()))
                .await?
            {
                Ok(said) => return told(&said).map(Some),
                Err(refusal) if refusal.code == NO_STREAM => return Ok(None),
                // The servers for it are not there now: it stays as it was.
                Err(_) if replicas > had => {}
                Err(refusal) => {
                    let error = failure::refused(&refusal);
                    return Err(
                        error.context(format_args!("the stream `{name}` has other settings"))
                    );
                }
            }
        }
        Ok(None)
    }

    fn has_replicas(&self, config: &Map<String, Value>) -> bool {
        replicas_of(config) >= self.replicas.load(Ordering::Relaxed)
    }
}

/// How many servers keep each message of a stream.
pub(crate) fn replicas_of(config: &Map<String, Value>) -> usize {
    let replicas = config.get("num_replicas").and_then(Value::as_u64);
    replicas.map_or(1, |replicas| usize::try_from(replicas).unwrap_or(1))
}

pub(crate) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn told(said: &Value) -> Result<Told> {
    let odd = || Error::remote("its JetStream tells of a stream what cannot be read");
    let made = said["created"]
        .as_str()
        .and_then(|text| text.parse::<jiff::Timestamp>().ok());
    let made = made.and_then(|time| u64::try_from(time.as_microsecond()).ok());
    Ok(Told {
        config: said["config"].as_object().cloned().ok_or_else(odd)?,
        made: made.ok_or_else(odd)?,
        messages: said["state"]["messages"].as_u64().unwrap_or_default(),
        last: said["state"]["last_seq"].as_u64().unwrap_or_default(),
    })
}

/// The first setting that is not as it was wanted. How many replicas there are is another matter.
pub(crate) fn differing(wanted: &Value, found: &Map<String, Value>) -> Option<String> {
    let wanted = wanted.as_object()?;
    let differs = |(key, value): &(&String, &Value)| {
        *key != "num_replicas" && found.get(*key).unwrap_or(&Value::Null) != *value
    };
    wanted.iter().find(differs).map(|(key, _)| key.clone())
}

/// The stream, where it is as it was wanted.
fn agreed(wanted: &Value, told: Told) -> Result<Told> {
    match differing(wanted, &told.config) {
        None => Ok(told),
        Some(key) => Err(dropped(&key)),
    }
}

/// What is said where a server takes a setting without a word and does not keep it.
pub(crate) fn dropped(key: &str) -> Error {
    Error::config(format!(
        "it leaves the setting `{key}` out without a word: upgrade nats-server to 2.10.23 or newer"
    ))
}

#[cfg(test)]
mod tests {
    use wiredflow_core::ErrorKind;

    use super::*;

    fn told_of(config: &Value) -> Told {
        let said = json!({
            "config": config,
            "created": "2026-11-24T04:16:02.694433599Z",
            "state": { "messages": 3 },
        });
        told(&said).unwrap()
    }

    #[test]
    fn a_setting_that_a_server_drops_is_found_and_named() {
        let wanted = json!({ "name": "s", "max_age": 5, "num_replicas": 3 });
        let kept = json!({ "name": "s", "max_age": 5, "num_replicas": 1, "more": true });
        assert_eq!(
            agreed(&wanted, told_of(&kept)).unwrap().made,
            1_795_493_762_694_433
        );
        for config in [json!({ "name": "s" }), json!({ "name": "s", "max_age": 0 })] {
            let error = agreed(&wanted, told_of(&config)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config);
            assert!(error.message().contains("`max_age`"), "{error}");
            assert!(error.message().contains("upgrade"), "{error}");
        }
    }
}
