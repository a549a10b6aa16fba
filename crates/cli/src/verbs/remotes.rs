//! `remotes`: whether the places where stages run can be reached.

use std::path::PathBuf;
use std::time::Duration;

use clap::Subcommand;
use serde_json::{Value, json};
use wiredflow_engine::clock::Clock;
use wiredflow_engine::remotes::Shown;

use crate::exit::{Exit, Failure, Outcome};
use crate::flow_file;
use crate::paint::{Ink, printable_lines};
use crate::service;
use crate::tool::Tool;

/// Look at the places where stages run
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  wiredflow remotes test flow.yaml          reach every remote and tell what was found
  wiredflow remotes test flow.yaml --remote big
  wiredflow stages ssh                      the keys of a remote by SSH")]
pub(crate) struct Remotes {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Test(Test),
}

/// Reach every remote of a flow: what it is, how long it takes to be ready, and a call's way there and back
#[derive(Debug, clap::Args)]
#[command(
    after_help = "This brings Wiredflow's program and the flow's code to a machine that has not got them, as a run would do, and
makes calls that do nothing. The exit code is 1 when a remote cannot be used.

Examples:
  wiredflow remotes test flow.yaml
  wiredflow remotes test flow.yaml --remote big --json | jq '.remotes[0].round_trip_ms'"
)]
pub(crate) struct Test {
    /// The flow file
    file: Option<PathBuf>,

    /// Only this remote; may be given several times
    #[arg(long = "remote", value_name = "R")]
    remotes: Vec<String>,

    /// Print one JSON document: {"ok", "remotes": [{"name", "ok", "error", "said", "ready_ms", "round_trip_ms", "bytes_per_second"}]}
    #[arg(long)]
    json: bool,
}

impl Remotes {
    pub(crate) fn run(&self, tool: &Tool) -> Outcome {
        match &self.verb {
            Verb::Test(test) => test.run(tool),
        }
    }
}

impl Test {
    fn run(&self, tool: &Tool) -> Outcome {
        let subject = flow_file::check(tool, self.file.as_deref())?;
        let Some(plan) = subject.plan_or_told(tool, self.json)? else {
            return Ok(Exit::Wrong);
        };
        let all: Vec<&str> = plan.remotes.iter().map(|remote| remote.name()).collect();
        if let Some(unknown) = self
            .remotes
            .iter()
            .find(|name| !all.contains(&name.as_str()))
        {
            let help = wiredflow_core::problem::possible(unknown, all.iter().copied());
            return Err(Failure::wrong(format!(
                "there is no remote `{unknown}`: {help}"
            )));
        }
        if all.is_empty() && !self.json {
            tool.screen
                .print("the flow has no remotes: everything runs here\n")?;
            return Ok(Exit::Done);
        }
        let clock = Clock::real();
        let runtime = service::runtime()?;
        let mut documents = Vec::new();
        let mut ok = true;
        for remote in &plan.remotes {
            let name = remote.name();
            if !self.remotes.is_empty() && !self.remotes.iter().any(|wanted| wanted == name) {
                continue;
            }
            let shown = runtime.block_on(remote.try_out(&plan.name, &plan.folder, &clock));
            let shown = shown.map_err(|error| plan.scrubber.scrub(error.message()));
            ok &= shown.is_ok();
            if self.json {
                documents.push(document(name, &shown));
                continue;
            }
            let paint = tool.screen.out().paint;
            let text = match shown {
                Ok(shown) => format!(
                    "{} {name}: {}\n",
                    paint.with(Ink::Green, "ok"),
                    told(&shown)
                ),
                Err(reason) => format!(
                    "{} {name}: {}\n",
                    paint.with(Ink::Red, "no"),
                    printable_lines(&reason, "   ")
                ),
            };
            tool.screen.print(&text)?;
        }
        runtime.shutdown_timeout(Duration::from_secs(3));
        if self.json {
            tool.print_json(&json!({ "ok": ok, "remotes": documents }))?;
        }
        Ok(if ok { Exit::Done } else { Exit::Failed })
    }
}

fn told(shown: &Shown) -> String {
    let ready = shown.ready.as_secs_f64();
    let trips = &shown.trips;
    let mut text = format!("ready after {ready:.1} s");
    if !trips.is_empty() {
        let (middle, slow) = (at(trips, 50), at(trips, 99));
        let rate = shown.bytes_per_second / f64::from(1 << 20);
        text.push_str(&format!(
            "; a call and back {middle:.2} ms (p50), {slow:.2} ms (p99), {rate:.0} MiB/s"
        ));
    }
    for line in &shown.said {
        text.push_str("\n   ");
        text.push_str(&printable_lines(line, "   "));
    }
    text
}

fn document(name: &str, shown: &Result<Shown, String>) -> Value {
    match shown {
        Ok(shown) => json!({
            "name": name,
            "ok": true,
            "error": null,
            "said": shown.said,
            "ready_ms": millis(shown.ready),
            "round_trip_ms": {"p50": at(&shown.trips, 50), "p99": at(&shown.trips, 99)},
            "bytes_per_second": shown.bytes_per_second,
        }),
        Err(reason) => json!({"name": name, "ok": false, "error": reason}),
    }
}

/// The figure below which so many of a hundred lie, in milliseconds.
fn at(trips: &[Duration], percent: usize) -> f64 {
    let place = (trips.len() * percent / 100).min(trips.len().saturating_sub(1));
    trips.get(place).copied().map(millis).unwrap_or_default()
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
