//! A source inside this process: so many deliveries as fast as they are taken.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::Notify;
use wiredflow_core::Result as Outcome;
use wiredflow_core::delivery::{Delivery, Payload, Settled, Token};
use wiredflow_core::stage::{AnySource, Source};
use wiredflow_engine::catalogue::OpenSource;
use wiredflow_engine::plan::{Plan, TriggerPlan};

use crate::Result;

/// Gives deliveries, and ends when all are settled.
pub(crate) struct Feed {
    number: usize,
    records: Box<dyn Fn(usize) -> Vec<Value> + Send + Sync>,
    given: AtomicUsize,
    settled: AtomicUsize,
    changed: Notify,
    times: Mutex<Times>,
}

/// When what happened.
#[derive(Clone, Copy, Default)]
struct Times {
    given: Option<Instant>,
    /// The first settlement, and of how many.
    settled: Option<(Instant, usize)>,
    last: Option<Instant>,
}

impl Feed {
    /// `number` deliveries with the records that the function makes of their number.
    pub(crate) fn new(
        number: usize,
        records: impl Fn(usize) -> Vec<Value> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            number,
            records: Box::new(records),
            given: AtomicUsize::new(0),
            settled: AtomicUsize::new(0),
            changed: Notify::new(),
            times: Mutex::default(),
        })
    }

    /// Takes the place of the trigger of a plan's first pipeline.
    pub(crate) fn feeds(self: &Arc<Self>, plan: &mut Plan) {
        let feed = Arc::clone(self);
        let open = OpenSource(Arc::new(move |_| {
            let source: Box<dyn AnySource> = Box::new(Fed(Arc::clone(&feed)));
            Box::pin(async move { Ok(source) })
        }));
        if let Some(pipeline) = plan.pipelines.first_mut() {
            pipeline.trigger = TriggerPlan::Source {
                kind: "feed".to_owned(),
                open,
            };
            pipeline.waits_for_others = false;
        }
    }

    /// The time from the first delivery given to the last that was settled.
    pub(crate) fn took(&self) -> Result<Duration> {
        match self.times() {
            Times {
                given: Some(given),
                last: Some(last),
                ..
            } => Ok(last - given),
            _ => Err("nothing was settled".into()),
        }
    }

    /// Deliveries for each second from the first that was settled to the last.
    pub(crate) fn per_second(&self) -> Result<f64> {
        match self.times() {
            Times {
                settled: Some((first, count)),
                last: Some(last),
                ..
            } => Ok((self.number - count) as f64 / (last - first).as_secs_f64()),
            _ => Err("nothing was settled".into()),
        }
    }

    fn times(&self) -> Times {
        *self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Fed(Arc<Feed>);

impl Source for Fed {
    async fn next(&self, most: usize) -> Outcome<Vec<Delivery>> {
        let feed = &self.0;
        loop {
            let changed = feed.changed.notified();
            let given = feed.given.load(Ordering::Acquire);
            let now = (feed.number - given).min(most);
            feed.given.fetch_add(now, Ordering::AcqRel);
            if now > 0 {
                let mut times = feed.times.lock().unwrap_or_else(PoisonError::into_inner);
                times.given.get_or_insert_with(Instant::now);
                let delivery = |id: usize| Delivery {
                    token: Token {
                        epoch: 0,
                        id: id as u64,
                    },
                    identity: None,
                    payload: Payload::Values((feed.records)(id)),
                    origin: None,
                };
                return Ok((given..given + now).map(delivery).collect());
            }
            if feed.settled.load(Ordering::Acquire) == feed.number {
                return Ok(Vec::new());
            }
            changed.await;
        }
    }

    async fn settle(&self, settled: Vec<Settled>) -> Outcome<()> {
        let feed = &self.0;
        let good = settled
            .iter()
            .filter(|one| one.outcome.is_acknowledged())
            .count();
        let now = Instant::now();
        let mut times = feed.times.lock().unwrap_or_else(PoisonError::into_inner);
        times.settled.get_or_insert((now, good));
        times.last = Some(now);
        drop(times);
        feed.settled.fetch_add(good, Ordering::AcqRel);
        feed.changed.notify_waiters();
        Ok(())
    }

    async fn close(&self) {}
}
