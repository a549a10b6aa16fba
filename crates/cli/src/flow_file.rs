//! The flow that a verb is about: a file, or the one that is linked in.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use wiredflow_core::config::FlowConfig;
use wiredflow_core::fields::Reading;
use wiredflow_core::fill::fill;
use wiredflow_core::node::{Node, Span};
use wiredflow_core::problem::{Problem, possible};
use wiredflow_core::{config_reader, yaml};
use wiredflow_engine::check::{Checked, SystemLookup, check_text};
use wiredflow_engine::plan::Plan;

use crate::exit::Failure;
use crate::problems::Source;
use crate::tool::Tool;

/// A flow, checked.
#[derive(Debug)]
pub(crate) struct Subject {
    /// Where it was read from, for messages.
    pub(crate) source: Source,
    /// What checking gave.
    pub(crate) checked: Checked,
}

impl Subject {
    /// The plan, for a verb that runs it, when all problems have been told; none when they are errors. With `json` those
    /// are one document on standard output.
    ///
    /// # Errors
    /// When standard output takes nothing.
    pub(crate) fn plan_or_told(&self, tool: &Tool, json: bool) -> Result<Option<&Plan>, Failure> {
        let (source, problems) = (&self.source, &self.checked.problems);
        if !problems.is_empty() {
            let is_over = self.checked.plan.is_none();
            if !is_over || !json {
                tool.screen
                    .tell(&source.report(problems, tool.screen.err().paint));
            }
            if is_over && json {
                tool.print_json(&source.document(problems))?;
            }
        }
        Ok(self.checked.plan.as_ref())
    }
}

/// Whether these names are pipelines of the plan.
///
/// # Errors
/// `Wrong` for the first that is none.
pub(crate) fn check_pipelines(plan: &Plan, wanted: &[String]) -> Result<(), Failure> {
    let names = || plan.pipelines.iter().map(|pipeline| &*pipeline.name);
    match wanted
        .iter()
        .find(|name| names().all(|known| known != **name))
    {
        Some(unknown) => Err(Failure::wrong(format!(
            "there is no pipeline `{unknown}`: {}",
            possible(unknown, names())
        ))),
        None => Ok(()),
    }
}

/// Reads and checks the flow of FILE, or the linked one. A file that cannot be read is a problem like others.
///
/// # Errors
/// `Wrong` when there is neither.
pub(crate) fn check(tool: &Tool, file: Option<&Path>) -> Result<Subject, Failure> {
    let Some(file) = file else {
        let flow = tool.flow.as_ref().ok_or_else(no_file)?;
        let here = Path::new(".");
        let checked = flow.check(here, &SystemLookup::new(here));
        return Ok(Subject {
            source: Source::linked(),
            checked,
        });
    };
    let name = file.display().to_string();
    let (text, checked) = match read(file) {
        Ok(text) => {
            let folder = folder_of(file);
            let lookup = SystemLookup::new(&folder);
            let checked = check_text(&text, &stem(file), &folder, &tool.functions(), &lookup);
            (text, checked)
        }
        Err(problem) => {
            let problems = vec![problem];
            (
                String::new(),
                Checked {
                    plan: None,
                    flow: None,
                    problems,
                },
            )
        }
    };
    Ok(Subject {
        source: Source::file(name, text),
        checked,
    })
}

/// A flow as it stands in its file, unchecked, or the linked one.
#[derive(Debug)]
pub(crate) struct Tree {
    pub(crate) node: Node,
    /// The flow's name where it gives none.
    pub(crate) default_name: String,
    /// Where relative paths start.
    pub(crate) folder: PathBuf,
}

impl Tree {
    /// The flow as far as it can be read without checking: for its names.
    pub(crate) fn names(&self) -> Option<FlowConfig> {
        config_reader::read_flow(&self.node, &self.default_name, &mut Reading::default())
    }
}

/// Reads the flow of FILE, or gives the linked one; the problem is that it cannot be read, or is not YAML.
///
/// # Errors
/// `Wrong` when there is neither.
pub(crate) fn tree(
    tool: &Tool,
    file: Option<&Path>,
) -> Result<(Source, Result<Tree, Box<Problem>>), Failure> {
    let Some(file) = file else {
        let flow = tool.flow.as_ref().ok_or_else(no_file)?;
        let tree = Tree {
            node: flow.node().clone(),
            default_name: "flow".to_owned(),
            folder: PathBuf::from("."),
        };
        return Ok((Source::linked(), Ok(tree)));
    };
    let name = file.display().to_string();
    let text = match read(file) {
        Ok(text) => text,
        Err(problem) => return Ok((Source::file(name, String::new()), Err(Box::new(problem)))),
    };
    let tree = yaml::parse(&text).map(|node| Tree {
        node,
        default_name: stem(file),
        folder: folder_of(file),
    });
    Ok((Source::file(name, text), tree))
}

/// The name of a flow and the folder of its state, also when the flow has problems elsewhere.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct StatePlace {
    pub(crate) flow: String,
    pub(crate) folder: PathBuf,
    /// The names of the pipelines.
    pub(crate) pipelines: Vec<String>,
}

impl StatePlace {
    /// Nothing was found of a pipeline: that may be because there is none.
    ///
    /// # Errors
    /// `Wrong` for a name that no pipeline has.
    pub(crate) fn check_pipeline(&self, name: Option<&str>) -> Result<(), Failure> {
        let known = || self.pipelines.iter().map(String::as_str);
        match name.filter(|name| !known().any(|known| known == *name)) {
            Some(name) => Err(Failure::wrong(format!(
                "the flow has no pipeline `{name}`: {}",
                possible(name, known())
            ))),
            None => Ok(()),
        }
    }
}

/// Finds the state of FILE's flow, or of the linked one; `--state` goes first.
///
/// # Errors
/// `Wrong` when the file cannot be read, or says neither name nor state.
pub(crate) fn state_place(tool: &Tool, file: Option<&Path>) -> Result<StatePlace, Failure> {
    let (node, default_name, folder) = match file {
        Some(file) => {
            let text = read(file).map_err(|problem| Failure::wrong(problem.message))?;
            let node = yaml::parse(&text).map_err(|problem| broken(file, &problem))?;
            (node, stem(file), folder_of(file))
        }
        None => {
            let flow = tool.flow.as_ref().ok_or_else(no_file)?;
            (flow.node().clone(), "flow".to_owned(), PathBuf::from("."))
        }
    };
    let place = place_in(&node, &default_name, &folder).ok_or_else(|| {
        let file = file.map_or_else(
            || "the flow".to_owned(),
            |file| format!("`{}`", file.display()),
        );
        Failure::wrong(format!(
            "{file} is no flow that could have a state: `wiredflow check` says why"
        ))
    })?;
    let folder = tool.global.state.clone().unwrap_or(place.folder);
    Ok(StatePlace { folder, ..place })
}

fn place_in(node: &Node, default_name: &str, folder: &Path) -> Option<StatePlace> {
    let mut reading = Reading::default();
    let filled = fill(
        node,
        &SystemLookup::new(folder),
        &mut reading,
        &mut Vec::new(),
    );
    let flow = config_reader::read_flow(&filled, default_name, &mut reading)?;
    Some(StatePlace {
        folder: folder.join(&flow.state),
        flow: flow.name,
        pipelines: flow.pipelines.into_iter().map(|one| one.name).collect(),
    })
}

/// Reads a flow file: text, and not more of it than a flow may have.
pub(crate) fn read(file: &Path) -> Result<String, Problem> {
    let name = file.display();
    let problem = |message: String| Problem::error(Span::default(), "", message);
    if file.is_dir() {
        let help = format!(
            "name the flow file in it: `{}`",
            file.join("flow.yaml").display()
        );
        return Err(problem(format!("`{name}` is a folder")).with_help(help));
    }
    let mut bytes = Vec::new();
    let most = yaml::MAX_FILE as u64 + 1;
    File::open(file)
        .and_then(|opened| opened.take(most).read_to_end(&mut bytes))
        .map_err(|error| {
            let told = problem(format!("cannot read `{name}`: {error}"));
            if error.kind() == std::io::ErrorKind::NotFound {
                told.with_help("`wiredflow init DIR` writes a first flow")
            } else {
                told
            }
        })?;
    String::from_utf8(bytes).map_err(|_| problem(format!("`{name}` is not text in UTF-8")))
}

fn broken(file: &Path, problem: &Problem) -> Failure {
    let Span { line, column, .. } = problem.span;
    let message = &problem.message;
    Failure::wrong(format!("`{}`:{line}:{column}: {message}", file.display()))
}

fn no_file() -> Failure {
    Failure::wrong("name the flow file")
}

/// The folder of a file: relative paths start here.
pub(crate) fn folder_of(file: &Path) -> PathBuf {
    match file.parent() {
        Some(folder) if folder != Path::new("") => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// The flow's name where it gives none.
fn stem(file: &Path) -> String {
    let stem = file.file_stem().unwrap_or_default();
    stem.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_is_found_though_the_flow_is_broken_elsewhere() {
        let text = "name: s\nstate: there\npipelines: {p: {evry: 1s, stages: [{http: '${env:NO_SUCH_NAME}'}]}}\n";
        let place = place_in(&yaml::parse(text).unwrap(), "flow", Path::new("x")).unwrap();
        assert_eq!(
            (place.flow.as_str(), place.folder.as_path()),
            ("s", Path::new("x/there"))
        );
    }

    #[test]
    fn a_file_stands_for_its_folder_and_name() {
        assert_eq!(folder_of(Path::new("flow.yaml")), Path::new("."));
        assert_eq!(folder_of(Path::new("a/b.yaml")), Path::new("a"));
        assert_eq!(stem(Path::new("a/my.flow.yaml")), "my.flow");
    }
}
