//! `send`: delivers records to a receiver outside, and hands them on unchanged.

use std::sync::Arc;

use bytes::Bytes;
use wiredflow_core::fields::FromNode;
use wiredflow_core::frame::Role;
use wiredflow_core::node::Node;
use wiredflow_core::stage::{Cx, Emitter, Stage};
use wiredflow_core::storage::CommitReceipt;
use wiredflow_core::{Batch, Error, Record, Result, Value, config};

use crate::catalogue::{CheckCx, Prepared, StageEntry, Work};
use crate::check::unknown;
use crate::logic::{self, FunctionPlan, Logic};
use crate::resources::Resources;
use crate::senders::{AnySender, Message, SENDERS};

config! {
    /// Sends records. Beside its keys stands one receiver (`mqtt`, `http_post`, `http_put`; see below)
    /// or a function (`python:`, `rust:`, `program:`).
    pub struct SendKeys {
        /// Only this field's value is sent, a text as it is and anything else as JSON; a record without
        /// it is passed over. Left out, the whole record is sent as JSON.
        field: Option<String>,
        /// `false`: nothing waits for it. Its records go into a queue on the disk, from which they are worked off by
        /// themselves; what fails for good is a dead letter.
        required: bool = "true",
    }
}

/// The line in the catalogue.
pub(crate) const ENTRY: StageEntry = StageEntry::with::<SendKeys>(
    "send",
    "send: {mqtt: {broker: \"localhost:1883\", topic: demo/sorted}, field: sorted list}",
    Work::PeerSink,
    prepare,
);

fn prepare(node: &Node, cx: &mut CheckCx<'_>) -> Option<Prepared> {
    if logic::is_function(node) {
        return prepare_function(node, cx);
    }
    let (kind, options) =
        wiredflow_core::config::split_kind(node, &["field", "required"], "`send`", cx.reading)?;
    let keys = read_keys(&options, cx)?;
    let Some(entry) = SENDERS.iter().find(|entry| entry.card.name == kind.key) else {
        let names = SENDERS
            .iter()
            .map(|entry| entry.card.name)
            .chain(["python", "rust", "program"]);
        unknown(&kind.key, "receiver", kind.span, names, &[], cx);
        return None;
    };
    let open = crate::check::inside(&kind.key, cx, |cx| (entry.prepare)(&kind.value, cx))?;
    let field: Option<Arc<str>> = keys.field.map(Arc::from);
    let send = Prepared::new(Work::PeerSink, move |resources: Resources| {
        let (open, field) = (open.clone(), field.clone());
        async move { Ok(Send::by((open.0)(resources).await?, field)) }
    });
    Some(send.required(keys.required))
}

fn prepare_function(node: &Node, cx: &mut CheckCx<'_>) -> Option<Prepared> {
    let (function, options) = crate::check::split_options(node, &["field", "required"]);
    let keys = read_keys(&options, cx)?;
    let plan = logic::prepare(&function, Role::Send, cx)?;
    let field: Option<Arc<str>> = keys.field.map(Arc::from);
    let send = Prepared::new(Work::Function, move |resources: Resources| {
        let (plan, field): (FunctionPlan, _) = (plan.clone(), field.clone());
        async move {
            let receiver = Arc::clone(&resources.stage);
            Ok(SendFunction {
                logic: plan.open(&resources).await?,
                field,
                receiver,
            })
        }
    });
    Some(send.required(keys.required))
}

fn read_keys(options: &Node, cx: &mut CheckCx<'_>) -> Option<SendKeys> {
    SendKeys::from_node(options, cx.reading)
}

/// Sends by a component.
pub(crate) struct Send {
    sender: Box<dyn AnySender>,
    field: Option<Arc<str>>,
}

impl Send {
    /// Sends each record, or one field of it, by this sender.
    pub(crate) fn by(sender: Box<dyn AnySender>, field: Option<Arc<str>>) -> Self {
        Self { sender, field }
    }
}

impl Stage for Send {
    async fn run(&self, batch: &Batch, out: &mut Emitter<'_>, cx: &Cx) -> Result<()> {
        let messages = messages(batch, self.field.as_deref())?;
        let receipt = match messages.is_empty() {
            true => nothing_to_send(batch, cx),
            false => Some(self.sender.send_boxed(&messages, cx).await?),
        };
        say_passed_over(self.field.as_deref(), batch.len() - messages.len(), out);
        out.pass(receipt);
        Ok(())
    }
}

/// A misspelt `field` must not be a silence.
fn say_passed_over(field: Option<&str>, records: usize, out: &mut Emitter<'_>) {
    if let Some(field) = field {
        out.pass_over(records, &format!("a record has no `{field}` to send"));
    }
}

/// A receipt for no rows: there was nothing to deliver.
fn nothing_to_send(batch: &Batch, cx: &Cx) -> Option<CommitReceipt> {
    (!batch.is_empty()).then(|| CommitReceipt::issue(Arc::clone(&cx.stage), 0))
}

/// The user's own sender: done when the function returns.
struct SendFunction {
    logic: Logic,
    field: Option<Arc<str>>,
    receiver: Arc<str>,
}

impl Stage for SendFunction {
    async fn run(&self, batch: &Batch, out: &mut Emitter<'_>, cx: &Cx) -> Result<()> {
        let data = match &self.field {
            None => batch.clone(),
            Some(field) => {
                let values = batch.records().iter();
                let chosen = values
                    .filter_map(|record| Some(record.with_value(chosen(record, field)?.clone())));
                Batch::new(chosen.collect()).as_list(batch.is_list())
            }
        };
        let receipt = if data.is_empty() {
            nothing_to_send(batch, cx)
        } else {
            self.logic.call_once(&data, cx).await?;
            let receiver = Arc::clone(&self.receiver);
            Some(CommitReceipt::issue(receiver, data.len()))
        };
        let passed_over = batch.len() - data.len();
        say_passed_over(self.field.as_deref(), passed_over, out);
        out.pass(receipt);
        Ok(())
    }
}

fn messages(batch: &Batch, field: Option<&str>) -> Result<Vec<Message>> {
    let mut messages = Vec::with_capacity(batch.len());
    for (index, record) in batch.records().iter().enumerate() {
        let value = match field {
            None => Some(record.value()),
            Some(field) => chosen(record, field),
        };
        let Some(value) = value else { continue };
        messages.push(message(index, value, field.is_some())?);
    }
    Ok(messages)
}

/// The value of a field; nothing where it is absent or null.
fn chosen<'r>(record: &'r Record, field: &str) -> Option<&'r Value> {
    record.value().get(field).filter(|value| !value.is_null())
}

fn message(record: usize, value: &Value, bare_text: bool) -> Result<Message> {
    if let (true, Value::String(text)) = (bare_text, value) {
        return Ok(Message {
            record,
            body: Bytes::from(text.clone()),
            json: false,
        });
    }
    let body = serde_json::to_vec(value).map_err(|error| {
        Error::data(format!("cannot be written as JSON: {error}")).at_record(record)
    })?;
    Ok(Message {
        record,
        body: Bytes::from(body),
        json: true,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(field: Option<&str>, expected: &[(&str, bool)]) {
        let batch = Batch::of_values(vec![
            json!({"a": "x y", "b": [1, 2]}),
            json!({"b": null}),
            json!(5),
        ]);
        let found: Vec<_> = messages(&batch, field)
            .unwrap()
            .into_iter()
            .map(|message| {
                (
                    String::from_utf8(message.body.to_vec()).unwrap(),
                    message.json,
                )
            })
            .collect();
        let expected: Vec<_> = expected
            .iter()
            .map(|(text, json)| ((*text).to_owned(), *json))
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_field_is_sent_as_bare_text_or_json_and_records_without_it_are_passed_over() {
        check(Some("a"), &[("x y", false)]);
        check(Some("b"), &[("[1,2]", true)]);
        check(
            None,
            &[
                (r#"{"a":"x y","b":[1,2]}"#, true),
                (r#"{"b":null}"#, true),
                ("5", true),
            ],
        );
    }
}
