//! The users' Python files, parsed by the interpreter that will run them; nothing of them is run.
//!
//! One start of the interpreter for all files of a flow; flows without Python functions have none.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use wiredflow_core::config::FlowConfig;
use wiredflow_core::fields::Reading;
use wiredflow_core::node::{Node, NodeKind, Span};
use wiredflow_core::problem::{Elsewhere, Problem, possible};

use crate::logic::interpreter;

/// The stages in which a function can stand.
const WITH_FUNCTIONS: [&str; 5] = ["configuration", "core_logic", "http", "send", "store"];

/// How long the interpreter may take. Where it takes longer, the start of the flow will tell.
const WITHIN: Duration = Duration::from_secs(10);

/// The most that is read of what it says, in bytes.
const MOST: u64 = 4 << 20;

/// What a file says when names are made while it runs, so that nobody can know them before.
const MADE_LATER: [&str; 5] = ["globals(", "exec(", "setattr(", "vars(", "__getattr__"];

/// Parses each file, and says in one line what is wrong with it, or which names it has at its top level.
const PARSER: &str = r#"
import sys
def targets(node):
    kind = type(node).__name__
    if kind == "Name":
        yield node.id
    for inner in getattr(node, "elts", ()):
        yield from targets(inner)
def names(body):
    for node in body:
        kind = type(node).__name__
        if kind in ("FunctionDef", "AsyncFunctionDef", "ClassDef"):
            yield node.name
            continue
        if kind in ("Import", "ImportFrom"):
            for alias in node.names:
                yield (alias.asname or alias.name).split(".")[0]
        for target in [*getattr(node, "targets", ()), getattr(node, "target", None)]:
            yield from targets(target)
        for item in getattr(node, "items", ()):
            yield from targets(item.optional_vars)
        for part in ("body", "orelse", "finalbody"):
            yield from names(getattr(node, part, ()))
        for part in (*getattr(node, "handlers", ()), *getattr(node, "cases", ())):
            yield from names(part.body)
for path in sys.argv[1:]:
    try:
        with open(path, "rb") as file:
            tree = compile(file.read(), path, "exec", 0x400)
        print("names", *sorted(set(names(tree.body))), sep="\t")
    except SyntaxError as error:
        print("wrong", error.lineno or 0, error.offset or 0, " ".join(str(error.msg).split()), sep="\t")
    except Exception as error:
        print("wrong", 0, 0, " ".join(str(error).split()), sep="\t")
"#;

/// A function in a flow, and where it stands there.
struct Mention {
    source: String,
    path: String,
    span: Span,
}

/// What a file turned out to be.
enum Parsed {
    Names(BTreeSet<String>),
    Wrong(u32, u32, String),
}

/// Reports files that are no Python, and functions that a file does not have.
pub(super) fn check(flow: &FlowConfig, folder: &Path, reading: &mut Reading) {
    let mut mentions = Vec::new();
    for pipeline in &flow.pipelines {
        for (index, stage) in pipeline.stages.iter().enumerate() {
            if WITH_FUNCTIONS.contains(&stage.kind.as_str()) {
                let path = format!("pipelines.{}.stages.{index}.{}", pipeline.name, stage.kind);
                find(&stage.config, &path, &mut mentions);
            }
        }
    }
    for storage in &flow.storages {
        for step in &storage.options.preprocess {
            let path = format!("storages.{}.preprocess", storage.name);
            find(step, &path, &mut mentions);
        }
    }
    let mut texts: BTreeMap<PathBuf, String> = BTreeMap::new();
    for mention in &mentions {
        if let Some((file, _)) = mention.source.rsplit_once(':')
            && let Ok(text) = std::fs::read_to_string(folder.join(file))
        {
            texts.insert(folder.join(file), text);
        }
    }
    let files: Vec<&PathBuf> = texts.keys().collect();
    let Some(parsed) = parse(&files) else { return };
    let mut told = BTreeSet::new();
    for mention in &mentions {
        let Some((file, name)) = mention.source.rsplit_once(':') else {
            continue;
        };
        let path = folder.join(file);
        let (Some(text), Some(parsed)) = (texts.get(&path), parsed.get(&path)) else {
            continue;
        };
        match parsed {
            Parsed::Wrong(line, column, message) => {
                if told.insert(path.clone()) {
                    reading.report(wrong(mention, &path, text, (*line, *column), message));
                }
            }
            Parsed::Names(names) => {
                let first = name.split('.').next().unwrap_or(name);
                // Where the name is nowhere in the file, it has been reported.
                let unknown = !names.contains(first)
                    && !names.contains("*")
                    && name.split('.').all(|part| text.contains(part))
                    && !MADE_LATER.iter().any(|word| text.contains(word));
                if unknown {
                    let message = format!("`{file}` has no function `{name}` at its top level");
                    let help = possible(name, names.iter().map(String::as_str));
                    reading.report(
                        Problem::error(mention.span, &mention.path, message).with_help(help),
                    );
                }
            }
        }
    }
}

fn wrong(mention: &Mention, path: &Path, text: &str, place: (u32, u32), message: &str) -> Problem {
    let shown = path.strip_prefix(".").unwrap_or(path).display().to_string();
    let (line, column) = place;
    if line == 0 {
        let message = format!("`{shown}` is no Python: {message}");
        return Problem::error(mention.span, &mention.path, message);
    }
    let span = Span {
        line,
        column: column.max(1),
        offset: 0,
        length: 1,
    };
    let message = format!("`{shown}` is no Python: {message}");
    Problem::error(span, &mention.path, message).elsewhere(Elsewhere {
        file: shown,
        text: text.to_owned(),
    })
}

/// All `python: …` in a node, but for those in params.
fn find(node: &Node, path: &str, mentions: &mut Vec<Mention>) {
    match &node.kind {
        NodeKind::Map(entries) => {
            for entry in entries.iter().filter(|entry| entry.key != "params") {
                let path = format!("{path}.{}", entry.key);
                match entry.value.as_text() {
                    Some(source) if entry.key == "python" => mentions.push(Mention {
                        source: source.to_owned(),
                        path,
                        span: entry.value.span,
                    }),
                    _ => find(&entry.value, &path, mentions),
                }
            }
        }
        NodeKind::List(items) => {
            for (index, item) in items.iter().enumerate() {
                find(item, &format!("{path}.{index}"), mentions);
            }
        }
        NodeKind::Null
        | NodeKind::Bool(_)
        | NodeKind::Number(_)
        | NodeKind::Text(_)
        | NodeKind::Filled(_) => {}
    }
}

/// What the interpreter says of each file; `None` where there is none, or it says nothing in time.
fn parse(files: &[&PathBuf]) -> Option<BTreeMap<PathBuf, Parsed>> {
    if files.is_empty() {
        return None;
    }
    let mut child = Command::new(interpreter())
        // Alone: without the user's environment, site-packages or the present folder; warnings are not asked for.
        .args(["-I", "-S", "-W", "ignore", "-X", "utf8", "-c", PARSER])
        .args(files)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let output = child.stdout.take()?;
    let (say, said) = sync_channel(1);
    let reader = std::thread::Builder::new().name("wf-parser".to_owned());
    let read = move || {
        let mut text = String::new();
        let read = output.take(MOST).read_to_string(&mut text);
        // Nobody may wait for it any more.
        drop(say.send(read.map(|_| text)));
    };
    let started = reader.spawn(read);
    let text = started.ok().and_then(|_| said.recv_timeout(WITHIN).ok());
    // It has ended, or takes too long; either way nothing more is wanted of it.
    drop(child.kill());
    drop(child.wait());
    let text = text?.ok()?;
    let parsed = text.lines().zip(files).filter_map(|(line, file)| {
        let mut parts = line.split('\t');
        let parsed = match parts.next()? {
            "names" => Parsed::Names(parts.map(str::to_owned).collect()),
            _ => {
                let (line, column) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
                Parsed::Wrong(line, column, parts.next()?.to_owned())
            }
        };
        Some(((*file).clone(), parsed))
    });
    Some(parsed.collect())
}
