//! A flow that runs on the nodes of a cluster: its way there, and what is seen of it.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use wiredflow_cluster::{Client, Deployed, FORMAT, PartSpec, PartStatus, Phase, Status, Wanted};
use wiredflow_core::config::FlowConfig;
use wiredflow_core::yaml;
use wiredflow_deploy::{Bundle, BundleError};
use wiredflow_engine::clock::Clock;
use wiredflow_engine::parts;
use wiredflow_engine::plan::Plan;

use crate::engine::EngineArguments;
use crate::exit::{Exit, Failure, Outcome};
use crate::flow_file::{Subject, Tree};
use crate::live;
use crate::paint::{Ink, printable};
use crate::problems::plural;
use crate::table::{Align, Cell, Table};
use crate::tool::Tool;

/// How long it may take until all of a flow is open before the verb says what is not.
const OPEN_WITHIN: Duration = Duration::from_secs(15);

/// How long the parts of a flow may take to end before the verb says which have not.
const END_WITHIN: Duration = Duration::from_secs(20);

/// How often it is looked.
const LOOK_EACH: Duration = Duration::from_millis(250);

/// The cores that count for a part of which nothing is measured yet.
const LEAST_CORES: f64 = 0.01;

/// What of a version is shown.
const SHOWN: usize = 12;

/// Deploys a checked flow and waits until it is open. `attach`: goes on to tell what changes, until it is stopped.
pub(crate) async fn deploy(
    tool: &Tool,
    engine: &EngineArguments,
    (subject, plan, tree): (&Subject, &Plan, &Tree),
    (attach, as_json): (bool, bool),
) -> Outcome {
    let text = match subject.source.text() {
        "" => yaml::write(&tree.node),
        text => text.to_owned(),
    };
    let bundle = Bundle::of(&text, &tree.node, &tree.default_name, &tree.folder);
    let bundle = bundle.map_err(|error| match error {
        BundleError::At(span, message, help) => Failure::wrong(format!(
            "{}:{}:{}: {message}; {help}",
            subject.source.name(),
            span.line,
            span.column
        )),
        BundleError::Other(error) => Failure::wrong(error.message()),
    })?;
    let Some(flow) = &subject.checked.flow else {
        return Ok(Exit::Wrong);
    };
    let engine = engine.connect().await?;
    for weakness in &engine.about().weaknesses {
        tracing::warn!("{weakness}");
    }
    let away =
        |error: wiredflow_core::Error| Failure::failed(format!("the engine: {}", error.message()));
    let blob = Bundle::blob(bundle.version()).map_err(away)?;
    engine
        .put_blob(&blob, bundle.bytes().clone())
        .await
        .map_err(away)?;
    let client = Client::new(engine);
    let now = Clock::real().now();
    let deployed = Deployed {
        format: FORMAT,
        version: bundle.version().to_owned(),
        wanted: Wanted::Running,
        failure: None,
        parts: parts(flow, &tree.folder),
        deployed: now,
        changed: now,
        by: by(),
    };
    let name = &*plan.name;
    client.deploy(name, &deployed).await.map_err(away)?;
    let opened = until(&client, OPEN_WITHIN, |status| {
        status.is_open(name)
            || status
                .flows
                .get(name)
                .is_some_and(|flow| flow.failure.is_some())
    });
    let status = opened.await.map_err(away)?;
    let is_open = status.is_open(name);
    tell(tool, name, &status, as_json)?;
    if attach && is_open {
        return follow(tool, &client, name).await;
    }
    Ok(if is_open { Exit::Done } else { Exit::Failed })
}

/// Stops a flow, and forgets it if that is asked for.
pub(crate) async fn stop(
    tool: &Tool,
    engine: &EngineArguments,
    flow: &str,
    forget: bool,
) -> Outcome {
    let client = Client::new(engine.connect().await?);
    let away =
        |error: wiredflow_core::Error| Failure::failed(format!("the engine: {}", error.message()));
    if !client.stop(flow, Clock::real().now()).await.map_err(away)? {
        let status = client.status().await.map_err(away)?;
        let known = status.flows.keys().map(String::as_str);
        let help = wiredflow_core::problem::possible(flow, known);
        return Err(Failure::wrong(format!(
            "no flow `{flow}` is deployed: {help}"
        )));
    }
    let ended = until(&client, END_WITHIN, |status| status.is_gone(flow)).await;
    let status = ended.map_err(away)?;
    if !status.is_gone(flow) {
        let left: Vec<String> = status
            .parts
            .iter()
            .filter(|((of, _), part)| of == flow && part.node.is_some())
            .map(|((_, name), part)| {
                format!(
                    "`{name}` on node `{}`",
                    part.node.as_deref().unwrap_or_default()
                )
            })
            .collect();
        let left = left.join(", ");
        return Err(Failure::failed(format!(
            "it is to stop, and has not yet: {left}"
        )));
    }
    if forget {
        client.forget(flow).await.map_err(away)?;
    }
    let words = if forget {
        "is stopped and forgotten"
    } else {
        "is stopped"
    };
    tool.screen
        .print(&format!("{} {words}\n", printable(flow)))?;
    Ok(Exit::Done)
}

/// Shows a cluster, or one flow of it.
pub(crate) async fn show(
    tool: &Tool,
    engine: &EngineArguments,
    flow: Option<&str>,
    as_json: bool,
) -> Outcome {
    let engine = engine.connect().await?;
    let server = engine.about().server.clone();
    let client = Client::new(engine);
    let status = client.status().await;
    let status =
        status.map_err(|error| Failure::failed(format!("the engine: {}", error.message())))?;
    if let Some(flow) = flow {
        if !status.flows.contains_key(flow) {
            let known = status.flows.keys().map(String::as_str);
            let help = wiredflow_core::problem::possible(flow, known);
            return Err(Failure::wrong(format!(
                "no flow `{flow}` is deployed: {help}"
            )));
        }
        tell(tool, flow, &status, as_json)?;
        let is_well = status.is_open(flow) || status.flows[flow].wanted == Wanted::Stopped;
        return Ok(if is_well { Exit::Done } else { Exit::Failed });
    }
    if as_json {
        let flows: Vec<Value> = status
            .flows
            .keys()
            .map(|flow| document(flow, &status))
            .collect();
        tool.print_json(
            &json!({"engine": server, "nodes": nodes_document(&status), "flows": flows}),
        )?;
        return Ok(Exit::Done);
    }
    let out = tool.screen.out();
    let mut lines = vec![format!("{server}: {}", plural(status.nodes.len(), "node"))];
    lines.extend(nodes_table(&status).lines(out.columns(), out.paint));
    for flow in status.flows.keys() {
        lines.push(String::new());
        lines.extend(flow_lines(flow, &status, tool));
    }
    tool.screen.print(&format!("{}\n", lines.join("\n")))?;
    Ok(Exit::Done)
}

/// Looks until something is so, or the time is over; what was seen last.
async fn until(
    client: &Client,
    limit: Duration,
    is_so: impl Fn(&Status) -> bool,
) -> wiredflow_core::Result<Status> {
    let clock = Clock::real();
    let end = clock.monotonic() + limit;
    loop {
        let status = client.status().await?;
        if is_so(&status) || clock.monotonic() >= end {
            return Ok(status);
        }
        clock.sleep(LOOK_EACH).await;
    }
}

/// Tells what changes, until ^C: the flow goes on then.
async fn follow(tool: &Tool, client: &Client, flow: &str) -> Outcome {
    let clock = Clock::real();
    let mut said = String::new();
    tool.screen.tell("following; ^C leaves it to itself\n");
    loop {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => return Ok(Exit::Done),
            () = clock.sleep(4 * LOOK_EACH) => {}
        }
        let status = match client.status().await {
            Ok(status) => status,
            Err(error) => {
                tracing::warn!("the engine: {}", error.message());
                continue;
            }
        };
        let Some(deployed) = status.flows.get(flow) else {
            return Err(Failure::failed(format!("flow `{flow}` was forgotten")));
        };
        let lines = flow_lines(flow, &status, tool).join("\n");
        if lines != said {
            tool.screen.print(&format!("{lines}\n"))?;
            said = lines;
        }
        match (&deployed.failure, deployed.wanted) {
            (Some(why), _) => return Err(Failure::failed(format!("it is stopped: {why}"))),
            (None, Wanted::Stopped) if status.is_gone(flow) => return Ok(Exit::Done),
            (None, _) => {}
        }
    }
}

/// How the pipelines stand together.
fn parts(flow: &FlowConfig, folder: &Path) -> Vec<PartSpec> {
    let part = |part: parts::Part| PartSpec {
        name: part.name,
        pipelines: part.pipelines,
        pinned_by: part.pinned_by,
        labels: BTreeSet::new(),
        cores: LEAST_CORES,
    };
    parts::of(flow, folder).into_iter().map(part).collect()
}

/// Who deploys: `user@machine`.
fn by() -> String {
    let user = std::env::var("USER").unwrap_or_else(|_| "somebody".to_owned());
    let machine = std::fs::read_to_string("/etc/hostname").unwrap_or_default();
    format!("{user}@{}", machine.trim())
}

fn tell(tool: &Tool, flow: &str, status: &Status, as_json: bool) -> Result<(), Failure> {
    if as_json {
        return tool.print_json(&document(flow, status));
    }
    let lines = flow_lines(flow, status, tool);
    tool.screen.print(&format!("{}\n", lines.join("\n")))
}

/// The parts of a flow, those that were not placed too.
fn parts_of<'s>(flow: &str, status: &'s Status) -> Vec<(&'s str, &'s PartStatus)> {
    let of_flow = status.parts.iter().filter(|((of, _), _)| of == flow);
    of_flow
        .map(|((_, part), known)| (part.as_str(), known))
        .collect()
}

/// What a part does, in one word, and what it waits for.
fn condition(part: &PartStatus, status: &Status) -> (&'static str, String) {
    let away = |node: &str| !status.nodes.contains_key(node);
    match (&part.node, &part.phase) {
        (None, _) => match &part.home {
            Some(home) if away(home) => (
                "waiting",
                format!("its files are on node `{home}`, which is away"),
            ),
            _ if status.nodes.is_empty() => (
                "waiting",
                "no node has joined: `wiredflow node --engine URL` on a machine makes it one"
                    .to_owned(),
            ),
            _ => ("waiting", "for a node that can take it".to_owned()),
        },
        (Some(node), _) if away(node) => ("waiting", format!("node `{node}` is away")),
        (Some(_), _) if part.leaves => ("leaving", String::new()),
        (Some(_), None) => ("opening", String::new()),
        (Some(_), Some(Phase::Opening(why))) => ("opening", why.clone().unwrap_or_default()),
        (Some(_), Some(Phase::Open)) => ("open", String::new()),
        (Some(_), Some(Phase::Done)) => ("done", String::new()),
        (Some(_), Some(Phase::Failed(why))) => ("failed", why.clone()),
        (Some(_), Some(Phase::Left)) => ("leaving", String::new()),
    }
}

fn flow_lines(flow: &str, status: &Status, tool: &Tool) -> Vec<String> {
    let out = tool.screen.out();
    let Some(deployed) = status.flows.get(flow) else {
        return Vec::new();
    };
    let parts = parts_of(flow, status);
    let version: String = deployed.version.chars().take(SHOWN).collect();
    let word = match (deployed.wanted, status.is_open(flow)) {
        (Wanted::Running, true) => "runs",
        (Wanted::Running, false) => "is not all open",
        (Wanted::Stopped, _) => "is stopped",
    };
    let ink = match (deployed.wanted, status.is_open(flow)) {
        (Wanted::Running, true) => Ink::Green,
        (Wanted::Running, false) => Ink::Yellow,
        (Wanted::Stopped, _) => Ink::Dim,
    };
    let head = format!(
        "{} {word}, version {version}, deployed {} by {}",
        printable(flow),
        ago(deployed.deployed),
        printable(&deployed.by)
    );
    let mut lines = vec![out.paint.with(ink, &head)];
    if let Some(failure) = &deployed.failure {
        lines.push(out.paint.with(Ink::Red, &printable(failure)));
    }
    let mut table = Table::new(&[
        ("PART", Align::Left),
        ("NODE", Align::Left),
        ("STATE", Align::Left),
        ("", Align::Left),
    ]);
    for (name, part) in parts {
        let (word, mut why) = condition(part, status);
        let spec = deployed.parts.iter().find(|spec| spec.name == name);
        if let (true, Some(pin)) = (why.is_empty(), spec.and_then(|spec| spec.pinned_by.first())) {
            why = format!("stays there: {pin}");
        }
        let ink = match word {
            "open" | "done" => Ink::Green,
            "failed" => Ink::Red,
            _ => Ink::Yellow,
        };
        table.row(vec![
            name.into(),
            part.node.as_deref().unwrap_or("-").into(),
            Cell::inked(word, ink),
            why.into(),
        ]);
    }
    if deployed.wanted == Wanted::Running || !status.is_gone(flow) {
        lines.extend(table.lines(out.columns(), out.paint));
    }
    lines
}

fn ago(then: Timestamp) -> String {
    let ago = Clock::real().now().duration_since(then).as_secs_f64();
    format!("{} ago", live::time(ago.max(0.0)))
}

fn nodes_table(status: &Status) -> Table {
    let mut table = Table::new(&[
        ("NODE", Align::Left),
        ("CORES", Align::Right),
        ("SPEED", Align::Right),
        ("MEMORY", Align::Right),
        ("PARTS", Align::Right),
        ("LABELS", Align::Left),
        ("", Align::Left),
    ]);
    for (name, card) in &status.nodes {
        let has = status
            .parts
            .values()
            .filter(|part| part.node.as_ref() == Some(name));
        let labels: Vec<&str> = card.labels.iter().map(String::as_str).collect();
        table.row(vec![
            name.into(),
            card.cores.to_string().into(),
            format!("{:.2}", card.speed).into(),
            format!("{:.1} GiB", card.memory_mib as f64 / 1024.0).into(),
            Cell::count(has.count() as u64),
            labels.join(" ").into(),
            if card.drains { "drains" } else { "" }.into(),
        ]);
    }
    table
}

fn nodes_document(status: &Status) -> Vec<Value> {
    let node = |(name, card): (&String, &wiredflow_cluster::NodeCard)| {
        json!({
            "node": name, "program": card.program, "labels": card.labels, "cores": card.cores, "speed": card.speed,
            "memory_mib": card.memory_mib, "drains": card.drains, "load": card.load,
        })
    };
    status.nodes.iter().map(node).collect()
}

fn document(flow: &str, status: &Status) -> Value {
    let Some(deployed) = status.flows.get(flow) else {
        return Value::Null;
    };
    let part = |(name, part): (&str, &PartStatus)| {
        let (state, why) = condition(part, status);
        let spec = deployed.parts.iter().find(|spec| spec.name == name);
        let (pipelines, pins) = spec.map_or((&[][..], &[][..]), |spec| {
            (&spec.pipelines[..], &spec.pinned_by[..])
        });
        json!({
            "part": name, "pipelines": pipelines, "node": part.node, "state": state, "reason": why, "home": part.home,
            "pinned_by": pins,
        })
    };
    json!({
        "flow": flow,
        "ok": status.is_open(flow),
        "version": deployed.version,
        "wanted": deployed.wanted,
        "failure": deployed.failure,
        "deployed": deployed.deployed.to_string(),
        "by": deployed.by,
        "parts": parts_of(flow, status).into_iter().map(part).collect::<Vec<_>>(),
    })
}
