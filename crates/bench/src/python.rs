//! A stage in Python that does nothing, and the bare pipe to Python that it is held to.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::{Value, json};
use wiredflow_engine::functions::Functions;

use crate::feed::Feed;
use crate::{Options, Result, flows};

/// What a careful person would write: frames of a length and a JSON document, one call after the other.
const BARE: &str = "
import json, struct, sys
def work(relevant_info=None, **params):
    return relevant_info
read, write = sys.stdin.buffer, sys.stdout.buffer
while True:
    head = read.read(4)
    if not head:
        break
    document = json.loads(read.read(struct.unpack('>I', head)[0]))
    reply = json.dumps(work(relevant_info=document)).encode()
    write.write(struct.pack('>I', len(reply)) + reply)
    write.flush()
";

/// The same function in a file of a flow.
const LOGIC: &str = "def work(relevant_info=None, **params):\n    return relevant_info\n";

/// Says `python BARE STAGE`, in records per second.
pub(crate) fn run(options: &Options<'_>) -> Result {
    let folder = Path::new(options.text("--folder")?);
    let batch = usize::try_from(options.number("--batch")?)?.max(1);
    let calls = usize::try_from(options.number("--records")?)? / batch;
    println!(
        "python {} {}",
        bare(batch, calls)?,
        stage(folder, batch, calls)?
    );
    Ok(())
}

/// What one call gets: an object, or a list of them.
fn document(batch: usize, call: usize) -> Value {
    let record =
        |index: usize| json!({"id": call * batch + index, "sensor": "line-7", "celsius": 20.5});
    match batch {
        1 => record(0),
        _ => (0..batch).map(record).collect(),
    }
}

fn bare(batch: usize, calls: usize) -> Result<f64> {
    let mut python = Command::new("python3")
        .args(["-c", BARE])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let (Some(mut to), Some(mut from)) = (python.stdin.take(), python.stdout.take()) else {
        return Err("no pipes".into());
    };
    let mut first = None;
    let mut bytes = Vec::new();
    for call in 0..calls {
        bytes.clear();
        bytes.extend_from_slice(&[0; 4]);
        serde_json::to_writer(&mut bytes, &document(batch, call))?;
        let length = u32::try_from(bytes.len() - 4)?;
        bytes[..4].copy_from_slice(&length.to_be_bytes());
        to.write_all(&bytes)?;
        let mut head = [0; 4];
        from.read_exact(&mut head)?;
        bytes.resize(u32::from_be_bytes(head) as usize, 0);
        from.read_exact(&mut bytes)?;
        let reply: Value = serde_json::from_slice(&bytes)?;
        if reply != document(batch, call) {
            return Err("another document came back".into());
        }
        // Without the start of Python.
        first.get_or_insert_with(Instant::now);
    }
    drop(to);
    python.wait()?;
    let seconds = first.map_or(0.0, |first| first.elapsed().as_secs_f64());
    Ok(((calls - 1) * batch) as f64 / seconds)
}

fn stage(folder: &Path, batch: usize, calls: usize) -> Result<f64> {
    let text = "pipelines:\n  p: {once: true, delay: 0s, stages: [core_logic: {python: \"logic.py:work\"}]}\n";
    let files = [("logic.py", LOGIC)];
    let mut plan = flows::plan_beside(text, folder, &Functions::default(), &files)?;
    let feed = Feed::new(calls, move |call| match document(batch, call) {
        Value::Array(records) => records,
        one => vec![one],
    });
    feed.feeds(&mut plan);
    flows::run(&plan)?;
    Ok(feed.per_second()? * batch as f64)
}
