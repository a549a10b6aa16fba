//! Words of those who are none of a task's workers, or of another release: cases G12 and G13.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::time::sleep;
use wiredflow_core::ErrorKind;
use wiredflow_core::engine::{Engine, Name, Taken};
use wiredflow_core::frame::{self, Frame, Output, Payload};
use wiredflow_engine::pool::words::{Answer, Task, What, Word};
use wiredflow_engine::pool::{RELEASE, VERSION, letter, queue_of};

use crate::bench::{Bench, outputs};

const SOON: Duration = Duration::from_secs(1);

fn queue() -> Name {
    queue_of(&[], "core_logic").unwrap()
}

/// One that takes a task by hand.
struct Stranger {
    engine: Arc<dyn Engine>,
    head: Task,
}

impl Stranger {
    async fn takes(bench: &Bench) -> Self {
        let engine = bench.model.client("stranger");
        let taken = engine.pull(&queue(), 1, SOON).await.unwrap();
        let head = head(&taken[0]);
        Self { engine, head }
    }

    fn word(&self, what: What) -> Word {
        Word {
            version: VERSION,
            task: self.head.task.clone(),
            attempt: self.head.attempt,
            token: self.head.token.clone(),
            by: "me".to_owned(),
            node: "stranger".to_owned(),
            what,
        }
    }

    fn begins(&self) -> Word {
        let address = vec!["nodes".to_owned(), "stranger".to_owned()];
        self.word(What::Begun { address })
    }

    async fn says(&self, word: &Word, rest: Vec<u8>) -> Option<Answer> {
        let packed = letter::pack(&*self.engine, word, rest.into(), (&word.task, "x")).await;
        self.asks(packed.unwrap().body).await
    }

    async fn asks(&self, body: Bytes) -> Option<Answer> {
        let reply = Name::new(self.head.reply.iter().map(String::as_str)).unwrap();
        let answer = self.engine.ask(&reply, body, 3 * SOON).await.ok()?;
        Some(letter::read::<Answer>(&answer).unwrap().0)
    }
}

fn head(taken: &Taken) -> Task {
    letter::read::<Task>(&taken.body).unwrap().0
}

fn output(seq: u64, value: Value) -> Vec<u8> {
    let output = Output {
        id: 1,
        seq,
        batch: Some(Payload::One(value)),
        params: None,
    };
    frame::encode(&Frame::Output(output), usize::MAX).unwrap()
}

#[tokio::test(start_paused = true)]
async fn g12_only_who_has_the_token_and_has_begun_is_heard() {
    let bench = Bench::new(1).await;
    let called = bench.call(json!({"n": 1, "outputs": 1})).await.unwrap();
    let stranger = Stranger::takes(&bench).await;
    let lie = output(0, json!({"at": 99}));
    // It has not begun.
    let say = stranger.word(What::Say);
    assert_eq!(
        stranger.says(&say, lie.clone()).await,
        Some(Answer::NotWanted)
    );
    // A token of another task, another attempt, another task.
    let begins = stranger.begins();
    for wrong in [
        Word {
            token: "0".repeat(32),
            ..begins.clone()
        },
        Word {
            attempt: 2,
            ..begins.clone()
        },
        Word {
            task: "another".to_owned(),
            ..begins.clone()
        },
    ] {
        assert_eq!(
            stranger.says(&wrong, Vec::new()).await,
            Some(Answer::NotWanted)
        );
    }
    assert_eq!(bench.pool.counts().unwanted, 4);
    let _node = bench.node("a");
    sleep(30 * SOON).await;
    let late = stranger.says(&say, lie).await;
    assert_eq!(late, Some(Answer::NotWanted));
    assert_eq!(outputs(called).await.unwrap(), [0]);
}

#[tokio::test(start_paused = true)]
async fn g12_outputs_that_nobody_asked_for_end_the_call_and_not_the_flow() {
    for lie in [
        (0..9)
            .flat_map(|seq| output(seq, json!({"at": seq})))
            .collect::<Vec<u8>>(),
        output(5, json!({"at": 5})),
        b"\0\0\0\x05hello".to_vec(),
        vec![255; 64],
        frame::encode(&Frame::Heartbeat(frame::Heartbeat {}), 100).unwrap(),
    ] {
        let bench = Bench::new(1).await;
        let called = bench.call(json!({"n": 1})).await.unwrap();
        let stranger = Stranger::takes(&bench).await;
        stranger.says(&stranger.begins(), Vec::new()).await.unwrap();
        let say = stranger.word(What::Say);
        assert_eq!(stranger.says(&say, lie).await, Some(Answer::NotWanted));
        assert_eq!(outputs(called).await.unwrap_err().kind(), ErrorKind::Data);
        let _node = bench.node("a");
        assert_eq!(
            bench.whole(json!({"n": 2, "outputs": 1})).await.unwrap(),
            [0]
        );
    }
}

#[tokio::test(start_paused = true)]
async fn g12_a_result_that_is_too_long_is_refused_unread() {
    let bench = Bench::new(1).await;
    let called = bench.call(json!({"n": 1})).await.unwrap();
    let stranger = Stranger::takes(&bench).await;
    stranger.says(&stranger.begins(), Vec::new()).await.unwrap();
    let word = serde_json::to_vec(&stranger.word(What::Say)).unwrap();
    let letter = |place: Value| {
        let mut body = vec![1];
        body.extend(u32::try_from(word.len()).unwrap().to_be_bytes());
        body.extend(&word);
        body.extend(place.to_string().bytes());
        Bytes::from(body)
    };
    // A place that leads elsewhere is none.
    let elsewhere = letter(json!({"part": "*.>", "length": 10}));
    let answer = stranger.asks(elsewhere).await;
    assert_eq!(answer, Some(Answer::NotWanted));
    assert_eq!(outputs(called).await.unwrap_err().kind(), ErrorKind::Data);

    let called = bench.call(json!({"n": 2})).await.unwrap();
    let stranger = Stranger::takes(&bench).await;
    stranger.says(&stranger.begins(), Vec::new()).await.unwrap();
    // It says that it is short, and is long.
    let name = Name::new(["pool", stranger.head.task.as_str(), "long"]).unwrap();
    let long = Bytes::from(vec![0; letter::MOST + 1]);
    stranger.engine.put_blob(&name, long).await.unwrap();
    let word = serde_json::to_vec(&stranger.word(What::Say)).unwrap();
    for length in [1_u64 << 30, 10] {
        let mut body = vec![1];
        body.extend(u32::try_from(word.len()).unwrap().to_be_bytes());
        body.extend(&word);
        body.extend(
            json!({"part": "long", "length": length})
                .to_string()
                .bytes(),
        );
        assert_eq!(stranger.asks(body.into()).await, Some(Answer::NotWanted));
    }
    let error = outputs(called).await.unwrap_err();
    assert!(error.message().contains("1024 MiB"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn g13_a_word_of_another_version_is_not_used() {
    let bench = Bench::new(1).await;
    let called = bench.call(json!({"n": 1, "outputs": 1})).await.unwrap();
    let stranger = Stranger::takes(&bench).await;
    let other = Word {
        version: VERSION + 1,
        ..stranger.begins()
    };
    assert_eq!(stranger.says(&other, Vec::new()).await, None);
    assert_eq!(bench.pool.counts().begun, 0);
    let _node = bench.node("a");
    assert_eq!(outputs(called).await.unwrap(), [0]);
}

#[tokio::test(start_paused = true)]
async fn g13_a_task_of_another_version_is_left_to_others() {
    let bench = Bench::new(1).await;
    let engine = bench.model.client("stranger");
    let send = async |head: Value, id: &str| {
        let head = head.to_string();
        let mut body = vec![0];
        body.extend(u32::try_from(head.len()).unwrap().to_be_bytes());
        body.extend(head.as_bytes());
        engine.publish(&queue(), id, body.into()).await.unwrap();
    };
    send(
        json!({"version": VERSION + 1, "task": {"new": "words"}}),
        "newer",
    )
    .await;
    let node = bench.node("a");
    sleep(30 * SOON).await;
    assert_eq!(bench.model.messages(), 1, "another may know what it is");
    // And one of another release is told of to its flow.
    let mut answers = engine
        .listen(&Name::new(["flow", "other"]).unwrap())
        .await
        .unwrap();
    let head = Task {
        version: VERSION,
        release: "99.0.0".to_owned(),
        task: "t".to_owned(),
        attempt: 1,
        token: "x".to_owned(),
        setting: "s".to_owned(),
        kind: "core_logic".to_owned(),
        label: "l".to_owned(),
        reply: vec!["flow".to_owned(), "other".to_owned()],
    };
    send(serde_json::to_value(&head).unwrap(), "other").await;
    let asked = answers.next().await.unwrap();
    let (word, _) = letter::read::<Word>(&asked.body).unwrap();
    let What::Refused { words } = word.what else {
        panic!("{word:?}")
    };
    assert!(
        words.contains("99.0.0") && words.contains(RELEASE),
        "{words}"
    );
    drop(node);
}
