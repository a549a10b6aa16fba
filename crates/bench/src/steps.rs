//! What a stage costs that does nothing, as schedulers of tasks are measured.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;
use wiredflow_core::Result as Outcome;
use wiredflow_core::delivery::{Delivery, Payload, Settled, Token};
use wiredflow_core::stage::{AnySource, Source};
use wiredflow_engine::catalogue::OpenSource;
use wiredflow_engine::functions::Functions;
use wiredflow_engine::plan::TriggerPlan;

use crate::{Options, Result, flows};

/// How many independent stages, and how many in a row.
const INDEPENDENT: usize = 1000;
const ROW: usize = 40;

/// Says `steps UNRECORDED RECORDED ROW`, in milliseconds. Each from before the flow is opened until after
/// it is closed, so that nothing is left out.
pub(crate) fn run(options: &Options<'_>) -> Result {
    let folder = Path::new(options.text("--folder")?);
    let mut functions = Functions::default();
    functions.register_simple("nothing", |call| Ok(call.data));

    let text = "pipelines: {p: {once: true, stages: [core_logic: {rust: nothing}]}}\nlisten: off\n";
    let mut unrecorded = flows::plan(text, folder, &functions)?;
    let feed = Arc::new(Feed::default());
    let settled = Arc::clone(&feed);
    unrecorded.pipelines[0].trigger = TriggerPlan::Source {
        kind: "feed".to_owned(),
        open: OpenSource(Arc::new(move |_| {
            let source: Box<dyn AnySource> = Box::new(Fed(Arc::clone(&feed)));
            Box::pin(async move { Ok(source) })
        })),
    };
    unrecorded.pipelines[0].waits_for_others = false;
    let unrecorded = flows::run(&unrecorded)?;
    if settled.settled.load(Ordering::Acquire) != INDEPENDENT {
        return Err("not all was settled".into());
    }

    let mut text = "listen: off\npipelines:\n".to_owned();
    for number in 0..INDEPENDENT {
        text.push_str(&format!(
            "  p{number}: {{once: true, delay: 0s, stages: [core_logic: {{rust: nothing}}]}}\n"
        ));
    }
    let recorded = flows::run(&flows::plan(&text, folder, &functions)?)?;

    let stages = vec!["core_logic: {rust: nothing}"; ROW].join(", ");
    let text = format!("listen: off\npipelines: {{p: {{once: true, stages: [{stages}]}}}}\n");
    let row = flows::run(&flows::plan(&text, folder, &functions)?)?;
    let milliseconds = [unrecorded, recorded, row].map(|time| time.as_secs_f64() * 1e3);
    let [unrecorded, recorded, row] = milliseconds;
    println!("steps {unrecorded} {recorded} {row}");
    Ok(())
}

/// Gives so many deliveries, each of them a tick of its own, and ends when all are settled.
#[derive(Default)]
struct Feed {
    given: AtomicUsize,
    settled: AtomicUsize,
    changed: Notify,
}

struct Fed(Arc<Feed>);

impl Source for Fed {
    async fn next(&self, most: usize) -> Outcome<Vec<Delivery>> {
        loop {
            let changed = self.0.changed.notified();
            let given = self.0.given.load(Ordering::Acquire);
            let now = (INDEPENDENT - given).min(most);
            self.0.given.fetch_add(now, Ordering::AcqRel);
            if now > 0 {
                let delivery = |id: usize| Delivery {
                    token: Token {
                        epoch: 0,
                        id: id as u64,
                    },
                    payload: Payload::Values(vec![serde_json::json!({"id": id})]),
                    origin: None,
                };
                return Ok((given..given + now).map(delivery).collect());
            }
            if self.0.settled.load(Ordering::Acquire) == INDEPENDENT {
                return Ok(Vec::new());
            }
            changed.await;
        }
    }

    async fn settle(&self, settled: Vec<Settled>) -> Outcome<()> {
        self.0.settled.fetch_add(settled.len(), Ordering::AcqRel);
        self.0.changed.notify_waiters();
        Ok(())
    }

    async fn close(&self) {}
}
