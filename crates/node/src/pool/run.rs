//! One task from its message to its end.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use wiredflow_core::engine::{Name, Settlement, Taken};
use wiredflow_core::frame::{self, CREDIT, Ended, FRAME_LIMIT, Failure, Frame, PayloadRef};
use wiredflow_core::{Error, ErrorKind, Map, Result};
use wiredflow_engine::pool::words::{Answer, Task, What};
use wiredflow_engine::pool::{RELEASE, RULES, TRIAL, letter};
use wiredflow_engine::worker::Given;

use super::Pool;
use super::contact::{Begun, Contact, Over};
use super::shop::{End, Job};

/// When a task is given again that this node does not take.
const NOT_MINE: Duration = Duration::from_secs(3);

/// When a task is given again whose flow is not there, and how often before it is nobody's.
const NOBODY: Duration = Duration::from_secs(5);
const NOBODY_TIMES: u32 = 12;

/// How many bytes of outputs are said at once.
const AT_ONCE: usize = 256 << 10;

/// How often, and how long, a flow that could not be reached is told that its task is free: an engine that is away for longer makes
/// it wait a few seconds more.
const LATE_WORDS: u32 = 300;
const LATE_EACH: Duration = Duration::from_secs(1);

/// How often the end of a message is said.
const SETTLES: u32 = 3;

/// Works on a task, and settles its message: after its flow has answered, and not before.
pub(crate) async fn work(pool: &Arc<Pool>, queue: &Name, taken: Taken) {
    let engine = &*pool.engine;
    let extend = async {
        loop {
            pool.around.clock.sleep(RULES.sign_within / 3).await;
            // One that is lost is made up for by the next.
            drop(engine.extend(&taken.token).await);
        }
    };
    let how = tokio::select! {
        how = attempt(pool, queue, &taken) => how,
        () = extend => return,
    };
    for _ in 0..SETTLES {
        match engine.settle(&taken.token, how).await {
            Ok(()) => return,
            // It is taken away when it comes again.
            Err(_) => pool.around.clock.sleep(Duration::from_millis(500)).await,
        }
    }
}

async fn attempt(pool: &Arc<Pool>, queue: &Name, taken: &Taken) -> Settlement {
    let read = letter::read::<Task>(&taken.body);
    let (head, rest) = match read {
        Ok(read) => read,
        Err(error) if error.kind() == ErrorKind::Config => {
            tracing::warn!("a task of `{queue}` is not taken: {error}");
            return Settlement::Again(NOT_MINE);
        }
        Err(error) => {
            tracing::warn!("a message of `{queue}` is thrown away: {error}");
            return Settlement::Never;
        }
    };
    let by = format!("{:016x}", pool.around.dice.number());
    let clock = pool.around.clock.clone();
    let node = &pool.options.name;
    let contact = Contact::new(Arc::clone(&pool.engine), head.clone(), (node, by), clock);
    let contact = match contact {
        Ok(contact) => Arc::new(contact),
        Err(error) => {
            tracing::warn!("a message of `{queue}` is thrown away: {error}");
            return Settlement::Never;
        }
    };
    if let Some(words) = objection(pool, &head) {
        contact.tell(What::Refused { words }).await;
        return Settlement::Again(NOT_MINE);
    }
    let credit = match contact.begin(&pool.address).await {
        Begun::Go(credit) => credit,
        Begun::NotWanted => return Settlement::Done,
        Begun::Nobody if taken.attempt > NOBODY_TIMES => return Settlement::Never,
        Begun::Nobody => return Settlement::Again(NOBODY),
    };
    let _runs = pool.runs(&head.token, &contact);
    let ended = tokio::select! {
        biased;
        ended = begun(pool, &head, rest, &contact, credit) => ended,
        () = contact.over() => Err(Over),
        () = contact.beat() => Err(Over),
        () = pool.leaves.cancelled() => return leave(&contact).await,
    };
    match ended {
        Ok(()) => Settlement::Done,
        Err(Over) if contact.was_unwanted() => Settlement::Done,
        Err(Over) => {
            tracing::warn!("`{}` is ended: its flow is not heard of", head.label);
            tell_late(pool, contact);
            Settlement::Again(Duration::ZERO)
        }
    }
}

/// Why this node does not take a task; none where it does.
fn objection(pool: &Pool, head: &Task) -> Option<String> {
    if head.release != RELEASE {
        return Some(format!(
            "it is of release {}, and this is {RELEASE}: use the same release on all machines",
            head.release
        ));
    }
    if !pool.options.kinds.contains(&head.kind) && head.kind != TRIAL {
        return Some(format!("it takes no `{}` (`--allow`)", head.kind));
    }
    pool.shop.objection(&head.setting)
}

/// Tells a flow that could not be reached that its task is free, as soon as it can be reached: it need not wait for the silence
/// to be long enough then.
fn tell_late(pool: &Arc<Pool>, contact: Arc<Contact>) {
    let clock = pool.around.clock.clone();
    pool.around.tasks.spawn("node late word", async move {
        for _ in 0..LATE_WORDS {
            if contact.tell(What::Left).await {
                return;
            }
            clock.sleep(LATE_EACH).await;
        }
    });
}

/// Tells the flow that others shall have it.
async fn leave(contact: &Contact) -> Settlement {
    match contact.tell(What::Left).await {
        true => Settlement::Done,
        false => Settlement::Again(Duration::ZERO),
    }
}

/// The task is ours: has its call done and says what comes of it.
async fn begun(
    pool: &Pool,
    head: &Task,
    rest: letter::Rest,
    contact: &Arc<Contact>,
    credit: u64,
) -> Result<(), Over> {
    let call = async {
        let bytes = rest.take(&*pool.engine, &head.task, false).await?;
        match letter::frames(bytes)?.pop() {
            Some(Frame::Call(call)) => Ok(call),
            _ => Err(Error::bug("a task without a call")),
        }
    };
    let call = match call.await {
        Ok(call) => call,
        // The flow knows better whether it is still there.
        Err(error) if error.kind() == ErrorKind::Remote => {
            let words = format!("cannot read the task: {error}");
            return contact
                .ask(What::Died { words }, Bytes::new())
                .await
                .map(drop);
        }
        Err(error) => {
            let failed = Frame::Error(Failure::of(Some(1), &error));
            return say(contact, &[&failed]).await.map(drop);
        }
    };
    let job = Job {
        setting: head.setting.clone(),
        label: head.label.clone(),
        call,
    };
    let (out, outputs) = mpsc::channel(CREDIT as usize);
    let work = pool.shop.work(job, out, Arc::clone(contact));
    Talk {
        contact,
        outputs,
        credit,
        sent: 0,
    }
    .until_end(work)
    .await
}

/// Says frames, and hears how many outputs may be sent in all.
async fn say(contact: &Contact, frames: &[&Frame]) -> Result<u64, Over> {
    let mut bytes = Vec::new();
    for frame in frames {
        bytes.extend(frame::encode(frame, usize::MAX).unwrap_or_default());
    }
    said(contact, bytes).await
}

async fn said(contact: &Contact, frames: Vec<u8>) -> Result<u64, Over> {
    match contact.ask(What::Say, frames.into()).await? {
        (Answer::Heard { credit }, _) => Ok(credit),
        _ => Ok(0),
    }
}

/// The outputs of a call on their way to its flow, in their order and as many as it takes.
struct Talk<'a> {
    contact: &'a Arc<Contact>,
    outputs: mpsc::Receiver<Given>,
    /// How many outputs may be sent in all.
    credit: u64,
    sent: u64,
}

/// An output whose parts are borrowed.
#[derive(serde::Serialize)]
#[serde(tag = "type", rename = "output")]
struct OutputRef<'a> {
    id: u64,
    seq: u64,
    batch: Option<PayloadRef<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    params: Option<&'a Map>,
}

impl Talk<'_> {
    async fn until_end(mut self, work: impl Future<Output = End>) -> Result<(), Over> {
        tokio::pin!(work);
        let mut end = None;
        loop {
            let mut frames = Vec::new();
            let may_send = self.sent < self.credit;
            tokio::select! {
                biased;
                () = std::future::ready(()), if end.is_some() => {}
                Some(given) = self.outputs.recv(), if may_send => {
                    if let Err(error) = self.write(&given, &mut frames) {
                        end = Some(End::Failed(error, None));
                    }
                }
                ended = &mut work, if end.is_none() => end = Some(ended),
                () = self.contact.has_lines() => {}
                // The flow answers when there is room.
                () = std::future::ready(()), if !may_send && !self.outputs.is_empty() => {}
            }
            while self.sent < self.credit && frames.len() < AT_ONCE && !is_failed(&end) {
                let Ok(given) = self.outputs.try_recv() else {
                    break;
                };
                if let Err(error) = self.write(&given, &mut frames) {
                    end = Some(End::Failed(error, None));
                }
            }
            for line in self.contact.lines() {
                frames.extend(frame::encode(&Frame::Log(line), FRAME_LIMIT).unwrap_or_default());
            }
            let all_sent = self.outputs.is_empty() || is_failed(&end);
            if let Some(ended) = end.take_if(|_| all_sent) {
                return self.end(ended, frames).await;
            }
            self.credit = said(self.contact, frames).await?;
        }
    }

    /// Adds an output to what is said next.
    fn write(&mut self, given: &Given, frames: &mut Vec<u8>) -> Result<()> {
        let output = OutputRef {
            id: 1,
            seq: self.sent,
            batch: PayloadRef::of(&given.batch).filter(|_| given.params.is_none()),
            params: given.params.as_ref(),
        };
        let bytes = frame::encode(&output, FRAME_LIMIT);
        frames.extend(bytes.map_err(|error| Error::data(error.to_string()))?);
        self.sent += 1;
        Ok(())
    }

    /// Says how the call ended, after what was to be said before.
    async fn end(&self, end: End, mut frames: Vec<u8>) -> Result<(), Over> {
        let frame = match end {
            End::Done { passed, used } => Frame::Done(Ended {
                id: 1,
                passed,
                used,
            }),
            End::Failed(error, used) => Frame::Error(Failure {
                used,
                ..Failure::of(Some(1), &error)
            }),
            End::Died(error) => {
                let words = error.message().to_owned();
                if !frames.is_empty() {
                    said(self.contact, frames).await?;
                }
                return self.over(What::Died { words }).await;
            }
            End::Unfit(error) => {
                let words = error.message().to_owned();
                return self.over(What::Refused { words }).await;
            }
        };
        let bytes = frame::encode(&frame, FRAME_LIMIT).or_else(|error| {
            let error = Error::data(error.to_string());
            frame::encode(&Frame::Error(Failure::of(Some(1), &error)), FRAME_LIMIT)
        });
        frames.extend(bytes.unwrap_or_default());
        said(self.contact, frames).await.map(drop)
    }

    /// The last word, after which the attempt is nobody's.
    async fn over(&self, what: What) -> Result<(), Over> {
        self.contact.ask(what, Bytes::new()).await.map(drop)
    }
}

fn is_failed(end: &Option<End>) -> bool {
    matches!(end, Some(End::Failed(..)))
}
