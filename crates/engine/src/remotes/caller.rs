//! Remotes that take whole calls: a service, or a scheduler of batch jobs, whose own code does the work.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sha2::{Digest, Sha256};
use wiredflow_core::stage::{BoxFuture, Cx};
use wiredflow_core::{Batch, Error, ErrorKind, Map, Result, Value};

use crate::clock::Dice;
use crate::logic::document;

/// The most calls whose names are kept for their next attempt.
const NAMES: usize = 4096;

/// One call, for those who do it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Order<'a> {
    /// Its name: the same in each attempt of a call whose outcome is not known, and never that of another call.
    pub(crate) id: &'a str,
    /// The records.
    pub(crate) batch: &'a Batch,
    /// The stage's own params, and over them those of a configuration.
    pub(crate) params: &'a Map,
    /// The call's surroundings.
    pub(crate) cx: &'a Cx,
}

impl Order<'_> {
    /// What is asked for, as one document.
    pub(crate) fn document(&self) -> Value {
        let Cx {
            flow,
            pipeline,
            stage,
            attempt,
            ..
        } = self.cx;
        serde_json::json!({
            "id": self.id,
            "flow": &**flow,
            "pipeline": &**pipeline,
            "stage": &**stage,
            "attempt": attempt,
            "params": self.params,
            "batch": document(self.batch),
        })
    }
}

/// Has calls done.
pub(crate) trait Caller: fmt::Debug + Send + Sync + 'static {
    /// Has it done, and gives what was made of it. Dropping the future ends what has begun there, as far as that can be.
    ///
    /// An error of kind `Remote` leaves open whether it was done: the next attempt comes under the same name. One that is
    /// [unsent](Error::is_unsent) has reached nobody.
    fn call<'a>(&'a self, order: Order<'a>) -> BoxFuture<'a, Result<Batch>>;

    /// Looks whether it can be asked, without having anything done; says what was found.
    fn look<'a>(&'a self, cx: &'a Cx) -> BoxFuture<'a, Result<String>>;
}

/// The calls of one stage to one such remote.
#[derive(Debug)]
pub(super) struct Calls {
    caller: Box<dyn Caller>,
    /// The stage's own params.
    params: Map,
    dice: Dice,
    names: Mutex<HashMap<[u8; 32], Known>>,
}

/// A call whose last attempt has left open whether it was done.
#[derive(Clone, Debug)]
struct Known {
    name: Arc<str>,
    /// Whether an attempt may have reached somebody.
    may_be_there: bool,
}

impl Calls {
    pub(super) fn new(caller: Box<dyn Caller>, params: Map, dice: Dice) -> Self {
        Self {
            caller,
            params,
            dice,
            names: Mutex::default(),
        }
    }

    /// Has a batch worked on.
    pub(super) async fn call(&self, batch: &Batch, cx: &Cx) -> Result<Batch> {
        let mut params = self.params.clone();
        for (name, value) in cx.params.iter() {
            params.insert(name.clone(), value.clone());
        }
        let content = self.content(batch, &params, cx)?;
        let known = self.known(content, cx);
        let order = Order {
            id: &known.name,
            batch,
            params: &params,
            cx,
        };
        let result = self.caller.call(order).await;
        match &result {
            Err(error) if error.kind() == ErrorKind::Remote => {
                if let Some(kept) = self.names().get_mut(&content) {
                    kept.may_be_there |= !error.is_unsent();
                }
            }
            _ => {
                self.names().remove(&content);
            }
        }
        // Another place must not do what an attempt before may have begun here.
        match known.may_be_there {
            true => result.map_err(Error::as_sent),
            false => result,
        }
    }

    /// What tells one call from others, but for those that are the same.
    fn content(&self, batch: &Batch, params: &Map, cx: &Cx) -> Result<[u8; 32]> {
        let content = (&*cx.pipeline, params, document(batch));
        let text = serde_json::to_vec(&content);
        let text =
            text.map_err(|error| Error::data(format!("cannot be written as JSON: {error}")))?;
        Ok(Sha256::digest(&text).into())
    }

    /// The call under its name: that of the attempt before, if there was one.
    fn known(&self, content: [u8; 32], cx: &Cx) -> Known {
        let mut names = self.names();
        if cx.attempt > 1
            && let Some(known) = names.get(&content)
        {
            return known.clone();
        }
        if names.len() >= NAMES {
            names.clear();
        }
        let (flow, pipeline, stage) = (&cx.flow, &cx.pipeline, &cx.stage);
        let number = self.dice.number();
        let name: Arc<str> = format!("{flow}__{pipeline}__{stage}__{number:016x}").into();
        let known = Known {
            name,
            may_be_there: false,
        };
        names.insert(content, known.clone());
        known
    }

    fn names(&self) -> MutexGuard<'_, HashMap<[u8; 32], Known>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
