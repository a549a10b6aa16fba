//! What is written is read by the crates' own readers, and what they write is read here.

use bytes::BytesMut;
use wiredflow_core::ErrorKind;
use wiredflow_core::json::MAX_PAYLOAD;
use wiredflow_core::secret::Secret;

use super::*;

fn read(version: Version, bytes: &[u8]) -> Result<Packet, Garbled> {
    let mut inbox = BytesMut::from(bytes);
    let frame = Frame::peek(&inbox)?.expect("a whole header");
    assert_eq!(frame.head + frame.rest, inbox.len());
    let packet = version.read(frame, &mut inbox)?;
    assert!(inbox.is_empty());
    Ok(packet)
}

#[test]
fn a_header_is_read_when_it_is_whole() {
    let whole = |first, head, rest| Ok(Some(Frame { first, head, rest }));
    assert_eq!(Frame::peek(&[]), Ok(None));
    assert_eq!(Frame::peek(&[0x30]), Ok(None));
    assert_eq!(Frame::peek(&[0x30, 0x7F]), whole(0x30, 2, 127));
    assert_eq!(Frame::peek(&[0x30, 0x80]), Ok(None));
    assert_eq!(Frame::peek(&[0x30, 0x80, 1, 9]), whole(0x30, 3, 128));
    assert_eq!(
        Frame::peek(&[0x30, 0xFF, 0xFF, 0xFF, 0x7F]),
        whole(0x30, 5, 268_435_455)
    );
    assert!(Frame::peek(&[0x30, 0xFF, 0xFF, 0xFF, 0xFF]).is_err());
}

#[test]
fn a_message_is_written_as_each_version_reads_it() {
    for length in [0, 1, 100, 127, 128, 16_383, 16_384, 300_000] {
        for (qos, id) in [
            (Qos::AtMostOnce, 0),
            (Qos::AtLeastOnce, 7),
            (Qos::ExactlyOnce, 300),
        ] {
            let payload = vec![b'x'; length];
            for version in [Version::V311, Version::V5] {
                let mut out = BytesMut::new();
                let key = (length % 2 == 0).then(|| "p/s/".repeat(length.min(400)));
                let key = key.as_deref();
                version.write_message("a/b", qos, id, key, &payload, &mut out);
                let size = version.message_size("a/b", qos, key, length);
                assert_eq!(out.len(), size, "{version}, {length} bytes");
                let expected = Message {
                    topic: Bytes::from_static(b"a/b"),
                    id,
                    two_steps: qos == Qos::ExactlyOnce,
                    duplicate: false,
                    payload: payload.clone().into(),
                };
                assert_eq!(read(version, &out), Ok(Packet::Message(expected)));
            }
        }
    }
}

#[test]
fn a_hello_says_who_we_are_and_how_long_to_keep_what_comes() {
    let password = Secret::new("hidden");
    let hello = Hello {
        client_id: "me",
        username: Some("worker"),
        password: Some(&password),
        keep_alive: 30,
        receive_maximum: 256,
        session: Session::Kept { seconds: 60 },
    };
    let mut out = BytesMut::new();
    Version::V311.write_hello(&hello, &mut out).unwrap();
    let Ok(rumqttc::Packet::Connect(connect)) = rumqttc::Packet::read(&mut out, 1000) else {
        panic!("no CONNECT");
    };
    assert!(!connect.clean_session && connect.client_id == "me" && connect.keep_alive == 30);
    let credentials = rumqttc::ConnectAuth::UsernamePassword {
        username: "worker".to_owned(),
        password: Bytes::from_static(b"hidden"),
    };
    assert_eq!(connect.auth, credentials);

    Version::V5.write_hello(&hello, &mut out).unwrap();
    let Ok(rumqttc_v5::Packet::Connect(connect, None, auth)) =
        rumqttc_v5::Packet::read(&mut out, None)
    else {
        panic!("no CONNECT");
    };
    let properties = connect.properties.unwrap();
    assert!(!connect.clean_start);
    assert_eq!(properties.session_expiry_interval, Some(60));
    assert_eq!(properties.receive_maximum, Some(256));
    assert_eq!(properties.max_packet_size, None);
    assert!(MOST_PACKET > MAX_PAYLOAD + usize::from(u16::MAX));
    assert!(matches!(
        auth,
        rumqttc_v5::ConnectAuth::UsernamePassword { .. }
    ));
}

#[test]
fn an_answer_in_3_1_1_is_understood_when_5_was_asked_for() {
    assert_eq!(
        read(Version::V5, &[0x20, 2, 0, 1]),
        Ok(Packet::Refused(Refusal::Version))
    );
    assert_eq!(
        read(Version::V5, &[0x20, 3, 0, 0x84, 0]),
        Ok(Packet::Refused(Refusal::Version))
    );
    let Ok(Packet::Refused(Refusal::Because(kind, reason))) =
        read(Version::V5, &[0x20, 3, 0, 0x88, 0])
    else {
        panic!("not refused");
    };
    assert_eq!(
        (kind, reason.as_str()),
        (ErrorKind::Remote, "server unavailable")
    );
}

#[test]
fn a_publisher_learns_why_a_message_is_not_taken() {
    let taken = |id, refused| Ok(Packet::Taken { id, refused });
    assert_eq!(read(Version::V311, &[0x40, 2, 1, 2]), taken(258, None));
    assert_eq!(read(Version::V5, &[0x40, 3, 0, 1, 0x10]), taken(1, None));
    assert_eq!(read(Version::V5, &[0x40, 4, 0, 1, 0, 0]), taken(1, None));
    let Ok(Packet::Taken {
        refused: Some(denied),
        ..
    }) = read(Version::V5, &[0x40, 3, 0, 1, 0x95])
    else {
        panic!("taken");
    };
    assert_eq!(denied.kind, ErrorKind::Data);
    assert!(read(Version::V5, &[0x40, 1, 0]).is_err());
}

#[test]
fn the_steps_of_qos_2_are_told_apart() {
    let mut out = BytesMut::new();
    for write in [write_received, write_release, write_complete] {
        write(258, &mut out);
    }
    let expected = [0x50, 2, 1, 2, 0x62, 2, 1, 2, 0x70, 2, 1, 2];
    assert_eq!(out[..], expected);
    for version in [Version::V311, Version::V5] {
        let packet = |bytes: &[u8]| read(version, bytes).unwrap();
        let received = Packet::Received {
            id: 258,
            refused: None,
        };
        assert_eq!(packet(&out[..4]), received);
        assert_eq!(packet(&out[4..8]), Packet::Released(258));
        let over = Packet::Taken {
            id: 258,
            refused: None,
        };
        assert_eq!(packet(&out[8..]), over);
    }
    let Ok(Packet::Received {
        refused: Some(denied),
        ..
    }) = read(Version::V5, &[0x50, 3, 0, 1, 0x87])
    else {
        panic!("not refused");
    };
    assert_eq!(denied.reason, "not authorized");
    // A packet id that is not known there any more: it is over.
    assert_eq!(
        read(Version::V5, &[0x70, 3, 0, 1, 0x92]),
        Ok(Packet::Taken {
            id: 1,
            refused: None
        })
    );
}

#[test]
fn of_an_oversized_message_all_but_the_payload_is_known() {
    let payload = vec![b'x'; 3 << 20];
    for version in [Version::V311, Version::V5] {
        let mut out = BytesMut::new();
        version.write_message("a/b", Qos::ExactlyOnce, 9, None, &payload, &mut out);
        let frame = Frame::peek(&out).unwrap().unwrap();
        let body = out.freeze().slice(frame.head..MOST_PACKET);
        let message = Message {
            topic: Bytes::from_static(b"a/b"),
            id: 9,
            two_steps: true,
            duplicate: false,
            payload: Bytes::new(),
        };
        let expected = Packet::Oversized(message, 3 << 20);
        assert_eq!(read_oversized(version, frame, body), Ok(expected));
    }
}

#[test]
fn garbage_is_refused_and_never_a_panic() {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};
    let mut random = StdRng::seed_from_u64(wiredflow_testkit::seed());
    for _ in 0..50_000 {
        let mut bytes = [0; 24];
        random.fill(&mut bytes);
        let rest = random.random_range(0..=22);
        bytes[1] = rest;
        let version = [Version::V5, Version::V311][random.random_range(0..2)];
        // Read, or refused: both are fine.
        drop(read(version, &bytes[..usize::from(rest) + 2]));
        if let Ok(Some(frame)) = Frame::peek(&bytes) {
            let body = Bytes::copy_from_slice(&bytes[frame.head..]);
            drop(read_oversized(version, frame, body));
        }
    }
}

#[test]
fn reasons_are_words() {
    assert_eq!(
        in_words(rumqttc::ConnectReturnCode::NotAuthorized),
        "not authorized"
    );
    assert_eq!(
        with_text("quota exceeded".to_owned(), Some("a\nb")),
        "quota exceeded (a\\nb)"
    );
    assert!(with_text(String::new(), Some(&"x".repeat(5000))).len() < 250);
}
