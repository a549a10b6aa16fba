//! What a coordinator answers to those who work for it.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use wiredflow_core::engine::{Asked, Listener, Name};
use wiredflow_core::frame::{
    self, Done, FRAME_LIMIT, Failure, Frame, Level, Load, Payload, Rows, Save,
};
use wiredflow_core::{Error, ErrorKind, Result};

use super::book::Event;
use super::coordinator::Shared;
use super::words::{Answer, What, Word};
use super::{HOLD, letter};
use crate::worker::query_of;

/// How much of a setting or of code goes into one answer, at most.
const PART: usize = 512 << 10;

/// How long the desk waits before it listens again.
const PAUSE: Duration = Duration::from_secs(1);

/// How many refusals are told of.
const TOLD: usize = 100;

/// An answer: its head, and the frames or bytes after it.
type Said = (Answer, Vec<u8>);

impl Shared {
    /// Answers questions for ever.
    pub(super) async fn answer_all(self: Arc<Self>, first: Box<dyn Listener>) {
        let mut listener = Some(first);
        loop {
            let ear = match &mut listener {
                Some(ear) => ear,
                None => match self.engine.listen(&self.reply).await {
                    Ok(ear) => listener.insert(ear),
                    Err(_) => {
                        self.around.clock.sleep(PAUSE).await;
                        continue;
                    }
                },
            };
            match ear.next().await {
                Ok(asked) => self.hand_over(asked),
                Err(_) => {
                    listener = None;
                    self.around.clock.sleep(PAUSE).await;
                }
            }
        }
    }

    /// Has a question answered beside the others. One too many is not answered: it comes again.
    fn hand_over(self: &Arc<Self>, asked: Asked) {
        let Ok(place) = Arc::clone(&self.questions).try_acquire_owned() else {
            return;
        };
        let shared = Arc::clone(self);
        self.around.tasks.spawn("pool answer", async move {
            if let Some(answer) = shared.answer(asked.body).await {
                // Who has asked asks again where it is lost.
                drop(asked.reply.send(answer).await);
            }
            drop(place);
        });
    }

    /// The answer to a question; none where nobody could read it, or the engine failed meanwhile: it is asked again then.
    async fn answer(&self, body: Bytes) -> Option<Bytes> {
        let (word, rest) = match letter::read::<Word>(&body) {
            Ok(read) => read,
            Err(error) => {
                self.book().counts.unwanted += 1;
                tracing::warn!(
                    "a word at the pool `{}` was not taken: {error}",
                    self.order.remote
                );
                return None;
            }
        };
        let now = self.around.clock.monotonic();
        let said: Result<Said> = match &word.what {
            What::Begun { address } => Ok(self.begun(&word, address)),
            What::Fetch { hash, offset } => Ok(self.fetch(&word, hash, *offset)),
            What::Say => {
                let known = self.book().heard(&word, now).is_ok();
                match known {
                    true => self.said(&word, rest).await,
                    false => Ok((Answer::NotWanted, Vec::new())),
                }
            }
            What::Died { words } => Ok(self.gone(&word, &format!("died: {words}"), true)),
            What::Left => Ok(self.gone(&word, "was told to end", false)),
            What::Refused { words } => Ok(self.refused(&word, words)),
        };
        let (head, rest) = match said {
            Ok(said) => said,
            Err(error) if error.kind() == ErrorKind::Remote => return None,
            Err(error) => {
                // Whatever it is, it is not for the user's file to be changed.
                self.fail_of(&word, error.as_kind(ErrorKind::Data));
                (Answer::NotWanted, Vec::new())
            }
        };
        let part = format!("r-{}", &self.token()[..16]);
        let packed = letter::pack(&*self.engine, &head, rest.into(), (&word.task, &part)).await;
        match packed {
            Ok(packed) => {
                let left = packed
                    .blob
                    .and_then(|blob| self.book().keep(&word.task, blob));
                self.forget(left);
                Some(packed.body)
            }
            Err(error) => {
                tracing::debug!("an answer cannot be sent: {error}");
                None
            }
        }
    }

    fn begun(&self, word: &Word, address: &[String]) -> Said {
        let address = Name::new(address.iter().map(String::as_str));
        let now = self.around.clock.monotonic();
        let begun = match address {
            Ok(address) => self.book().begin(word, address, now).ok(),
            Err(_) => None,
        };
        (
            begun.map_or(Answer::NotWanted, |credit| Answer::Heard { credit }),
            Vec::new(),
        )
    }

    /// A part of the setting or of the code: both have their hashes, so that who asks can look.
    fn fetch(&self, word: &Word, hash: &str, offset: u64) -> Said {
        let now = self.around.clock.monotonic();
        let known = self.book().heard(word, now).is_ok();
        let code = self.order.pack.as_ref().filter(|pack| pack.hash() == hash);
        let bytes = match code {
            _ if !known => None,
            Some(code) => Some(code.bytes()),
            None if self.setting.1 == hash => Some(&*self.setting.0),
            None => None,
        };
        let Some(bytes) = bytes else {
            return (Answer::NotWanted, Vec::new());
        };
        let from = usize::try_from(offset)
            .unwrap_or(usize::MAX)
            .min(bytes.len());
        let most = PART.min(self.engine.about().longest / 2);
        let to = from.saturating_add(most).min(bytes.len());
        let total = bytes.len() as u64;
        (Answer::Part { total }, bytes[from..to].to_vec())
    }

    /// A node does not take an attempt. One that found that out after it had begun gives it to others.
    fn refused(&self, word: &Word, words: &str) -> Said {
        if self.book().knows(word).is_ok() {
            let (node, remote) = (&word.node, &self.order.remote);
            let text =
                format!("the node `{node}` of the pool `{remote}` does not take a call: {words}");
            let mut told = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
            if told.len() < TOLD && told.insert(text.clone()) {
                tracing::warn!("{text}");
            }
            drop(told);
            self.gone(word, "cannot do it", false);
        }
        (Answer::NotWanted, Vec::new())
    }

    /// The worker of an attempt is no more, and says so itself.
    fn gone(&self, word: &Word, why: &str, counts: bool) -> Said {
        let now = self.around.clock.monotonic();
        let known = self.book().heard_quietly(word, now).is_some();
        if known {
            self.lose(&word.task, why, counts);
        }
        (Answer::NotWanted, Vec::new())
    }

    /// Gives a task to another, and has it published.
    pub(super) fn lose(&self, task: &str, why: &str, counts: bool) {
        let over = self.book().again(task, why, counts, self.token());
        match over {
            Some(open) => self.forget(open.blobs),
            None => self.kick.notify_one(),
        }
    }

    fn fail_of(&self, word: &Word, error: Error) {
        let now = self.around.clock.monotonic();
        if self.book().heard(word, now).is_ok() {
            self.fail(&word.task, error);
        }
    }

    /// Takes what is said of an attempt. An error of another kind than `Remote` ends the call.
    async fn said(&self, word: &Word, rest: letter::Rest) -> Result<Said> {
        let bytes = rest.take(&*self.engine, &word.task, true).await?;
        let mut answers = Vec::new();
        for frame in letter::frames(bytes)? {
            match frame {
                Frame::Load(load) => answers.extend(self.load(load).await?),
                Frame::Save(save) => match self.save(word, save).await {
                    Some(answer) => answers.extend(answer?),
                    None => return Ok((Answer::NotWanted, Vec::new())),
                },
                frame => {
                    if !self.take(word, frame)? {
                        return Ok((Answer::NotWanted, Vec::new()));
                    }
                }
            }
        }
        Ok((self.credit(word).await, answers))
    }

    /// Takes a frame of the one that works on the task; false where that is nobody's any more. The end of a call is heard too.
    fn take(&self, word: &Word, frame: Frame) -> Result<bool> {
        let now = self.around.clock.monotonic();
        let mut book = self.book();
        let Ok(open) = book.heard(word, now) else {
            return Ok(false);
        };
        let broke = |reason: &str| Error::data(format!("the worker `{}` {reason}", word.node));
        let end = match frame {
            Frame::Output(output) => {
                open.take(output).map_err(|reason| broke(&reason))?;
                return Ok(true);
            }
            Frame::Log(log) => {
                drop(book);
                self.around.host.log(log.level, &log.message);
                return Ok(true);
            }
            Frame::Progress(progress) => {
                drop(book);
                self.around.host.log(Level::Info, &progress.note);
                return Ok(true);
            }
            Frame::Done(end) => Event::Done(Box::new(end)),
            Frame::Error(failure) if failure.id.is_some() => {
                let used = failure.used;
                Event::Failed(failure.into_error(), used)
            }
            _ => return Err(broke("said what only a host says")),
        };
        // There is a place for it beside the outputs; and nobody may wait any more.
        drop(open.events.try_send(end));
        let open = book.remove(&word.task);
        drop(book);
        self.forget(open.into_iter().flat_map(|open| open.blobs));
        Ok(true)
    }

    /// How many outputs may come, once there is room or that has taken too long. Of a call that has just ended too.
    async fn credit(&self, word: &Word) -> Answer {
        let now = self.around.clock.monotonic();
        let full = match self.book().heard_quietly(word, now) {
            // A call that has just ended needs none.
            None => return Answer::Heard { credit: 0 },
            Some(open) if open.credit() > open.outputs() => {
                let credit = open.credit();
                return Answer::Heard { credit };
            }
            Some(open) => (open.credit(), open.events.clone()),
        };
        let (credit, events) = full;
        tokio::select! {
            room = events.reserve_many(2) => drop(room),
            () = self.around.clock.sleep(HOLD) => return Answer::Heard { credit },
        }
        let now = self.around.clock.monotonic();
        match self.book().heard_quietly(word, now) {
            Some(open) => Answer::Heard {
                credit: open.credit(),
            },
            None => Answer::NotWanted,
        }
    }

    async fn load(&self, load: Load) -> Result<Vec<u8>> {
        let loaded = match query_of(&load.query) {
            Ok(query) => self.around.host.load(&load.storage, query).await,
            Err(error) => Err(error),
        };
        let answer = loaded.map(|loaded| {
            Frame::Rows(Rows {
                id: load.id,
                batch: Payload::of_loaded(loaded),
            })
        });
        answered(load.id, answer)
    }

    /// Saves once for each number of an attempt, however often it is asked for; none where the attempt is nobody's any more.
    async fn save(&self, word: &Word, save: Save) -> Option<Result<Vec<u8>>> {
        let now = self.around.clock.monotonic();
        let once = self.book().heard(word, now).ok()?.save(save.id);
        let (id, storage) = (save.id, save.storage);
        let rows = Payload::into_batch(save.batch);
        let saved = once.get_or_init(|| self.around.host.save(&storage, rows));
        let answer = saved.await.clone().map(|()| Frame::Saved(Done { id }));
        Some(answered(id, answer))
    }
}

/// The bytes of an answer to a load or save, a failure too.
fn answered(id: u64, answer: Result<Frame>) -> Result<Vec<u8>> {
    let failed = |error: &Error| Frame::Error(Failure::of(Some(id), error));
    let answer = answer.unwrap_or_else(|error| failed(&error));
    let bytes = frame::encode(&answer, FRAME_LIMIT).or_else(|error| {
        let error = Error::data(error.to_string());
        frame::encode(&failed(&error), FRAME_LIMIT)
    });
    bytes.map_err(|error| Error::bug(error.to_string()))
}
