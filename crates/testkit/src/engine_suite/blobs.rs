//! Blobs.

use bytes::Bytes;

use super::{EngineSuite, fresh};

const LARGE: usize = 20 * 1024 * 1024;

pub(super) async fn check(suite: &EngineSuite) {
    bytes_come_back_as_they_were(suite).await;
    one_is_whole_while_it_is_replaced(suite).await;
    the_last_of_many_writers_is_whole(suite).await;
}

/// Bytes that are the same nowhere.
fn bytes(length: usize, seed: u8) -> Bytes {
    let mut state = u32::from(seed) + 1;
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    (0..length).map(next).collect::<Vec<u8>>().into()
}

async fn bytes_come_back_as_they_were(EngineSuite { one, two }: &EngineSuite) {
    let name = fresh("blob");
    assert_eq!(one.get_blob(&name).await.unwrap(), None);
    one.remove_blob(&name).await.unwrap();
    for length in [0, 1, 300_000, LARGE, 7] {
        let kept = bytes(length, 1);
        one.put_blob(&name, kept.clone()).await.unwrap();
        let found = two.get_blob(&name).await.unwrap();
        assert!(found.unwrap() == kept, "{length}");
    }
    let other = name.and("x").unwrap();
    assert_eq!(one.get_blob(&other).await.unwrap(), None);
    two.remove_blob(&name).await.unwrap();
    assert_eq!(one.get_blob(&name).await.unwrap(), None);
    two.remove_blob(&name).await.unwrap();
}

async fn one_is_whole_while_it_is_replaced(EngineSuite { one, two }: &EngineSuite) {
    const TIMES: u8 = 20;

    let name = fresh("replaced");
    let kinds: Vec<Bytes> = (0..TIMES).map(|seed| bytes(1_500_000, seed)).collect();
    one.put_blob(&name, kinds[0].clone()).await.unwrap();
    let write = async {
        for kind in &kinds {
            one.put_blob(&name, kind.clone()).await.unwrap();
        }
    };
    let read = async {
        let mut last = 0;
        while last < kinds.len() - 1 {
            let found = two.get_blob(&name).await.unwrap().expect("it is there");
            let found = kinds.iter().position(|kind| *kind == found);
            let found = found.expect("it is whole");
            assert!(found >= last);
            last = found;
        }
    };
    tokio::join!(write, read);
}

async fn the_last_of_many_writers_is_whole(suite: &EngineSuite) {
    let name = fresh("writers");
    let mut tasks = tokio::task::JoinSet::new();
    for seed in 0..4 {
        let (suite, name) = (suite.clone(), name.clone());
        let engine = if seed % 2 == 0 { suite.one } else { suite.two };
        tasks.spawn(async move {
            let kept = bytes(700_000, seed);
            engine.put_blob(&name, kept.clone()).await.unwrap();
            kept
        });
    }
    let kept = tasks.join_all().await;
    let found = suite.one.get_blob(&name).await.unwrap().unwrap();
    assert!(kept.contains(&found));
}
