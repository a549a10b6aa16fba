//! `run --watch`: looks at the flow file and the files that it names, and gives a new plan when a change is good.
//!
//! Editors write in two ways: they cut the file and write it, or write another and rename it. So a change counts
//! when it has looked the same twice, and what counts is the content.

use std::collections::BTreeSet;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::time::Duration;

use wiredflow_core::node::{Node, NodeKind};
use wiredflow_core::problem::{Problem, Severity};
use wiredflow_core::yaml;
use wiredflow_engine::clock::Clock;
use wiredflow_engine::plan::Plan;

use crate::flow_file::{self, Subject};
use crate::problems::plural;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_millis(300);

/// The most files that are looked at.
const MOST: usize = 256;

/// The content of all watched files, as one number.
type Print = u64;

/// Reads and checks the flow anew; an error is for the user.
type Check<'a> = Box<dyn Fn() -> Result<Subject, String> + 'a>;

/// The files of a flow, watched.
pub(crate) struct Watch<'a> {
    file: PathBuf,
    check: Check<'a>,
    /// What was found good or bad last.
    judged: Print,
}

impl fmt::Debug for Watch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Watch({})", self.file.display())
    }
}

impl<'a> Watch<'a> {
    /// Watches FILE from now on. `check` reads and checks it.
    pub(crate) fn new(file: &Path, check: impl Fn() -> Result<Subject, String> + 'a) -> Self {
        Self {
            file: file.to_owned(),
            check: Box::new(check),
            judged: print_of(file),
        }
    }

    /// Waits for a change that is good, and gives its plan; others are logged. Dropping the future loses
    /// no change: the next call finds it.
    pub(crate) async fn next(&mut self, clock: &Clock) -> Plan {
        let mut before = self.judged;
        loop {
            clock.sleep(LOOK).await;
            let now = print_of(&self.file);
            if now != self.judged && now == before {
                self.judged = now;
                if let Some(plan) = self.judge() {
                    return plan;
                }
            }
            before = now;
        }
    }

    fn judge(&self) -> Option<Plan> {
        let name = self.file.display();
        if !self.file.exists() {
            tracing::error!("`{name}` is gone: the flow goes on as it was until it is back");
            return None;
        }
        let refused = |reason: &str| {
            tracing::error!("`{name}` has changed, but {reason}: the flow goes on as it was");
        };
        let subject = match (self.check)() {
            Ok(subject) => subject,
            Err(message) => {
                refused(&message);
                return None;
            }
        };
        let problems = &subject.checked.problems;
        problems
            .iter()
            .for_each(|problem| tell(&self.file, problem));
        let Some(plan) = subject.checked.plan else {
            let errors = problems
                .iter()
                .filter(|one| one.severity == Severity::Error);
            refused(&format!("has {}", plural(errors.count(), "error")));
            return None;
        };
        Some(plan)
    }
}

fn tell(file: &Path, problem: &Problem) {
    let span = problem.span;
    let file = match &problem.elsewhere {
        Some(other) => other.file.clone(),
        None => file.display().to_string(),
    };
    let place = if span.is_known() {
        format!("{file}:{}:{}", span.line, span.column)
    } else {
        file
    };
    let help = problem
        .help
        .as_deref()
        .map(|help| format!("; {help}"))
        .unwrap_or_default();
    match problem.severity {
        Severity::Error => tracing::error!("{place}: {}{help}", problem.message),
        Severity::Warning => tracing::warn!("{place}: {}{help}", problem.message),
    }
}

fn print_of(file: &Path) -> Print {
    let mut hasher = DefaultHasher::new();
    let mut files = named_files(file);
    files.insert(file.to_owned());
    for file in files.iter().take(MOST) {
        file.hash(&mut hasher);
        // One that is not there, as in the middle of a rename, is a content too.
        std::fs::read(file).ok().hash(&mut hasher);
    }
    hasher.finish()
}

/// The files that a flow file names: those of `${file:}`, and the Python files with all that stand beside them,
/// which they may import.
fn named_files(file: &Path) -> BTreeSet<PathBuf> {
    let folder = flow_file::folder_of(file);
    let mut files = BTreeSet::new();
    let Ok(text) = flow_file::read(file) else {
        return files;
    };
    for rest in text.split("${file:").skip(1) {
        let path = rest.split('}').next().unwrap_or_default();
        files.insert(folder.join(path));
    }
    for python in python_files(&text) {
        let python = folder.join(python);
        let beside = python
            .parent()
            .and_then(|folder| std::fs::read_dir(folder).ok());
        for entry in beside.into_iter().flatten().flatten().take(MOST) {
            let path = entry.path();
            if path.extension().is_some_and(|ending| ending == "py") {
                files.insert(path);
            }
        }
        files.insert(python);
    }
    files
}

fn python_files(text: &str) -> BTreeSet<String> {
    let mut files = BTreeSet::new();
    if let Ok(node) = yaml::parse(text) {
        collect(&node, &mut files);
    }
    files
}

fn collect(node: &Node, files: &mut BTreeSet<String>) {
    match &node.kind {
        NodeKind::List(items) => items.iter().for_each(|item| collect(item, files)),
        NodeKind::Map(entries) => {
            for entry in entries {
                let source = entry.value.as_text().filter(|_| entry.key == "python");
                let file = source.and_then(|source| source.rsplit_once(':'));
                files.extend(file.map(|(file, _)| file.to_owned()));
                collect(&entry.value, files);
            }
        }
        NodeKind::Null
        | NodeKind::Bool(_)
        | NodeKind::Number(_)
        | NodeKind::Text(_)
        | NodeKind::Filled(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_content_of_every_file_that_the_flow_names_counts_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let write =
            |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        let flow = folder.path().join("flow.yaml");
        write(
            "flow.yaml",
            "a: ${file:key.txt}\nb: [{core_logic: {python: 'logic.py:x'}}]",
        );
        let mut prints = vec![print_of(&flow)];
        for (name, counts) in [
            ("key.txt", true),
            ("logic.py", true),
            ("imported.py", true),
            ("other.txt", false),
        ] {
            write(name, "new");
            let print = print_of(&flow);
            assert_eq!(prints.contains(&print), !counts, "{name}");
            write(name, "new");
            assert_eq!(print, print_of(&flow), "the same content again");
            prints.push(print);
        }
        std::fs::remove_file(&flow).unwrap();
        assert!(!prints.contains(&print_of(&flow)));
    }
}
