//! What is wrong with a flow file: every problem at once, each with its place.

use crate::node::Span;

/// How bad a problem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The flow cannot run.
    Error,
    /// The flow can run, but the user should know.
    Warning,
}

impl Severity {
    /// The word used in output.
    pub fn word(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// One problem of a flow file.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong.
    pub message: String,
    /// Where it stands.
    pub span: Span,
    /// The path of keys that leads there: `pipelines.numbers.stages.0.http`.
    pub path: String,
    /// What is possible.
    pub help: Option<String>,
    /// The file in which the place is, when it is not the flow file.
    pub elsewhere: Option<Box<Elsewhere>>,
}

/// A file beside the flow file.
#[derive(Clone, Debug, PartialEq)]
pub struct Elsewhere {
    /// Its path, as it is shown.
    pub file: String,
    /// What stands in it.
    pub text: String,
}

impl Problem {
    /// An error at a place.
    pub fn error(span: Span, path: &str, message: impl Into<String>) -> Self {
        let (message, path) = (message.into(), path.to_owned());
        Self {
            severity: Severity::Error,
            message,
            span,
            path,
            help: None,
            elsewhere: None,
        }
    }

    /// A warning at a place.
    pub fn warning(span: Span, path: &str, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Warning,
            ..Self::error(span, path, message)
        }
    }

    /// Adds what is possible.
    #[must_use]
    pub fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Says that the place is in another file.
    #[must_use]
    pub fn elsewhere(mut self, file: Elsewhere) -> Self {
        self.elsewhere = Some(Box::new(file));
        self
    }
}

/// Whether any of them is an error.
pub fn any_error(problems: &[Problem]) -> bool {
    problems
        .iter()
        .any(|problem| problem.severity == Severity::Error)
}

/// "did you mean …" where a known word is near, else the list of what is known.
pub fn possible<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let known: Vec<&str> = known.into_iter().collect();
    let nearest = known
        .iter()
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), *candidate))
        .min()
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len().max(word.len()) / 3);
    let list = known
        .iter()
        .map(|name| format!("`{name}`"))
        .collect::<Vec<_>>()
        .join(", ");
    match nearest {
        Some((_, candidate)) => format!("did you mean `{candidate}`? possible: {list}"),
        None if known.is_empty() => "nothing is possible here".to_owned(),
        None => format!("possible: {list}"),
    }
}
