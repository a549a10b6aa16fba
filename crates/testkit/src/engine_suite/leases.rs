//! Leases.

use std::time::{Duration, Instant};

use wiredflow_core::{ErrorKind, engine::LEASE};

use super::{EngineSuite, check_kind, fresh, until_within};
use crate::tell;

/// How much later than after [`LEASE`] another may have it.
const LATE: Duration = Duration::from_secs(1);

pub(super) async fn check(suite: &EngineSuite) {
    tokio::join!(
        one_of_many_gets_it(suite),
        it_is_renewed_and_given_back(suite),
        it_is_taken_over_when_it_is_not_renewed(suite),
        a_renewal_of_what_is_lost_gives_nothing(suite),
        a_holder_has_a_name(suite),
    );
}

async fn one_of_many_gets_it(suite: &EngineSuite) {
    let name = fresh("lease");
    let mut last = None;
    for round in 0..5 {
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..8 {
            let (suite, name) = (suite.clone(), name.clone());
            tasks.spawn(async move {
                let engine = if number % 2 == 0 {
                    suite.one
                } else {
                    suite.two
                };
                let holder = format!("holder {round} {number}");
                engine.acquire(&name, &holder).await.unwrap()
            });
        }
        let mut got: Vec<_> = tasks.join_all().await.into_iter().flatten().collect();
        assert_eq!(got.len(), 1, "{got:?}");
        let lease = got.pop().unwrap();
        assert!(Some(lease.fence) > last);
        last = Some(lease.fence);
        let holder = suite.one.holder(&name).await.unwrap();
        assert_eq!(holder.as_ref(), Some(&lease.holder));
        suite.two.release(&lease).await.unwrap();
        assert_eq!(suite.one.holder(&name).await.unwrap(), None);
    }
}

async fn it_is_renewed_and_given_back(EngineSuite { one, two }: &EngineSuite) {
    let (name, other) = (fresh("renewed"), fresh("other"));
    let first = one.acquire(&name, "a").await.unwrap().unwrap();
    assert!(
        one.acquire(&name, "a").await.unwrap().is_none(),
        "he renews"
    );
    let mut lease = first.clone();
    for _ in 0..5 {
        let renewed = one.renew(&lease).await.unwrap().unwrap();
        assert!(renewed.fence > lease.fence);
        assert_eq!((&renewed.name, &*renewed.holder), (&name, "a"));
        lease = renewed;
    }
    // Fences of all leases are of one order.
    let another = two.acquire(&other, "b").await.unwrap().unwrap();
    assert!(another.fence > lease.fence);
    // Giving back what is not held any more gives nothing back.
    two.release(&first).await.unwrap();
    assert_eq!(two.holder(&name).await.unwrap().as_deref(), Some("a"));
    one.release(&lease).await.unwrap();
    one.release(&lease).await.unwrap();
    assert!(one.renew(&lease).await.unwrap().is_none());
    let taken = two.acquire(&name, "b").await.unwrap().unwrap();
    assert!(taken.fence > lease.fence);
    one.release(&lease).await.unwrap();
    assert_eq!(one.holder(&name).await.unwrap().as_deref(), Some("b"));
}

async fn it_is_taken_over_when_it_is_not_renewed(EngineSuite { one, two }: &EngineSuite) {
    let name = fresh("taken-over");
    let begun = Instant::now();
    let first = one.acquire(&name, "a").await.unwrap().unwrap();
    let pause = Duration::from_secs(2);
    let mut renewed = None;
    let mut last = begun;
    let taken = until_within("the lease is free", LEASE * 3, async || {
        if renewed.is_none() && begun.elapsed() > pause {
            last = Instant::now();
            renewed = one.renew(&first).await.unwrap();
        }
        two.acquire(&name, "b").await.unwrap()
    })
    .await;
    let took = last.elapsed();
    tell(&format!("a lease was taken over after {took:?}"));
    assert!(took > LEASE - Duration::from_millis(100), "{took:?}");
    assert!(took < LEASE + LATE, "{took:?}");
    let renewed = renewed.unwrap();
    assert!(taken.fence > renewed.fence);
    assert!(one.renew(&renewed).await.unwrap().is_none());
    one.release(&renewed).await.unwrap();
    assert_eq!(one.holder(&name).await.unwrap().as_deref(), Some("b"));
}

async fn a_renewal_of_what_is_lost_gives_nothing(EngineSuite { one, two }: &EngineSuite) {
    let name = fresh("lost");
    let first = one.acquire(&name, "a").await.unwrap().unwrap();
    one.release(&first).await.unwrap();
    // Also where somebody of the same name has it now.
    let second = two.acquire(&name, "a").await.unwrap().unwrap();
    assert!(one.renew(&first).await.unwrap().is_none());
    let renewed = two.renew(&second).await.unwrap().unwrap();
    // Where the answers of renewals were lost, the one before them is still worth one.
    for _ in 0..2 {
        let after = two.renew(&second).await.unwrap().unwrap();
        assert!(after.fence > renewed.fence);
    }
    assert!(two.renew(&renewed).await.unwrap().is_none());
}

async fn a_holder_has_a_name(EngineSuite { one, .. }: &EngineSuite) {
    let name = fresh("holder");
    for holder in ["", "a\nb", &"x".repeat(1000)] {
        check_kind(one.acquire(&name, holder).await, ErrorKind::Config);
    }
    let lease = one.acquire(&name, "ü / 1").await.unwrap().unwrap();
    assert_eq!(&*lease.holder, "ü / 1");
}
