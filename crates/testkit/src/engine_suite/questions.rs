//! Questions and answers.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use wiredflow_core::{
    Error, ErrorKind,
    engine::{Engine, Listener, Name},
};

use super::{EngineSuite, SOON, check_kind, fresh, until};

pub(super) async fn check(suite: &EngineSuite) {
    tokio::join!(
        an_answer_comes_back(suite),
        where_nobody_listens_nothing_was_sent(suite),
        no_answer_is_an_error_in_time(suite),
        of_several_listeners_one_gets_a_question(suite),
        what_is_too_long_is_an_error_of_its_data(suite),
    );
}

async fn ask(engine: &Arc<dyn Engine>, address: &Name, text: &str) -> Result<String, Error> {
    let answer = engine.ask(address, text.to_owned().into(), SOON).await?;
    Ok(String::from_utf8(answer.to_vec()).unwrap())
}

async fn answer_one(listener: &mut Box<dyn Listener>, by: &str) {
    let asked = listener.next().await.unwrap();
    let text = String::from_utf8(asked.body.to_vec()).unwrap();
    let answer = format!("{by} {text}");
    asked.reply.send(answer.into()).await.unwrap();
}

async fn an_answer_comes_back(EngineSuite { one, two }: &EngineSuite) {
    let address = fresh("ask");
    let mut listener = one.listen(&address).await.unwrap();
    for engine in [one, two, one] {
        let question = until("the listener is known", async || {
            match ask(engine, &address, "q").await {
                Err(error) if error.is_unsent() => None,
                other => Some(other),
            }
        });
        let (answer, ()) = tokio::join!(question, answer_one(&mut listener, "a"));
        assert_eq!(answer.unwrap(), "a q");
    }
    // Many at a time, each with its own answer.
    let asking = async {
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..50 {
            let (engine, address) = (Arc::clone(two), address.clone());
            tasks.spawn(async move {
                let text = number.to_string();
                assert_eq!(
                    ask(&engine, &address, &text).await.unwrap(),
                    format!("a {text}")
                );
            });
        }
        tasks.join_all().await;
    };
    tokio::join!(asking, async {
        for _ in 0..50 {
            answer_one(&mut listener, "a").await;
        }
    });
}

async fn where_nobody_listens_nothing_was_sent(EngineSuite { one, two }: &EngineSuite) {
    let address = fresh("nobody");
    let begun = Instant::now();
    let error = check_kind(ask(one, &address, "q").await, ErrorKind::Remote);
    assert!(error.is_unsent() && begun.elapsed() < SOON);
    drop(two.listen(&address).await.unwrap());
    until("the listener is gone", async || {
        let asked = one
            .ask(&address, "q".into(), Duration::from_millis(100))
            .await;
        let error = check_kind(asked, ErrorKind::Remote);
        error.is_unsent().then_some(())
    })
    .await;
}

async fn no_answer_is_an_error_in_time(EngineSuite { one, .. }: &EngineSuite) {
    let address = fresh("silent");
    let mut listener = one.listen(&address).await.unwrap();
    let begun = Instant::now();
    let within = Duration::from_millis(400);
    let (asked, taken) = tokio::join!(one.ask(&address, "q".into(), within), listener.next());
    drop(taken.unwrap());
    let error = check_kind(asked, ErrorKind::Remote);
    assert!(!error.is_unsent());
    let took = begun.elapsed();
    assert!(took >= within && took < SOON, "{took:?}");
}

async fn of_several_listeners_one_gets_a_question(EngineSuite { one, two }: &EngineSuite) {
    const ALL: usize = 40;

    let address = fresh("group");
    let mut listeners = [
        one.listen(&address).await.unwrap(),
        one.listen(&address).await.unwrap(),
        two.listen(&address).await.unwrap(),
    ];
    let asking = async {
        for number in 0..ALL {
            let answer = ask(one, &address, &number.to_string()).await.unwrap();
            assert!(answer.ends_with(&format!(" {number}")), "{answer}");
        }
    };
    let mut counts = [0; 3];
    let listening = async {
        let [first, second, third] = &mut listeners;
        while counts.iter().sum::<usize>() < ALL {
            let by = tokio::select! {
                () = answer_one(first, "0") => 0,
                () = answer_one(second, "1") => 1,
                () = answer_one(third, "2") => 2,
            };
            counts[by] += 1;
        }
    };
    tokio::join!(asking, listening);
    assert_eq!(counts.iter().sum::<usize>(), ALL);
}

async fn what_is_too_long_is_an_error_of_its_data(EngineSuite { one, .. }: &EngineSuite) {
    let address = fresh("long");
    let mut listener = one.listen(&address).await.unwrap();
    let longest = one.about().longest;
    let question = one.ask(&address, vec![b'x'; longest + 1].into(), SOON);
    check_kind(question.await, ErrorKind::Data);
    let fits = one.ask(&address, vec![b'x'; longest].into(), SOON);
    let (answer, ()) = tokio::join!(fits, async {
        let asked = listener.next().await.unwrap();
        asked.reply.send(asked.body).await.unwrap();
    });
    assert_eq!(answer.unwrap().len(), longest);
}
