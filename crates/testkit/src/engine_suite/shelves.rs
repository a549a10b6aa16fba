//! Shelves.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use wiredflow_core::{
    ErrorKind,
    engine::{Engine, Entry, If, LEASE, Name, Seen, Shelf, Watch},
};

use super::{EngineSuite, SOON, check_kind, fresh, until_within};

const KEPT: Shelf = Shelf::Kept;

pub(super) async fn check(suite: &EngineSuite) {
    tokio::join!(
        conditions_hold(suite),
        one_of_many_wins(suite),
        revisions_grow_over_all_names(suite),
        what_was_put_is_seen(suite),
        a_watch_tells_what_is_there_and_what_comes(suite),
        a_watch_tells_only_what_is_below(suite),
        who_is_there_puts_his_entry_again(suite),
        an_entry_may_be_empty_and_not_too_long(suite),
    );
}

async fn put(engine: &Arc<dyn Engine>, name: &Name, value: &str, when: If) -> Option<u64> {
    let value = value.to_owned().into();
    engine.put(KEPT, name, value, when).await.unwrap()
}

async fn value(engine: &Arc<dyn Engine>, name: &Name) -> Option<String> {
    let entry = engine.get(KEPT, name).await.unwrap();
    entry.map(|entry| String::from_utf8(entry.value.to_vec()).unwrap())
}

async fn conditions_hold(EngineSuite { one, two }: &EngineSuite) {
    let name = fresh("conditions");
    assert_eq!(one.get(KEPT, &name).await.unwrap(), None);
    assert_eq!(put(one, &name, "x", If::Revision(1)).await, None);
    let first = put(one, &name, "1", If::Absent).await.unwrap();
    assert_eq!(put(two, &name, "x", If::Absent).await, None);
    let second = put(two, &name, "2", If::Revision(first)).await.unwrap();
    for stale in [first, 0, u64::MAX, second + 1] {
        assert_eq!(put(one, &name, "x", If::Revision(stale)).await, None);
    }
    let third = put(one, &name, "3", If::Any).await.unwrap();
    assert!(first < second && second < third);
    assert_eq!(
        two.get(KEPT, &name).await.unwrap(),
        Some(Entry {
            value: "3".into(),
            revision: third
        })
    );

    for (condition, expected) in [
        (If::Absent, false),
        (If::Revision(second), false),
        (If::Revision(third), true),
        (If::Revision(third), false),
        (If::Absent, true),
        (If::Any, true),
    ] {
        let removed = two.remove(KEPT, &name, condition).await.unwrap();
        assert_eq!(removed, expected, "{condition:?}");
    }
    assert_eq!(value(one, &name).await, None);
    // There is none again, and revisions go on.
    assert_eq!(put(one, &name, "x", If::Revision(third)).await, None);
    assert!(put(one, &name, "4", If::Absent).await.unwrap() > third);
    assert!(one.remove(KEPT, &name, If::Any).await.unwrap());
    assert!(put(two, &name, "5", If::Any).await.is_some());
}

async fn one_of_many_wins(suite: &EngineSuite) {
    let name = fresh("race");
    for round in 0..5 {
        let revision = match round {
            0 => If::Absent,
            _ => {
                let entry = suite.one.get(KEPT, &name).await.unwrap();
                If::Revision(entry.unwrap().revision)
            }
        };
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..8 {
            let (suite, name) = (suite.clone(), name.clone());
            tasks.spawn(async move {
                let engine = if number % 2 == 0 {
                    suite.one
                } else {
                    suite.two
                };
                let value = format!("{round} {number}");
                put(&engine, &name, &value, revision)
                    .await
                    .map(|revision| (revision, value))
            });
        }
        let won: Vec<_> = tasks.join_all().await.into_iter().flatten().collect();
        assert_eq!(won.len(), 1, "{won:?}");
        let entry = suite.one.get(KEPT, &name).await.unwrap().unwrap();
        assert_eq!(
            (entry.revision, &*entry.value),
            (won[0].0, won[0].1.as_bytes())
        );
    }
}

async fn revisions_grow_over_all_names(EngineSuite { one, two }: &EngineSuite) {
    let mut last = 0;
    for number in 0..6 {
        let engine = if number % 2 == 0 { one } else { two };
        let revision = put(engine, &fresh("grow"), "x", If::Any).await.unwrap();
        assert!(revision > last);
        last = revision;
    }
}

async fn what_was_put_is_seen(EngineSuite { one, two }: &EngineSuite) {
    let name = fresh("seen");
    for number in 0..50 {
        let text = number.to_string();
        let (writer, reader) = match number % 2 {
            0 => (one, two),
            _ => (two, one),
        };
        put(writer, &name, &text, If::Any).await;
        assert_eq!(value(reader, &name).await, Some(text));
    }
}

async fn next(watch: &mut Box<dyn Watch>) -> Seen {
    let next = tokio::time::timeout(SOON, watch.next()).await;
    next.expect("the watch tells something").unwrap()
}

#[track_caller]
fn check_put(seen: &Seen, name: &Name, value: &str) {
    match seen {
        Seen::Put(found, entry) => {
            assert_eq!((found, &*entry.value), (name, value.as_bytes()));
        }
        other => panic!("{other:?}"),
    }
}

async fn a_watch_tells_what_is_there_and_what_comes(EngineSuite { one, two }: &EngineSuite) {
    let above = fresh("watch");
    let [kept, removed, new] = ["kept", "removed", "new"].map(|part| above.and(part).unwrap());
    put(one, &kept, "1", If::Any).await;
    put(one, &removed, "x", If::Any).await;
    one.remove(KEPT, &removed, If::Any).await.unwrap();
    put(one, &kept, "2", If::Any).await;
    let mut watch = two.watch(KEPT, Some(&above)).await.unwrap();
    // Of what was there before only what is there now.
    check_put(&next(&mut watch).await, &kept, "2");
    assert_eq!(next(&mut watch).await, Seen::UpToDate);
    let first = put(one, &new, "3", If::Absent).await.unwrap();
    check_put(&next(&mut watch).await, &new, "3");
    one.remove(KEPT, &new, If::Any).await.unwrap();
    match next(&mut watch).await {
        Seen::Removed(found, revision) => assert!(found == new && revision > first),
        other => panic!("{other:?}"),
    }
    // A future of it that is dropped loses nothing.
    for _ in 0..3 {
        let none = tokio::time::timeout(Duration::from_millis(20), watch.next()).await;
        assert!(none.is_err());
    }
    for number in 0..100 {
        put(one, &new, &number.to_string(), If::Any).await;
    }
    // Of those that follow each other fast some may be left out, and never the last.
    let mut told = None;
    while told != Some(99) {
        let Seen::Put(_, entry) = next(&mut watch).await else {
            panic!("nothing was removed");
        };
        let number: i32 = std::str::from_utf8(&entry.value).unwrap().parse().unwrap();
        assert!(Some(number) > told, "{number} after {told:?}");
        told = Some(number);
    }
}

async fn a_watch_tells_only_what_is_below(EngineSuite { one, two }: &EngineSuite) {
    let above = fresh("below");
    let like = Name::new([&*format!("{}x", above.parts().next().unwrap()), "y"]).unwrap();
    let [deeper, other] = [above.and("a").unwrap(), fresh("elsewhere")];
    let mut watch = one.watch(KEPT, Some(&above)).await.unwrap();
    let mut all = one.watch(KEPT, None).await.unwrap();
    assert_eq!(next(&mut watch).await, Seen::UpToDate);
    for name in [&like, &other, &above, &deeper] {
        put(two, name, "x", If::Any).await;
    }
    check_put(&next(&mut watch).await, &above, "x");
    check_put(&next(&mut watch).await, &deeper, "x");
    let mut missing = vec![like, other, above, deeper];
    while !missing.is_empty() {
        if let Seen::Put(name, _) = next(&mut all).await {
            missing.retain(|other| *other != name);
        }
    }
}

async fn who_is_there_puts_his_entry_again(EngineSuite { one, two }: &EngineSuite) {
    let presence = Shelf::Presence;
    let (stays, goes) = (fresh("stays"), fresh("goes"));
    let begun = Instant::now();
    for name in [&stays, &goes] {
        one.put(presence, name, "1".into(), If::Any).await.unwrap();
        assert!(two.get(presence, name).await.unwrap().is_some());
    }
    // An entry of the other shelf is another one.
    assert_eq!(one.get(KEPT, &stays).await.unwrap(), None);
    until_within("the entry goes", LEASE + SOON, async || {
        if begun.elapsed() < LEASE - Duration::from_secs(1) {
            assert!(two.get(presence, &goes).await.unwrap().is_some());
        }
        one.put(presence, &stays, "2".into(), If::Any)
            .await
            .unwrap();
        let entry = two.get(presence, &goes).await.unwrap();
        entry.is_none().then_some(())
    })
    .await;
    assert!(two.get(presence, &stays).await.unwrap().is_some());
    let again = one.put(presence, &goes, "3".into(), If::Absent).await;
    assert!(again.unwrap().is_some());
}

async fn an_entry_may_be_empty_and_not_too_long(EngineSuite { one, two }: &EngineSuite) {
    let name = fresh("length");
    put(one, &name, "", If::Any).await;
    assert_eq!(value(two, &name).await.as_deref(), Some(""));
    let longest = one.about().longest;
    let long = vec![b'x'; longest + 1].into();
    check_kind(one.put(KEPT, &name, long, If::Any).await, ErrorKind::Data);
    let fits: bytes::Bytes = vec![0xff; longest].into();
    let kept = one.put(KEPT, &name, fits.clone(), If::Any).await;
    assert!(kept.unwrap().is_some());
    let entry = two.get(KEPT, &name).await.unwrap().unwrap();
    assert_eq!(entry.value, fits);
}
