//! What a stage costs that does nothing, as schedulers of tasks are measured.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::json;
use wiredflow_engine::functions::{Call, Functions};

use crate::feed::Feed;
use crate::{Options, Result, flows};

/// How many independent stages, and how many in a row.
const INDEPENDENT: usize = 1000;
const ROW: usize = 40;

/// Says `steps` and for a function on threads, then for a quick one, in milliseconds: UNRECORDED, from the first
/// delivery given to the last that is settled; RECORDED and ROW, from the first call until the flow has ended and its
/// state is closed; WHOLE, all of the third, from before it is opened.
pub(crate) fn run(options: &Options<'_>) -> Result {
    let folder = Path::new(options.text("--folder")?);
    let first: Arc<Mutex<Option<Instant>>> = Arc::default();
    let nothing = |first: &Arc<Mutex<Option<Instant>>>| {
        let called = Arc::clone(first);
        move |call: Call| {
            let mut first = called.lock().unwrap_or_else(PoisonError::into_inner);
            first.get_or_insert_with(Instant::now);
            Ok(call.data)
        }
    };
    let mut functions = Functions::default();
    functions.register_simple("nothing", nothing(&first));
    let on_threads = figures(folder, &functions, &first)?;
    let mut functions = Functions::default();
    functions.register_quick("nothing", nothing(&first));
    let quick = figures(folder, &functions, &first)?;
    let words: Vec<String> = [on_threads, quick]
        .iter()
        .flatten()
        .map(|time| (time.as_secs_f64() * 1e3).to_string())
        .collect();
    println!("steps {}", words.join(" "));
    Ok(())
}

fn figures(
    folder: &Path,
    functions: &Functions,
    first: &Mutex<Option<Instant>>,
) -> Result<[Duration; 4]> {
    let measure = |text: &str| -> Result<(Duration, Duration)> {
        let plan = flows::plan(text, folder, functions)?;
        *first.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let whole = flows::run(&plan)?;
        let ended = Instant::now();
        let first = *first.lock().unwrap_or_else(PoisonError::into_inner);
        Ok((ended - first.ok_or("nothing was called")?, whole))
    };

    let one = format!("pipelines:\n  p: {{once: true, delay: 0s, stages: [{STAGE}]}}\n");
    let mut plan = flows::plan(&one, folder, functions)?;
    let feed = Feed::new(INDEPENDENT, |id| vec![json!({"id": id})]);
    feed.feeds(&mut plan);
    flows::run(&plan)?;
    let unrecorded = feed.took()?;

    let mut text = "pipelines:\n".to_owned();
    for number in 0..INDEPENDENT {
        text.push_str(&format!(
            "  p{number}: {{once: true, delay: 0s, stages: [{STAGE}]}}\n"
        ));
    }
    let (recorded, _) = measure(&text)?;
    let stages = [STAGE; ROW].join(", ");
    let text = format!("pipelines:\n  p: {{once: true, delay: 0s, stages: [{stages}]}}\n");
    let (row, whole) = measure(&text)?;
    Ok([unrecorded, recorded, row, whole])
}

const STAGE: &str = "{core_logic: {rust: nothing}}";
