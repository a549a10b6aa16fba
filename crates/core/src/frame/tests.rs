//! Frames there and back, and bytes that are none.

use bytes::BytesMut;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::record::Batch;

const LIMIT: usize = 1 << 20;

fn framed(body: &[u8]) -> BytesMut {
    let mut bytes = BytesMut::new();
    bytes.extend_from_slice(&u32::try_from(body.len()).unwrap().to_be_bytes());
    bytes.extend_from_slice(body);
    bytes
}

/// Reads all that can be read; every step takes bytes away or ends.
fn taken_apart(mut bytes: BytesMut) {
    loop {
        let before = bytes.len();
        match decode(&mut bytes, LIMIT) {
            Ok(None) | Err(FrameError::TooLong { .. }) => return,
            Ok(Some(frame)) => assert!(encode(&frame, 2 * LIMIT).is_ok(), "{frame:?}"),
            Err(err) => assert!(!err.to_string().is_empty()),
        }
        assert!(bytes.len() < before);
    }
}

fn decoded(body: &str) -> Result<Frame, FrameError> {
    decode(&mut framed(body.as_bytes()), LIMIT).map(|frame| frame.expect("it is whole"))
}

fn message(body: &str) -> String {
    decoded(body).unwrap_err().to_string()
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>()
            .prop_filter("JSON has no such number", |float| float.is_finite())
            .prop_map(Value::from),
        ".*".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::vec((".*", inner), 0..4)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn random_bytes_are_an_error_or_a_frame_and_never_a_panic(
        body in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        taken_apart(BytesMut::from(&body[..]));
        taken_apart(framed(&body));
    }

    #[test]
    fn nearly_right_json_is_an_error_or_a_frame_and_never_a_panic(
        text in r#"\{"(type|id|batch)":("(call|output|error|log)"|[0-9]{1,30}|null|\[)[\]"a-z{},:0-9.\\u]{0,60}\}?"#,
    ) {
        taken_apart(framed(text.as_bytes()));
    }

    #[test]
    fn what_is_encoded_comes_back_unchanged(values in proptest::collection::vec(value(), 0..5), id: u64, cut: usize) {
        let frame = Frame::Output(Output { id, seq: 3, batch: Some(Payload::Many(values)), params: None });
        let whole = encode(&frame, LIMIT).unwrap();
        let mut part = BytesMut::from(&whole[..cut % whole.len()]);
        prop_assert_eq!(decode(&mut part, LIMIT).unwrap(), None);
        let mut all = BytesMut::from(&whole[..]);
        all.extend_from_slice(b"rest");
        prop_assert_eq!(decode(&mut all, LIMIT).unwrap(), Some(frame));
        prop_assert_eq!(&all[..], b"rest");
    }

    #[test]
    fn e3_an_integer_is_exact_or_refused(digits in "-?[1-9][0-9]{0,25}", place in 0usize..40) {
        let body = format!(r#"{{"type":"output","id":1,"seq":0,"batch":{{"one":["{}",{digits}]}}}}"#, "9".repeat(place));
        match decoded(&body) {
            Ok(Frame::Output(Output { batch: Some(Payload::One(value)), .. })) => {
                prop_assert_eq!(value[1].to_string(), digits);
            }
            Ok(other) => prop_assert!(false, "{other:?}"),
            Err(err) => {
                prop_assert!(digits.parse::<i64>().is_err() && digits.parse::<u64>().is_err());
                prop_assert!(err.to_string().contains(&digits), "{err}");
            }
        }
    }
}

#[test]
fn a_call_is_the_same_bytes_borrowed_or_owned() {
    let batch = Batch::of_values(vec![json!({"a": 1}), json!([2])]);
    let params = json!({"limit": 5}).as_object().unwrap().clone();
    let borrowed = CallRef {
        id: 7,
        attempt: 1,
        epoch: 2,
        function: "f",
        params: &params,
        batch: PayloadRef::of(&batch),
        keys: Some(vec!["a", "b"]),
        deadline: Some(1500),
        credit: 4,
    };
    let owned = Frame::Call(Call {
        id: 7,
        attempt: 1,
        epoch: 2,
        function: "f".to_owned(),
        params: params.clone(),
        batch: Some(Payload::Many(vec![json!({"a": 1}), json!([2])])),
        keys: Some(vec!["a".to_owned(), "b".to_owned()]),
        deadline: Some(1500),
        credit: 4,
    });
    let bytes = encode(&borrowed, LIMIT).unwrap();
    assert_eq!(bytes, encode(&owned, LIMIT).unwrap());
    assert_eq!(
        std::str::from_utf8(&bytes[4..]).unwrap(),
        r#"{"type":"call","id":7,"attempt":1,"epoch":2,"function":"f","params":{"limit":5},"batch":{"many":[{"a":1},[2]]},"deadline":1500,"keys":["a","b"],"credit":4}"#
    );
    assert_eq!(
        decode(&mut BytesMut::from(&bytes[..]), LIMIT).unwrap(),
        Some(owned)
    );
}

#[test]
fn the_order_of_the_members_does_not_matter() {
    let frame = Frame::Output(Output {
        id: 4,
        seq: 0,
        batch: Some(Payload::One(json!({"type": "x"}))),
        params: None,
    });
    assert_eq!(
        decoded(r#"{"batch":{"one":{"type":"x"}},"id":4,"seq":0,"type":"output"}"#),
        Ok(frame.clone())
    );
    assert_eq!(
        decoded(r#"{"id":4,"type":"output","batch":{"one":{"type":"x"}},"seq":0}"#),
        Ok(frame)
    );
}

#[test]
fn an_unknown_type_or_member_is_an_error_that_says_what_is_possible() {
    let unknown = message(r#"{"type":"outputs","id":1,"batch":[1]}"#);
    assert!(
        unknown.contains("`outputs`") && unknown.contains("`output`"),
        "{unknown}"
    );
    let member = message(r#"{"type":"done","id":1,"massage":"x"}"#);
    assert!(member.contains("`massage`"), "{member}");
    let kind = message(r#"{"type":"error","kind":"oops","message":"x"}"#);
    assert!(
        kind.contains("`oops`") && kind.contains("`remote`"),
        "{kind}"
    );
    for body in [
        "{}",
        "[]",
        "null",
        "",
        r#"{"type":1}"#,
        r#"{"type":"done"}"#,
        r#"{"type":"done","id":-1}"#,
    ] {
        assert!(
            matches!(decoded(body), Err(FrameError::Malformed { .. })),
            "{body}"
        );
    }
}

#[test]
fn e1_a_frame_that_is_too_deep_is_an_error_and_the_next_one_is_read() {
    let deep = format!(
        r#"{{"type":"output","id":9,"seq":0,"batch":{{"one":{}{}}}}}"#,
        "[".repeat(10_000),
        "]".repeat(10_000)
    );
    let mut bytes = framed(deep.as_bytes());
    bytes.extend_from_slice(
        &encode(
            &Frame::Done(Ended {
                id: 9,
                passed: None,
                used: None,
            }),
            LIMIT,
        )
        .unwrap(),
    );
    let error = decode(&mut bytes, LIMIT).unwrap_err();
    assert!(
        matches!(&error, FrameError::Malformed { call: Some(9), message } if message.contains("recursion")),
        "{error:?}"
    );
    assert_eq!(
        decode(&mut bytes, LIMIT).unwrap(),
        Some(Frame::Done(Ended {
            id: 9,
            passed: None,
            used: None
        }))
    );
}

#[test]
fn e3_numbers_that_json_does_not_have_are_errors() {
    for number in [
        "NaN",
        "Infinity",
        "-Infinity",
        "1e400",
        "18446744073709551616",
        "-9223372036854775809",
    ] {
        let body = format!(r#"{{"type":"output","id":1,"seq":0,"batch":{{"one":{number}}}}}"#);
        assert!(decoded(&body).is_err(), "{number}");
    }
    for number in [
        "18446744073709551615",
        "-9223372036854775808",
        "-0.0",
        "0.30000000000000004",
        "5e-324",
    ] {
        let body = format!(r#"{{"type":"output","id":1,"seq":0,"batch":{{"one":{number}}}}}"#);
        let Ok(Frame::Output(Output {
            batch: Some(Payload::One(value)),
            ..
        })) = decoded(&body)
        else {
            panic!("{number} is refused");
        };
        assert_eq!(value.to_string(), number);
    }
}

#[test]
fn e4_a_lone_surrogate_is_an_error_and_a_pair_is_text() {
    assert!(decoded(r#"{"type":"log","level":"info","message":"\ud800"}"#).is_err());
    let pair = decoded(r#"{"type":"log","level":"info","message":"\ud83d\ude00\u0000"}"#);
    assert!(matches!(pair, Ok(Frame::Log(Log { message, .. })) if message == "😀\0"));
}

#[test]
fn e5_a_frame_over_the_limit_is_refused_before_it_has_arrived() {
    let mut bytes = BytesMut::from(&[0x7f, 0xff, 0xff, 0xff][..]);
    let error = decode(&mut bytes, LIMIT).unwrap_err();
    assert_eq!(
        error,
        FrameError::TooLong {
            length: 0x7fff_ffff,
            limit: LIMIT
        }
    );
    let big = Frame::Log(Log {
        level: Level::Info,
        message: "x".repeat(LIMIT),
        id: None,
    });
    assert!(matches!(
        encode(&big, LIMIT),
        Err(FrameError::TooLong { .. })
    ));
}

#[test]
fn another_version_is_refused_with_both_named() {
    assert_eq!(check_version(VERSION), Ok(()));
    let error = check_version(99).unwrap_err().to_string();
    assert!(
        error.contains("version 99") && error.contains("version 1"),
        "{error}"
    );
}
