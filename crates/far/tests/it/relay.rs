//! A stream that outlives its connections: whatever breaks when, each byte arrives once and in order.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex, split};
use wiredflow_engine::clock::Clock;
use wiredflow_far::{Carried, Relay, Token};
use wiredflow_testkit::Chance;

/// Longer than any of this takes.
const SOON: Duration = Duration::from_secs(60);

const TOKEN: Token = *b"0123456789abcdef";

/// Bytes that tell where they stand.
fn bytes(count: usize, salt: usize) -> Vec<u8> {
    (0..count)
        .map(|index| ((index * 31 + index / 251 + salt) % 256) as u8)
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_byte_arrives_once_and_in_order_over_connections_that_break() {
    let mut chance = Chance::new();
    let mut breaks = 0;
    for round in 0..12 {
        let (there, back) = (
            bytes((1 << 20) + chance.below(2 << 20), round),
            bytes(chance.below(1 << 20), round + 7),
        );
        let (near, far) = (
            Relay::new(TOKEN, Clock::real()),
            Relay::new(TOKEN, Clock::real()),
        );
        // What the two ends take from and give to.
        let (mut near_user, near_side) = duplex(64 << 10);
        let (mut far_user, far_side) = duplex(64 << 10);
        let (mut near_in, mut near_out) = split(near_side);
        let (mut far_in, mut far_out) = split(far_side);

        let exchange =
            async |user: &mut tokio::io::DuplexStream, send: Vec<u8>, expected: usize| {
                let (mut read, mut write) = split(user);
                let mut got = vec![0; expected];
                let (sent, read) = tokio::join!(write.write_all(&send), read.read_exact(&mut got));
                sent.unwrap();
                read.unwrap();
                got
            };
        let carry = async {
            loop {
                let (left, near_wire) = duplex(1 + chance.below(64 << 10));
                let (right, far_wire) = duplex(1 + chance.below(64 << 10));
                let ((left_read, left_write), (right_read, right_write)) =
                    (split(left), split(right));
                let ((near_read, mut near_write), (far_read, mut far_write)) =
                    (split(near_wire), split(far_wire));
                let (mut there, mut back) = (
                    near_read.take(chance.below(512 << 10) as u64),
                    far_read.take(chance.below(512 << 10) as u64),
                );
                tokio::select! {
                    carried = near.carry(&mut near_in, &mut near_out, left_read, left_write) => panic!("{carried:?}"),
                    carried = far.carry(&mut far_in, &mut far_out, right_read, right_write) => panic!("{carried:?}"),
                    // After so many bytes one way or the other the connection breaks, in the middle of anything.
                    _ = tokio::io::copy(&mut there, &mut far_write) => breaks += 1,
                    _ = tokio::io::copy(&mut back, &mut near_write) => breaks += 1,
                }
            }
        };
        let both = async {
            tokio::join!(
                exchange(&mut near_user, there.clone(), back.len()),
                exchange(&mut far_user, back.clone(), there.len())
            )
        };
        let (got_back, got_there) = tokio::select! {
            got = both => got,
            () = carry => unreachable!(),
            () = tokio::time::sleep(SOON) => panic!("not all has arrived"),
        };
        assert!(got_there == there && got_back == back, "round {round}");
    }
    assert!(breaks > 12, "{breaks}");
}

/// Carries over one connection until the near side is done.
async fn met(near: &Relay, far: &Relay) -> (Carried, Carried) {
    let (mut nothing, _open) = duplex(8);
    let (mut nothing_else, _open_too) = duplex(8);
    let (left, right) = duplex(1 << 10);
    let ((left_read, left_write), (right_read, right_write)) = (split(left), split(right));
    let (mut near_out, mut far_out) = (tokio::io::sink(), tokio::io::sink());
    tokio::join!(
        near.carry(&mut nothing, &mut near_out, left_read, left_write),
        far.carry(&mut nothing_else, &mut far_out, right_read, right_write)
    )
}

#[tokio::test]
async fn a_stream_ends_for_both_when_one_says_so() {
    let (near, far) = (
        Relay::new(TOKEN, Clock::real()),
        Relay::new(TOKEN, Clock::real()),
    );
    near.close();
    let (carried, other) = met(&near, &far).await;
    assert!(matches!((carried, other), (Carried::Over, Carried::Over)));
    assert!(near.was_greeted() && far.take_greeted() && !far.take_greeted());
}

#[tokio::test]
async fn another_streams_other_side_is_refused() {
    let near = Relay::new(TOKEN, Clock::real());
    let stranger = Relay::new(*b"fedcba9876543210", Clock::real());
    let (carried, _) = met(&near, &stranger).await;
    let Carried::Broken(error) = carried else {
        panic!("{carried:?}");
    };
    assert!(error.to_string().contains("another stream"), "{error}");
    assert!(!near.was_greeted());
}

#[tokio::test]
async fn noise_before_the_greeting_is_passed_over_and_a_flood_of_it_is_not() {
    for (noise, is_greeted) in [
        (b"Welcome!\nWFRELAWFRELAY\n".to_vec(), true),
        (vec![b'x'; 200 << 10], false),
    ] {
        let (near, far) = (
            Relay::new(TOKEN, Clock::real()),
            Relay::new(TOKEN, Clock::real()),
        );
        let (left, right) = duplex(16);
        let ((left_read, left_write), (right_read, mut right_write)) = (split(left), split(right));
        let (mut nothing, _open) = duplex(8);
        let (mut nothing_else, _open_too) = duplex(8);
        let (mut near_out, mut far_out) = (tokio::io::sink(), tokio::io::sink());
        far.close();
        let noisy = async {
            right_write.write_all(&noise).await.ok();
            far.carry(&mut nothing_else, &mut far_out, right_read, right_write)
                .await
        };
        let near_side = near.carry(&mut nothing, &mut near_out, left_read, left_write);
        tokio::select! {
            carried = near_side => assert_eq!(matches!(carried, Carried::Over), is_greeted, "{carried:?}"),
            carried = noisy => assert!(is_greeted, "{carried:?}"),
        }
        assert_eq!(near.was_greeted(), is_greeted);
    }
}

#[tokio::test]
async fn what_is_no_stream_breaks_the_connection_and_nothing_else() {
    let mut chance = Chance::new();
    for _ in 0..200 {
        let near = Relay::new(TOKEN, Clock::real());
        let (left, mut right) = duplex(1 << 10);
        let (left_read, left_write) = split(left);
        let (mut nothing, _open) = duplex(8);
        let mut out = tokio::io::sink();
        let mut greeting = b"WFRELAY1".to_vec();
        greeting.extend_from_slice(&TOKEN);
        greeting.extend_from_slice(&0_u64.to_be_bytes());
        greeting.extend((0..chance.below(40)).map(|_| chance.below(256) as u8));
        let noise = async {
            right.write_all(&greeting).await.ok();
            drop(right);
        };
        let (carried, ()) = tokio::join!(
            near.carry(&mut nothing, &mut out, left_read, left_write),
            noise
        );
        match carried {
            // By chance it may say that the stream ends, first of all or after signs of life.
            Carried::Over => assert!(
                greeting[32..]
                    .iter()
                    .find(|byte| **byte != 3)
                    .is_some_and(|byte| *byte == 4 || *byte == 1),
                "{greeting:?}"
            ),
            Carried::Broken(_) => {}
        }
    }
}
