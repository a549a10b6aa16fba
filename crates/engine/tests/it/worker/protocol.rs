//! The host's side over a stream in memory, with workers that keep the protocol and workers that do not.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use wiredflow_core::frame::{
    Call, Done, Ended, FRAME_LIMIT, Failure, Frame, Hello, Level, Load, Log, Output, Payload,
    decode, encode,
};
use wiredflow_core::{Error, ErrorKind};
use wiredflow_engine::clock::Clock;
use wiredflow_engine::tasks::Tasks;
use wiredflow_engine::worker::{CallError, Client, Link, Loss, StartError};

use super::{Given, SOON, TestHost, none, one, start};

/// The longest frame that the host reads or writes here.
const LIMIT: usize = 1 << 20;

/// The worker's end of the stream.
struct Far {
    stream: DuplexStream,
    bytes: BytesMut,
}

impl Far {
    async fn next(&mut self) -> Frame {
        loop {
            if let Some(frame) = decode(&mut self.bytes, FRAME_LIMIT).unwrap() {
                return frame;
            }
            let read = tokio::time::timeout(SOON, self.stream.read_buf(&mut self.bytes)).await;
            assert_ne!(read.unwrap().unwrap(), 0, "the host has closed the stream");
        }
    }

    async fn next_call(&mut self) -> Call {
        match self.next().await {
            Frame::Call(call) => call,
            other => panic!("{other:?}"),
        }
    }

    async fn say(&mut self, frame: Frame) {
        self.stream
            .write_all(&encode(&frame, FRAME_LIMIT).unwrap())
            .await
            .unwrap();
    }

    async fn write(&mut self, body: &str) {
        let length = u32::try_from(body.len()).unwrap().to_be_bytes();
        self.stream.write_all(&length).await.unwrap();
        self.stream.write_all(body.as_bytes()).await.unwrap();
    }
}

fn output(id: u64, seq: u64, value: serde_json::Value) -> Frame {
    Frame::Output(Output {
        id,
        seq,
        batch: Some(Payload::One(value)),
        params: None,
    })
}

fn done(id: u64) -> Frame {
    Frame::Done(Ended {
        id,
        passed: None,
        used: None,
    })
}

fn pair(
    heartbeat: Option<u64>,
    host: &Arc<TestHost>,
) -> (impl Future<Output = Result<Client, StartError>>, Far) {
    pair_over(1 << 16, heartbeat, host)
}

/// The two ends of a stream that holds so many bytes.
fn pair_over(
    holds: usize,
    heartbeat: Option<u64>,
    host: &Arc<TestHost>,
) -> (impl Future<Output = Result<Client, StartError>>, Far) {
    let (near, far) = tokio::io::duplex(holds);
    let (reader, writer) = tokio::io::split(near);
    let mut first = start(Path::new("/"), Vec::new());
    first.heartbeat = heartbeat;
    first.limit = LIMIT;
    let link = Link {
        clock: Clock::real(),
        tasks: Tasks::default(),
        preamble: Vec::new(),
        ended: Box::pin(std::future::pending()),
    };
    let host = host.clone();
    let connect = async move { Client::connect(reader, writer, &first, host, link).await };
    (
        connect,
        Far {
            stream: far,
            bytes: BytesMut::new(),
        },
    )
}

async fn connected(heartbeat: Option<u64>, host: &Arc<TestHost>) -> (Client, Far) {
    greeted(pair(heartbeat, host)).await
}

async fn greeted(
    (connect, mut far): (impl Future<Output = Result<Client, StartError>>, Far),
) -> (Client, Far) {
    let answer = async {
        assert!(matches!(far.next().await, Frame::Start(_)));
        far.say(Frame::Hello(Hello {
            version: 1,
            functions: vec!["f".to_owned()],
            slots: 4,
        }))
        .await;
    };
    let (client, ()) = tokio::join!(connect, answer);
    (client.unwrap(), far)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn calls_that_the_stream_takes_in_parts_arrive_whole_and_in_the_order_of_their_caller() {
    let (client, mut far) = greeted(pair_over(100, None, &Arc::default())).await;
    let client = Arc::new(client);
    let (callers, calls) = (4, 60);
    let mut tasks = Vec::new();
    for caller in 0..callers {
        let client = Arc::clone(&client);
        tasks.push(tokio::spawn(async move {
            let mut open = Vec::new();
            for number in 0..calls {
                let text = "x".repeat(37 * (number % 9));
                let data = one(json!({"caller": caller, "number": number, "text": text}));
                open.push(client.call(data.request("f")).await.unwrap());
            }
            open
        }));
    }
    let mut next = vec![0; callers];
    for _ in 0..callers * calls {
        let call = far.next_call().await;
        let Some(Payload::One(data)) = call.batch else {
            panic!("{call:?}");
        };
        let caller = usize::try_from(data["caller"].as_u64().unwrap()).unwrap();
        let number = usize::try_from(data["number"].as_u64().unwrap()).unwrap();
        assert_eq!(number, next[caller], "of caller {caller}");
        assert_eq!(data["text"].as_str().unwrap().len(), 37 * (number % 9));
        next[caller] += 1;
    }
    // Nothing is cancelled before all have arrived.
    for task in tasks {
        drop(task.await.unwrap());
    }
}

#[tokio::test]
async fn calls_are_told_apart_by_their_ids_in_any_order() {
    let (client, mut far) = connected(None, &Arc::default()).await;
    assert_eq!(client.hello().slots, 4);
    let (first, second) = (one(json!("first")), one(json!("second")));
    let mut first = client.call(first.request("f")).await.unwrap();
    let mut second = client.call(second.request("f")).await.unwrap();
    let (a, b) = (far.next_call().await, far.next_call().await);
    assert_eq!(
        (a.batch, b.batch),
        (
            Some(Payload::One(json!("first"))),
            Some(Payload::One(json!("second")))
        )
    );
    far.say(output(b.id, 0, json!("of second"))).await;
    far.say(done(b.id)).await;
    assert_eq!(
        second.next().await.unwrap().unwrap().batch.values().next(),
        Some(&json!("of second"))
    );
    assert!(second.next().await.unwrap().is_none());
    let away = Error::remote("away");
    far.say(Frame::Error(Failure::of(Some(a.id), &away))).await;
    match first.next().await {
        Err(CallError::Failed(error)) => {
            assert_eq!((error.kind(), error.message()), (ErrorKind::Remote, "away"))
        }
        other => panic!("{other:?}"),
    }
    assert!(client.is_alive());
}

#[tokio::test]
async fn a_breach_of_the_protocol_ends_all_calls_and_says_what_it_was() {
    let breaches: [(&str, Vec<Frame>); 8] = [
        (
            "more outputs",
            (0..=4).map(|seq| output(1, seq, json!(0))).collect(),
        ),
        (
            "output 1 of call 1 where 0 was due",
            vec![output(1, 1, json!(0))],
        ),
        ("call 7, which is not open", vec![output(7, 0, json!(0))]),
        ("call 7, which is not open", vec![done(7)]),
        ("call 1, which is not open", vec![done(1), done(1)]),
        ("only a host sends", vec![Frame::Cancel(Done { id: 1 })]),
        (
            "`hello` twice",
            vec![Frame::Hello(Hello {
                version: 1,
                functions: Vec::new(),
                slots: 1,
            })],
        ),
        (
            "gave up: tired",
            vec![Frame::Error(Failure::of(None, &Error::bug("tired")))],
        ),
    ];
    for (part, frames) in breaches {
        let (client, mut far) = connected(None, &Arc::default()).await;
        let given = none();
        let mut call = client.call(given.request("f")).await.unwrap();
        far.next_call().await;
        for frame in frames {
            far.say(frame).await;
        }
        super::until("the breach is seen", || !client.is_alive()).await;
        let ended = loop {
            match call.next().await {
                Ok(Some(_)) => {}
                Ok(None) => break client.call(given.request("f")).await.map(|_| ()),
                Err(error) => break Err(error),
            }
        };
        match ended {
            Err(CallError::Lost(Loss::Broke(reason))) => super::holds(&reason, &[part]),
            other => panic!("{part}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn e1_an_output_that_cannot_be_read_fails_its_call_only() {
    let (client, mut far) = connected(None, &Arc::default()).await;
    let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
    for (id, value, part) in [
        (1, deep.as_str(), "recursion"),
        (2, "NaN", "expected"),
        (3, "18446744073709551616", "64 bits"),
        (4, r#""\ud800""#, "hex escape"),
    ] {
        let given = none();
        let mut call = client.call(given.request("f")).await.unwrap();
        assert_eq!(far.next_call().await.id, id);
        far.write(&format!(
            r#"{{"type":"output","id":{id},"seq":0,"batch":{{"one":{value}}}}}"#
        ))
        .await;
        match call.next().await {
            Err(CallError::Failed(error)) => {
                assert_eq!(error.kind(), ErrorKind::Data);
                super::holds(error.message(), &["output cannot be read", part]);
            }
            other => panic!("{value}: {other:?}"),
        }
        // The worker is told, may have been at its next output already, and ends the call in its own time.
        assert_eq!(far.next().await, Frame::Cancel(Done { id }));
        far.say(output(id, 1, json!(1))).await;
        far.say(done(id)).await;
    }
    assert!(client.is_alive());
}

#[tokio::test]
async fn an_unread_stream_is_asked_for_more_by_halves_and_one_answer_not_at_all() {
    let (client, mut far) = connected(None, &Arc::default()).await;
    let given = none();
    let mut call = client.call(given.request("f")).await.unwrap();
    let asked = far.next_call().await;
    assert_eq!(asked.credit, 4);
    for seq in 0..4 {
        far.say(output(asked.id, seq, json!(seq))).await;
    }
    for _ in 0..3 {
        call.next().await.unwrap().unwrap();
    }
    match far.next().await {
        Frame::More(more) => assert_eq!((more.id, more.count), (asked.id, 2)),
        other => panic!("{other:?}"),
    }
    let single = client.call(given.request("f")).await.unwrap();
    let id = far.next_call().await.id;
    far.say(output(id, 0, json!(0))).await;
    far.say(done(id)).await;
    let mut single = single;
    assert!(single.next().await.unwrap().is_some());
    assert!(single.next().await.unwrap().is_none());
    drop(single);
    // Dropping a call before its end cancels it; nothing was said in between.
    drop(call);
    assert_eq!(far.next().await, Frame::Cancel(Done { id: asked.id }));
}

#[tokio::test]
async fn a_silent_worker_is_lost_only_where_signs_of_life_were_asked_for() {
    let (client, mut far) = connected(Some(300), &Arc::default()).await;
    for _ in 0..5 {
        far.say(Frame::Heartbeat(wiredflow_core::frame::Heartbeat {}))
            .await;
        tokio::time::timeout(Duration::from_millis(250), std::future::pending::<()>())
            .await
            .unwrap_err();
    }
    assert!(client.is_alive());
    super::until("the silence is heard", || !client.is_alive()).await;
    let given = none();
    match client.call(given.request("f")).await {
        Err(CallError::Lost(Loss::Broke(reason))) => super::holds(&reason, &["no sign of life"]),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn requests_of_a_worker_are_answered_and_bounded() {
    let host = Arc::new(TestHost::default().holds(
        "rows",
        wiredflow_core::storage::Loaded::Rows(vec![json!(1), json!(2)]),
    ));
    let (client, mut far) = connected(None, &host).await;
    let load = |id, query: serde_json::Value| {
        Frame::Load(Load {
            id,
            call: None,
            storage: "rows".to_owned(),
            query: query.as_object().unwrap().clone(),
        })
    };
    far.say(load(5, json!({"limit": 1}))).await;
    match far.next().await {
        Frame::Rows(rows) => assert_eq!(
            (rows.id, rows.batch),
            (5, Some(Payload::Many(vec![json!(2)])))
        ),
        other => panic!("{other:?}"),
    }
    for (query, part) in [
        (json!({"limit": -1}), "whole number"),
        (json!({"where": "x"}), "`where`"),
    ] {
        far.say(load(6, query)).await;
        match far.next().await {
            Frame::Error(failure) => {
                assert_eq!(failure.id, Some(6));
                super::holds(&failure.message, &[part]);
            }
            other => panic!("{other:?}"),
        }
    }
    far.say(Frame::Log(Log {
        level: Level::Warn,
        message: "said".to_owned(),
        id: None,
    }))
    .await;
    super::until("it is logged", || host.has_line("said")).await;
    // It does not read the answers, and asks on and on: the host's memory is not its to fill.
    let flood = async {
        for id in 100..100_000 {
            let bytes = encode(&load(id, json!({})), FRAME_LIMIT).unwrap();
            if far.stream.write_all(&bytes).await.is_err() {
                return;
            }
        }
    };
    tokio::time::timeout(SOON, async {
        tokio::select! {
            () = flood => {}
            () = super::until("it is too much", || !client.is_alive()) => {}
        }
    })
    .await
    .unwrap();
    super::until("it is too much", || !client.is_alive()).await;
}

#[tokio::test]
async fn dropping_the_client_closes_the_stream() {
    let (client, mut far) = connected(None, &Arc::default()).await;
    drop(client);
    let mut rest = Vec::new();
    let read = tokio::time::timeout(SOON, far.stream.read_to_end(&mut rest))
        .await
        .unwrap();
    assert_eq!((read.unwrap(), rest.len()), (0, 0));
}

#[tokio::test]
async fn a_batch_over_the_limit_is_refused_before_it_is_sent() {
    let (client, mut far) = connected(None, &Arc::default()).await;
    let big = Given {
        batch: wiredflow_core::Batch::of_values(vec![json!("x".repeat(LIMIT))]),
        ..none()
    };
    match client.call(big.request("f")).await {
        Err(CallError::Failed(error)) => super::holds(error.message(), &["over the limit"]),
        other => panic!("{other:?}"),
    }
    let given = none();
    let call = client.call(given.request("f")).await.unwrap();
    assert_eq!(far.next_call().await.batch, None);
    drop(call);
}

#[test]
fn two_workers_of_different_make_keep_every_rule_of_the_conformance_suite() {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../python");
    // The second has nothing in common with the first: what a user would write in another language.
    for worker in ["wiredflow_worker.py", "minimal_worker.py"] {
        let output = std::process::Command::new("python3")
            .arg(python.join("conformance.py"))
            .args(["--", "python3"])
            .arg(python.join(worker))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && text.contains("all rules kept"),
            "{worker}: {text}"
        );
        assert_eq!(text.matches("ok    ").count(), 20, "{worker}: {text}");
    }
}
