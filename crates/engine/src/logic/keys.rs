//! Functions as they stand in a flow file.

use wiredflow_core::config;
use wiredflow_core::config_reader::not_built_yet;
use wiredflow_core::fields::FromNode;
use wiredflow_core::frame::Role;
use wiredflow_core::node::{Node, Span};
use wiredflow_core::problem::possible;
use wiredflow_core::{Map, Value};

use super::{Code, FunctionPlan};
use crate::catalogue::CheckCx;
use crate::functions::Linked;
use crate::sql::Query;
use crate::worker::look_for;

/// The keys that say "this is a function".
pub(crate) const LANGUAGES: [&str; 5] = ["python", "rust", "program", "sql", "transform"];

/// What can be a function, for messages.
const POSSIBLE: &str = "possible: `python: \"file.py:name\"`, `rust: name`, `program: [CMD, ARG, …]`, `sql: \"select …\"`";

config! {
    /// Your own code: exactly one function, `python`, `rust`, `program` or `sql`.
    pub struct FunctionKeys {
        /// A Python function: `file.py:name`, the file relative to the flow's folder.
        python: Option<String>,
        /// A Rust function that is linked in, by name.
        rust: Option<String>,
        /// A program and its arguments, run in the flow's folder once for each call: the records come as JSON lines
        /// on its standard input, `params` as JSON in `WIREDFLOW_PARAMS`; each JSON line that it writes is a record;
        /// an exit status other than 0 is a failure. No shell takes it apart.
        program: Vec<String>,
        /// One `SELECT` over the flow's storages, each a table of its name, and the batch, which is `input`; `:limit`
        /// is the param `limit`. For `core_logic` and `configuration`.
        sql: Option<String>,
        /// A record transformation; not built yet.
        transform: Option<String>,
        /// Arguments for the function, by name.
        params: Option<Value>,
        /// How many processes call a Python function side by side; more than 1 wants `parallel` too.
        processes: usize = "1",
    }
}

/// Reads and checks a function.
pub(crate) fn prepare(node: &Node, role: Role, cx: &mut CheckCx<'_>) -> Option<FunctionPlan> {
    if let Some(word) = node.as_text() {
        let help = match word.rsplit_once(':') {
            Some((file, _)) if file.ends_with(".py") => format!("write `{{python: \"{word}\"}}`"),
            _ => POSSIBLE.to_owned(),
        };
        cx.reading.error_with_help(
            node.span,
            "a function is a map of its language".to_owned(),
            help,
        );
        return None;
    }
    let keys = FunctionKeys::from_node(node, cx.reading)?;
    let given: Vec<&str> = LANGUAGES
        .iter()
        .copied()
        .filter(|language| node.entry(language).is_some())
        .collect();
    let [language] = given[..] else {
        let message = match given.len() {
            0 => "a function is missing".to_owned(),
            _ => format!(
                "`{}` beside `{}`: there is exactly one function",
                given[1], given[0]
            ),
        };
        cx.reading.error_with_help(node.span, message, POSSIBLE);
        return None;
    };
    let span = node
        .entry(language)
        .map_or(node.span, |entry| entry.value.span);
    let params = match keys.params {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(params)) => params,
        Some(_) => {
            let span = node.entry("params").map_or(span, |entry| entry.value.span);
            cx.reading
                .error(span, "`params` is a map of arguments by name");
            return None;
        }
    };
    if !(1..=64).contains(&keys.processes) {
        cx.reading.error(span, "`processes` must be from 1 to 64");
    }
    if language != "python" && node.entry("processes").is_some() {
        let message = format!("`processes` goes with `python`, not with `{language}`");
        cx.reading.error_with_help(
            span,
            message,
            "`parallel` at the stage: that many calls at once",
        );
    }
    let code = match language {
        "python" => {
            let source = keys.python?;
            check_python(&source, span, cx);
            Code::Python(source)
        }
        "rust" => Code::Rust(linked(&keys.rust?, span, cx)?),
        "program" => {
            if let Err((message, help)) = look_for(&keys.program, cx.folder) {
                cx.reading.error_with_help(span, message, help);
            }
            Code::Program(keys.program)
        }
        "sql" => Code::Sql(query(&keys.sql?, role, span, cx)?),
        _ => {
            cx.reading
                .error_with_help(span, not_built_yet(language), POSSIBLE);
            return None;
        }
    };
    Some(FunctionPlan {
        code,
        role,
        params,
        processes: keys.processes,
    })
}

/// The Rust function of that name.
fn linked(name: &str, span: Span, cx: &mut CheckCx<'_>) -> Option<Linked> {
    let function = cx.functions.find(name);
    if function.is_none() {
        let message = format!("there is no Rust function `{name}` in this program");
        let help = match cx.functions.names().next() {
            Some(_) => possible(name, cx.functions.names()),
            None => "the plain tool has none: link it into a program of your own that ends in \
                     `wiredflow::main(flow)`"
                .to_owned(),
        };
        cx.reading.error_with_help(span, message, help);
    }
    function
}

fn query(sql: &str, role: Role, span: Span, cx: &mut CheckCx<'_>) -> Option<Query> {
    if !matches!(role, Role::CoreLogic | Role::Configuration) {
        let help = "`sql` reads; it goes with `core_logic` and `configuration`";
        cx.reading
            .error_with_help(span, "`sql` is not possible here".to_owned(), help);
        return None;
    }
    match Query::check(sql, cx.storage_names) {
        Ok(query) => Some(query),
        Err((message, help)) => {
            cx.reading
                .error_with_help(span, format!("`sql`: {message}"), help);
            None
        }
    }
}

/// Looks whether the file is there and mentions the function; its code is not run.
fn check_python(source: &str, span: Span, cx: &mut CheckCx<'_>) {
    let Some((file, name)) = source.rsplit_once(':') else {
        let text = std::fs::read_to_string(cx.folder.join(source)).unwrap_or_default();
        let public = defined(&text).filter(|name| !name.starts_with('_'));
        let functions: Vec<String> = public.map(|name| format!("`{source}:{name}`")).collect();
        let message = format!("`{source}` names no function: it is written `file.py:name`");
        match functions.is_empty() {
            true => cx.reading.error(span, message),
            false => {
                let help = format!("possible: {}", functions.join(", "));
                cx.reading.error_with_help(span, message, help);
            }
        }
        return;
    };
    let path = cx.folder.join(file);
    let Ok(text) = std::fs::read_to_string(&path) else {
        cx.reading.error(
            span,
            format!("cannot read the file `{file}`: is it in the flow's folder?"),
        );
        return;
    };
    let defined: Vec<&str> = defined(&text).collect();
    if !defined.contains(&name) && !name.split('.').all(|part| text.contains(part)) {
        let message = format!("`{file}` defines no `{name}`");
        cx.reading
            .error_with_help(span, message, possible(name, defined));
    }
}

/// The functions that stand at the top level of a file.
fn defined(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(defined_name)
}

fn defined_name(line: &str) -> Option<&str> {
    let rest = line
        .strip_prefix("async ")
        .unwrap_or(line)
        .strip_prefix("def ")?;
    rest.split(|character: char| !character.is_alphanumeric() && character != '_')
        .next()
}
