//! What the tool costs when there is little to do: its start, its memory, its size.

use std::io::{Read, Write as _};
use std::net::TcpListener;
use std::process::Command;
use std::time::{Duration, Instant};

use super::broker::Broker;
use super::figures::Figures;
use super::ingest::Contender;
use super::page::Part;
use super::process::Process;
use super::{Plan, machine};
use crate::Result;

/// How long an idle flow is looked at.
const IDLE: Duration = Duration::from_secs(5);

/// Three figures of the release program.
pub(super) fn measure(plan: &Plan) -> Result<Part> {
    let load = machine::load();
    let address = serve()?;
    let starts: Vec<f64> = (0..plan.pairs * 4)
        .map(|_| cold_start(plan, &address))
        .collect::<Result<_>>()?;
    let start = Figures::of(starts);
    let (resident, busy) = idle(plan)?;
    let size = stripped_size(plan)?;
    let text = format!(
        "Load average {load}.\n\n| what | figure |\n|---|---|\n\
         | from the start of the process to the first record stored, of a flow `http` to `jsonl` | {:.1} ms \
         [{:.1} … {:.1}], median of {} |\n\
         | a flow with an idle MQTT source: resident | {resident:.1} MiB |\n\
         | the same: of one core | {busy:.2} % |\n\
         | the program, without symbols | {size:.1} MiB |\n",
        start.median,
        start.least,
        start.most,
        plan.pairs * 4,
    );
    print!("{text}");
    Ok(Part {
        title: "Footprint",
        text,
    })
}

/// Milliseconds from the start of the process until the file holds something.
fn cold_start(plan: &Plan, address: &str) -> Result<f64> {
    let folder = plan.fresh_folder()?;
    let flow = folder.join("flow.yaml");
    let text = format!(
        "pipelines:\n  hello:\n    once: true\n    stages:\n      - http: \"http://{address}/\"\n      \
         - store: {{jsonl: {{folder: data}}}}\n"
    );
    std::fs::write(&flow, text).map_err(|error| error.to_string())?;
    let file = folder.join("data/jsonl_in_hello.jsonl");
    let mut command = Command::new(plan.program("wiredflow"));
    command.arg("run").arg(&flow).current_dir(&folder);
    let start = Instant::now();
    let mut tool = Process::start(&mut command, &folder.join("tool.log"), false)?;
    while std::fs::metadata(&file).map_or(0, |data| data.len()) == 0 {
        if start.elapsed() > Duration::from_secs(10) {
            return Err("the hello flow stores nothing".to_owned());
        }
        std::thread::sleep(Duration::from_micros(100));
    }
    let milliseconds = start.elapsed().as_secs_f64() * 1e3;
    tool.wait()?;
    Ok(milliseconds)
}

/// Resident MiB, and percent of a core, of a flow that waits for messages.
fn idle(plan: &Plan) -> Result<(f64, f64)> {
    let folder = plan.fresh_folder()?;
    let mut broker = Broker::start(&folder)?;
    let (mut tool, _) = Contender::Tool.start(plan, &folder, &broker.address, 1)?;
    broker.wait_for_subscriber(&mut tool)?;
    std::thread::sleep(Duration::from_secs(1));
    let before = tool.on_core();
    std::thread::sleep(IDLE);
    let busy = (tool.on_core() - before).as_secs_f64() / IDLE.as_secs_f64() * 100.0;
    let resident = tool.memory_kib("VmRSS") as f64 / 1024.0;
    tool.end()?;
    Ok((resident, busy))
}

/// Of the program in MiB.
fn stripped_size(plan: &Plan) -> Result<f64> {
    let stripped = plan.folder.join("stripped");
    let mut strip = Command::new("strip");
    strip
        .arg("-o")
        .arg(&stripped)
        .arg(plan.program("wiredflow"));
    let done = strip.status();
    if !done.is_ok_and(|status| status.success()) {
        return Err("cannot run `strip` (apt-get install binutils)".to_owned());
    }
    let data = std::fs::metadata(&stripped).map_err(|error| error.to_string())?;
    Ok(data.len() as f64 / f64::from(1 << 20))
}

/// Answers every request with a small object, until the process ends.
fn serve() -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(|error| error.to_string())?;
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let body = r#"{"hello":"world"}"#;
                let answer = format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
                    body.len()
                );
                let mut buffer = [0; 4096];
                while stream.read(&mut buffer).is_ok_and(|read| read > 0) {
                    if stream.write_all(answer.as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    Ok(address.to_string())
}
