//! From bodies to records.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use wiredflow_core::ErrorKind;
use wiredflow_testkit::{HttpPeer, Reply, seed};

use super::{Flow, contains};

async fn values(reply: Reply) -> Vec<Value> {
    let (flow, peer) = (Flow::new(), HttpPeer::start());
    peer.on("/x", reply);
    flow.values(&format!("http: {}", peer.url("/x"))).await
}

async fn refused(reply: Reply, parts: &[&str]) {
    let (flow, peer) = (Flow::new(), HttpPeer::start());
    peer.on("/x", reply);
    let error = flow.error(&format!("http: {}", peer.url("/x"))).await;
    assert_eq!(error.kind(), ErrorKind::Data, "{error:?}");
    contains(&error, &[&peer.url("/x")]);
    contains(&error, parts);
}

#[tokio::test]
async fn an_array_is_many_records_and_anything_else_one() {
    assert_eq!(
        values(Reply::json(json!([{"a": 1}, 2]))).await,
        [json!({"a": 1}), json!(2)]
    );
    assert_eq!(
        values(Reply::json(json!({"a": [1]}))).await,
        [json!({"a": [1]})]
    );
    assert_eq!(values(Reply::json(json!("text"))).await, [json!("text")]);
    assert!(values(Reply::json(json!([]))).await.is_empty());
    assert!(values(Reply::json(json!(null))).await.is_empty());
    assert!(values(Reply::code(204)).await.is_empty());
}

#[tokio::test]
async fn numbers_and_the_order_of_fields_are_kept() {
    let text = r#"[{"z":18446744073709551615,"a":-0.1,"m":1e2}]"#;
    let values = values(Reply::bytes("application/json", text)).await;
    assert_eq!(
        values[0].to_string(),
        r#"{"z":18446744073709551615,"a":-0.1,"m":100.0}"#
    );
}

#[tokio::test]
async fn e3_a_number_that_would_be_another_one_is_refused() {
    for (text, part) in [
        ("[{\"n\": 18446744073709551616}]", "`18446744073709551616`"),
        ("{\"n\": -9223372036854775809}", "does not fit into 64 bits"),
        ("[1e400]", "out of range"),
        ("[NaN]", "not JSON"),
        ("{\"n\": -Infinity}", "not JSON"),
    ] {
        refused(Reply::bytes("application/json", text), &[part]).await;
    }
    let text = "[9223372036854775808, 0.1000000000000000000000000000001, -0, 1e-400]";
    assert_eq!(
        values(Reply::bytes("application/json", text)).await,
        [json!(1_u64 << 63), json!(0.1), json!(-0.0), json!(0.0)]
    );
}

#[tokio::test]
async fn d3_a_page_in_the_place_of_json_is_refused_with_its_source_and_type() {
    let page = "<html><body>Please log in</body></html>";
    let parts = [
        "content type `text/html`",
        "not JSON",
        "begins with: <html><body>Please log in",
    ];
    refused(Reply::bytes("text/html", page), &parts).await;
    refused(Reply::code(200), &["no content type", "empty"]).await;
    let bytes = [0xFF, 0xD8, 0xFF, 0xE0];
    refused(
        Reply::bytes("image/jpeg", bytes),
        &["content type `image/jpeg`"],
    )
    .await;
}

#[tokio::test]
async fn d3_json_is_refused_when_its_end_is_missing() {
    refused(
        Reply::bytes("application/json", r#"[{"a": 1}, {"#),
        &["not JSON: EOF"],
    )
    .await;
    refused(
        Reply::bytes("application/json", r#"{"a": 1} {"#),
        &["not JSON: trailing"],
    )
    .await;
    refused(Reply::bytes("application/json", "[NaN]"), &["not JSON"]).await;

    // When the connection broke, asking again may help.
    let (flow, peer) = (Flow::new(), HttpPeer::start());
    peer.on("/x", Reply::truncated(r#"[{"a": 1}, {"a": 2}]"#, 5));
    let error = flow.error(&format!("http: {}", peer.url("/x"))).await;
    assert_eq!(error.kind(), ErrorKind::Remote);
    contains(&error, &["broke off"]);
}

#[tokio::test]
async fn d3_json_is_read_whatever_type_the_peer_states() {
    for kind in [
        "text/plain",
        "text/html; charset=utf-8",
        "application/octet-stream",
        "x",
    ] {
        assert_eq!(values(Reply::bytes(kind, "[1]")).await, [1], "{kind}");
    }
}

#[tokio::test]
async fn d3_byte_order_marks_and_old_character_sets_are_understood() {
    let mark = b"\xEF\xBB\xBF[\"\xC3\xA4\"]";
    assert_eq!(values(Reply::bytes("application/json", *mark)).await, ["ä"]);
    let wide: Vec<u8> = "\u{FEFF}[\"ä\"]"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    assert_eq!(values(Reply::bytes("application/json", wide)).await, ["ä"]);
    let latin = b"[\"\xE4\"]";
    let kind = "application/json; charset=\"ISO-8859-1\"";
    assert_eq!(values(Reply::bytes(kind, *latin)).await, ["ä"]);
    // UTF-8 is UTF-8, whatever is said of it.
    assert_eq!(values(Reply::bytes(kind, "[\"ä\"]")).await, ["ä"]);
}

#[tokio::test]
async fn d3_packed_answers_are_unpacked_and_broken_ones_refused() {
    assert_eq!(values(Reply::gzip("[1, 2]")).await, [1, 2]);
    let broken = Reply::bytes("application/json", "[1, 2]").header("content-encoding", "gzip");
    refused(broken, &["cannot be unpacked"]).await;
    let unasked = Reply::bytes("application/json", [0x0B, 0x02, 0x80]);
    refused(
        unasked.header("content-encoding", "br"),
        &["packed as `br`"],
    )
    .await;
}

#[tokio::test]
async fn e1_nesting_without_end_is_refused() {
    let deep = "[".repeat(100_000);
    refused(Reply::bytes("application/json", deep), &["recursion limit"]).await;
    let deep = format!("{{\"a\":{}", "[".repeat(100_000));
    refused(Reply::bytes("application/json", deep), &["recursion limit"]).await;
}

#[tokio::test]
async fn what_a_peer_sends_is_never_executed() {
    let code = "__import__('os').system('touch pwned')";
    refused(Reply::text(code), &["not JSON"]).await;
}

#[tokio::test]
async fn d3_any_body_is_json_or_an_error_that_names_its_source() {
    let mut random = StdRng::seed_from_u64(seed());
    let (flow, peer) = (Flow::new(), HttpPeer::start());
    let stage = format!("http: {}", peer.url("/x"));
    let kinds = [
        "application/json",
        "text/plain; charset=utf-16",
        "x; charset=shift_jis",
        ";;=\"",
        "",
    ];
    for _ in 0..300 {
        let mut body = br#"[{"a": [1, -2.5e3, "\u00e4", null]}, {"b": {"c": true}}]"#.to_vec();
        for _ in 0..random.random_range(0..4) {
            let at = random.random_range(0..body.len());
            match random.random_range(0..3) {
                0 => body[at] = random.random(),
                1 => body.truncate(at + 1),
                _ => body.insert(at, random.random()),
            }
        }
        let kind = kinds[random.random_range(0..kinds.len())];
        peer.on("/x", Reply::bytes(kind, body.clone()));
        let (result, collected) = flow.ask_with(&stage, Value::Null).await;
        match (result, serde_json::from_slice(&body)) {
            (Ok(()), Ok(Value::Array(values))) => assert_eq!(collected.values(), values),
            (Ok(()), Ok(value)) => assert_eq!(collected.values(), [value]),
            // In its own character set, or after a mark, it may be JSON all the same.
            (Ok(()), Err(_)) => assert!(std::str::from_utf8(&body).is_err() || body[0] > 127),
            (Err(error), expected) => {
                assert!(expected.is_err(), "{body:?}: {error:?}");
                assert_eq!(error.kind(), ErrorKind::Data);
                contains(&error, &[&peer.url("/x")]);
            }
        }
    }
}
