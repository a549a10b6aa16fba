//! What a request asks: its path's parts and its query, with what is unknown refused.

use std::sync::Arc;

use axum::http::StatusCode;
use wiredflow_core::problem::possible;

use crate::answer::{Answer, refused};
use crate::desk::{Desk, Live};
use crate::gate::Caller;
use crate::tokens::Role;

/// A request that was let in.
pub(crate) struct Question {
    pub(crate) desk: Arc<Desk>,
    pub(crate) caller: Caller,
    /// What stands in the braces of the path.
    pub(crate) part: String,
    query: Vec<(String, String)>,
}

impl Question {
    /// The question of a path's part and a query whose names are `known`.
    ///
    /// # Errors
    /// The answer to a query that says something else.
    pub(crate) fn new(
        desk: Arc<Desk>,
        caller: Caller,
        part: String,
        query: Vec<(String, String)>,
        known: &[&str],
    ) -> Result<Self, Answer> {
        for (index, (name, _)) in query.iter().enumerate() {
            if !known.contains(&name.as_str()) {
                let help = match known.is_empty() {
                    true => "nothing is asked for here".to_owned(),
                    false => possible(name, known.iter().copied()),
                };
                return Err(bad(format!("`{}` is unknown: {help}", name.escape_debug())));
            }
            if query[..index].iter().any(|(earlier, _)| earlier == name) {
                return Err(bad(format!("`{name}` is given twice")));
            }
        }
        Ok(Self {
            desk,
            caller,
            part,
            query,
        })
    }

    /// The flow that runs now.
    ///
    /// # Errors
    /// The answer while there is none.
    pub(crate) fn live(&self) -> Result<Arc<Live>, Answer> {
        self.desk.live()
    }

    /// Whether what may quote data is to be left out.
    pub(crate) fn sees_no_payload(&self) -> bool {
        self.caller.role == Role::Viewer
    }

    /// What the query says of a name.
    pub(crate) fn said(&self, name: &str) -> Option<&str> {
        let mut query = self.query.iter();
        let found = query.find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// A whole number of the query.
    ///
    /// # Errors
    /// The answer to one out of its bounds.
    pub(crate) fn number(&self, name: &str, usual: u64, bounds: (u64, u64)) -> Result<u64, Answer> {
        let Some(said) = self.said(name) else {
            return Ok(usual);
        };
        let (least, most) = bounds;
        let is_plain = !said.is_empty() && said.bytes().all(|byte| byte.is_ascii_digit());
        match said.parse() {
            Ok(number) if is_plain && (least..=most).contains(&number) => Ok(number),
            _ => Err(bad(format!(
                "`{name}` is a whole number from {least} to {most}"
            ))),
        }
    }

    /// A pipeline that the query names.
    ///
    /// # Errors
    /// The answer to one that is not there.
    pub(crate) fn pipeline(&self, live: &Live) -> Result<Option<&str>, Answer> {
        let Some(name) = self.said("pipeline") else {
            return Ok(None);
        };
        let known = || live.plan.pipelines.iter().map(|pipeline| &*pipeline.name);
        if known().any(|known| known == name) {
            return Ok(Some(name));
        }
        let help = possible(name, known());
        let why = format!("there is no pipeline `{}`: {help}", name.escape_debug());
        Err(refused(StatusCode::NOT_FOUND, why))
    }
}

/// The answer to a question that makes no sense.
pub(crate) fn bad(why: impl AsRef<str>) -> Answer {
    refused(StatusCode::BAD_REQUEST, why)
}
