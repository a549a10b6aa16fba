//! The rules of the architecture that no lint knows, as checks.
//!
//! `code` reads the sources, `words` every file, `docs` the documents, `proofs` the page of promises, `packages`
//! the manifests and the lock file. Each rule takes text and gives findings, and has a test that plants what it must
//! find.

mod code;
mod docs;
mod packages;
mod paths;
mod proofs;
mod words;

use crate::Result;
use crate::metadata::Metadata;
use crate::tree::Tree;

/// What a rule found.
#[derive(Debug, PartialEq)]
struct Finding {
    /// `path` or `path:line`.
    place: String,
    message: String,
    weight: Weight,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Weight {
    Warning,
    Error,
}

impl Finding {
    fn at(path: &str, line: usize, message: impl Into<String>) -> Self {
        Self {
            place: format!("{path}:{line}"),
            message: message.into(),
            weight: Weight::Error,
        }
    }

    fn of(path: &str, message: impl Into<String>) -> Self {
        Self {
            place: path.to_owned(),
            message: message.into(),
            weight: Weight::Error,
        }
    }

    fn warning(self) -> Self {
        Self {
            weight: Weight::Warning,
            ..self
        }
    }
}

/// Runs every rule; the error says how many findings were printed.
pub(crate) fn run() -> Result {
    let tree = Tree::open()?;
    let metadata = Metadata::load()?;
    let mut findings = Vec::new();
    let mut count = 0;
    for path in tree.files() {
        if let Some(text) = tree.text(path)? {
            findings.extend(code::check(path, &text));
            findings.extend(words::check(path, &text));
            findings.extend(docs::check(path, &text, &tree)?);
            count += 1;
        }
    }
    findings.extend(docs::check_records(&tree)?);
    findings.extend(proofs::check(&tree)?);
    findings.extend(packages::check(&tree, &metadata)?);

    for Finding {
        place,
        message,
        weight,
    } in &findings
    {
        let word = match weight {
            Weight::Warning => "warning",
            Weight::Error => "error",
        };
        println!("{word}: {place}: {message}");
    }
    match findings
        .iter()
        .filter(|finding| finding.weight == Weight::Error)
        .count()
    {
        0 => {
            println!("{count} files are in order");
            Ok(())
        }
        errors => Err(format!("{errors} findings")),
    }
}
