//! What goes along with a stage to another machine, as a flow file says it.

use std::path::{Component, Path};

use wiredflow_core::fields::Pairs;
use wiredflow_core::node::Node;

use crate::catalogue::CheckCx;

/// Reports variables that are none, and files that are not in the flow's folder. `node` has `env` and `files`.
pub(crate) fn check(env: &Pairs<String>, files: &[String], node: &Node, cx: &mut CheckCx<'_>) {
    let span = |key: &str| node.entry(key).map_or(node.span, |entry| entry.value.span);
    for (name, _) in &env.0 {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        if name.is_empty() || !name.bytes().all(plain) || name.as_bytes()[0].is_ascii_digit() {
            let message = format!("`{}` cannot be the name of a variable", name.escape_debug());
            cx.reading.error(span("env"), message);
        }
    }
    for file in files {
        let inside = Path::new(file)
            .components()
            .all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
        if file.is_empty() || !inside {
            let message = format!("`{}` is not in the flow's folder", file.escape_debug());
            cx.reading.error(span("files"), message);
        } else if !cx.folder.join(file).exists() {
            let message = format!("there is no `{file}` in the flow's folder");
            cx.reading.error(span("files"), message);
        }
    }
}
