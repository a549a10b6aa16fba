//! The problems of a flow, for people and for machines.

use serde::Serialize;
use wiredflow_core::node::Span;
use wiredflow_core::problem::{Problem, Severity, any_error};

use crate::paint::{Ink, Paint, cut, printable, printable_lines, width};

/// The most columns of a source line that are quoted.
const WIDEST: usize = 120;
/// Columns that are shown before the place when a line is longer.
const BEFORE: usize = 40;

/// The text that problems point into.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    /// The file as the user named it; none for a flow that is linked in.
    file: Option<String>,
    text: String,
}

/// What `check --json` prints.
#[derive(Debug, Serialize)]
pub(crate) struct Document<'a> {
    ok: bool,
    problems: Vec<Entry<'a>>,
}

#[derive(Debug, Serialize)]
struct Entry<'a> {
    severity: &'static str,
    message: &'a str,
    file: Option<&'a str>,
    line: Option<u32>,
    column: Option<u32>,
    path: &'a str,
    help: Option<&'a str>,
}

impl Source {
    pub(crate) fn file(name: String, text: String) -> Self {
        Self {
            file: Some(name),
            text,
        }
    }

    pub(crate) fn linked() -> Self {
        Self {
            file: None,
            text: String::new(),
        }
    }

    /// How the flow is called in messages.
    pub(crate) fn name(&self) -> &str {
        self.file.as_deref().unwrap_or("the flow of this program")
    }

    /// The file's text; none of a flow that is linked in.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// The document for machines.
    pub(crate) fn document<'a>(&'a self, problems: &'a [Problem]) -> Document<'a> {
        let entry = |problem: &'a Problem| {
            let place = |number: u32| problem.span.is_known().then_some(number);
            Entry {
                severity: problem.severity.word(),
                message: &problem.message,
                file: problem
                    .elsewhere
                    .as_ref()
                    .map_or(self.file.as_deref(), |other| Some(&other.file)),
                line: place(problem.span.line),
                column: place(problem.span.column),
                path: &problem.path,
                help: problem.help.as_deref(),
            }
        };
        Document {
            ok: !any_error(problems),
            problems: problems.iter().map(entry).collect(),
        }
    }

    /// All problems with their places, and a count at the end.
    pub(crate) fn report(&self, problems: &[Problem], paint: Paint) -> String {
        let mut text = String::new();
        for problem in problems {
            let one = match &problem.elsewhere {
                Some(other) => {
                    Self::file(other.file.clone(), other.text.clone()).one(problem, paint)
                }
                None => self.one(problem, paint),
            };
            text.push_str(&one);
            text.push('\n');
        }
        let count = |severity| {
            problems
                .iter()
                .filter(|one| one.severity == severity)
                .count()
        };
        let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
        let mut parts = Vec::new();
        for (number, word) in [(errors, "error"), (warnings, "warning")] {
            if number > 0 {
                parts.push(plural(number, word));
            }
        }
        if !parts.is_empty() {
            text.push_str(&format!(
                "{} has {}\n",
                printable(self.name()),
                parts.join(" and ")
            ));
        }
        text
    }

    fn one(&self, problem: &Problem, paint: Paint) -> String {
        let ink = match problem.severity {
            Severity::Error => Ink::Red,
            Severity::Warning => Ink::Yellow,
        };
        let word = paint.with(ink, problem.severity.word());
        let message = printable_lines(&problem.message, "  ");
        let mut text = format!("{word}: {}\n", paint.with(Ink::Bold, &message));
        let number = problem.span.line.to_string();
        let margin = " ".repeat(if problem.span.is_known() {
            number.len()
        } else {
            1
        });
        text.push_str(&format!(
            "{margin}{} {}\n",
            paint.with(Ink::Blue, "-->"),
            self.place(problem)
        ));
        let bar = paint.with(Ink::Blue, "|");
        let quoted = self.quote(problem.span);
        if let Some((line, before, marked)) = &quoted {
            let caret = format!(
                "{}{}",
                " ".repeat(*before),
                paint.with(ink, &"^".repeat(*marked))
            );
            let number = paint.with(Ink::Blue, &number);
            text.push_str(&format!(
                "{margin} {bar}\n{number} {bar} {line}\n{margin} {bar} {caret}\n"
            ));
        }
        if let Some(help) = &problem.help {
            if quoted.is_some() {
                text.push_str(&format!("{margin} {bar}\n"));
            }
            let sign = paint.with(Ink::Blue, "=");
            let help = printable_lines(help, "    ");
            text.push_str(&format!("{margin} {sign} help: {help}\n"));
        }
        text
    }

    fn place(&self, problem: &Problem) -> String {
        let Span { line, column, .. } = problem.span;
        let name = printable(self.name());
        match (problem.span.is_known(), problem.path.as_str()) {
            (true, _) => format!("{name}:{line}:{column}"),
            (false, "") => name.into_owned(),
            (false, path) => format!("{name}, at `{}`", printable(path)),
        }
    }

    /// The line of a place as it can be shown, with the columns before the place and those to be marked.
    fn quote(&self, span: Span) -> Option<(String, usize, usize)> {
        let line = self
            .text
            .lines()
            .nth(usize::try_from(span.line.checked_sub(1)?).ok()?)?;
        let line = line.strip_prefix('\u{feff}').unwrap_or(line);
        let column = usize::try_from(span.column.saturating_sub(1)).ok()?;
        let start = line
            .char_indices()
            .nth(column)
            .map_or(line.len(), |(at, _)| at);
        let (mut before, rest) = line.split_at(start);
        let marked = marked_part(rest, span.length);
        let mut lead = "";
        if width(before) > WIDEST - BEFORE {
            // A long line: what is near the place is shown.
            let from = before
                .char_indices()
                .rev()
                .nth(BEFORE)
                .map_or(0, |(at, _)| at);
            (before, lead) = (&before[from..], "…");
        }
        let shown = |part: &str| printable(&part.replace('\t', "    ")).into_owned();
        let before = format!("{lead}{}", shown(before));
        let line = cut(&format!("{before}{}", shown(rest)), WIDEST).into_owned();
        let before = width(&before).min(WIDEST);
        let marked = width(&shown(marked)).min(WIDEST - before).max(1);
        Some((line, before, marked))
    }
}

/// The part of the rest of a line that a span of so many bytes covers, without the space at its end.
fn marked_part(rest: &str, length: usize) -> &str {
    let end = rest.char_indices().map(|(at, _)| at).chain([rest.len()]);
    let end = end.take_while(|at| *at <= length).last().unwrap_or(0);
    rest[..end].trim_end()
}

/// `1 error`, `2 errors`.
pub(crate) fn plural(number: usize, word: &str) -> String {
    let ending = if number == 1 { "" } else { "s" };
    format!("{number} {word}{ending}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(line: u32, column: u32, length: usize) -> Span {
        Span {
            line,
            column,
            offset: 0,
            length,
        }
    }

    #[track_caller]
    fn check(text: &str, span: Span, expected: &str) {
        let source = Source::file("flow.yaml".to_owned(), text.to_owned());
        let problem =
            Problem::error(span, "a.b", "unknown key `evry`").with_help("did you mean `every`?");
        assert_eq!(source.one(&problem, Paint::Plain), expected);
    }

    #[test]
    fn a_problem_is_shown_in_its_line() {
        check(
            "pipelines:\n  p:\n    evry: 10s\n",
            span(3, 5, 4),
            "error: unknown key `evry`\n --> flow.yaml:3:5\n  |\n3 |     evry: 10s\n  |     ^^^^\n  |\n  = help: \
             did you mean `every`?\n",
        );
    }

    #[test]
    fn a_place_without_a_line_is_a_path() {
        check(
            "",
            Span::default(),
            "error: unknown key `evry`\n --> flow.yaml, at `a.b`\n  = help: did you mean `every`?\n",
        );
    }

    #[test]
    fn carets_stand_below_wide_characters_and_tabs_and_end_with_the_line() {
        let source = Source::file(
            "x".to_owned(),
            "a: \"漢\tü\" # x\r\nb:\x1b[2J c   \n".to_owned(),
        );
        let quote = |line, column, length| source.quote(span(line, column, length)).unwrap();
        assert_eq!(quote(1, 7, 2), ("a: \"漢    ü\" # x".to_owned(), 10, 1));
        assert_eq!(quote(2, 3, 900), ("b:\\u{1b}[2J c   ".to_owned(), 2, 11));
        assert_eq!(quote(2, 400, 1).1, "b:\\u{1b}[2J c   ".len());
        assert_eq!(source.quote(span(9, 1, 1)), None);
    }

    #[test]
    fn of_a_long_line_the_part_around_the_place_is_shown() {
        let text = format!("a: [{}, here, {}]", "x".repeat(5000), "y".repeat(5000));
        let source = Source::file("x".to_owned(), text);
        let (line, before, marked) = source.quote(span(1, 5007, 4)).unwrap();
        assert!(width(&line) <= WIDEST, "{line}");
        assert_eq!(
            &line[line.char_indices().nth(before).unwrap().0..][..4],
            "here"
        );
        assert_eq!(marked, 4);
    }
}
