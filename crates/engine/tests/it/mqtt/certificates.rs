//! TLS: the broker's certificate and our own.

use wiredflow_core::ErrorKind;
use wiredflow_testkit::{Authority, Identity, Mosquitto, OldTls};

use super::bench::{Bench, texts};
use super::connecting::check_error;

fn copy(bench: &Bench, name: &str, from: &std::path::Path) {
    std::fs::copy(from, bench.folder().join(name)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn d10_c17_certificates_are_checked_and_each_fault_has_its_own_words() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let bench = Bench::new();
    copy(&bench, "ours.pem", &ours.path());
    copy(&bench, "theirs.pem", &theirs.path());
    let start = |identity: &Identity| Mosquitto::with().tls(identity).start();
    let good = start(&ours.server());
    let at = |broker: String, rest: &str| format!("{{broker: \"{broker}\", topic: t, {rest}}}");

    let flow = bench
        .source(&at(good.tls_address(), "tls: {ca: ours.pem}"))
        .await;
    good.publish("t", "by tls", 1);
    let got = flow.take(1).await;
    assert_eq!(texts(&got), ["by tls"]);
    flow.commit(&got).await;
    flow.end().await;

    let expired = start(&ours.expired());
    let elsewhere = start(&ours.wrong_host());
    let identity = Authority::self_signed();
    copy(&bench, "alone.pem", &identity.certificate);
    let alone = start(&identity);
    for (broker, tls, words) in [
        (
            good.tls_address(),
            "tls: {ca: theirs.pem}",
            "signed by nobody who is trusted",
        ),
        (
            good.tls_address(),
            "tls: true",
            "signed by nobody who is trusted",
        ),
        (expired.tls_address(), "tls: {ca: ours.pem}", "has expired"),
        (
            elsewhere.tls_address(),
            "tls: {ca: ours.pem}",
            "is for another host",
        ),
        (alone.tls_address(), "tls: {ca: ours.pem}", "is self-signed"),
        (alone.tls_address(), "tls: true", "is self-signed"),
        // Not even where its own certificate is named: no authority stands behind it.
        (
            alone.tls_address(),
            "tls: {ca: alone.pem}",
            "is self-signed",
        ),
        (good.address(), "tls: {ca: ours.pem}", "tls"),
        (good.tls_address(), "qos: 1", "add `tls`"),
    ] {
        let error = bench.try_source(&at(broker, tls)).await.err().unwrap();
        let kind = error.kind();
        // Mosquitto hangs up on what is no MQTT without a word, and so may any broker.
        if words == "tls" || words == "add `tls`" {
            assert!(
                matches!(kind, ErrorKind::Config | ErrorKind::Remote),
                "{error:?}"
            );
        } else {
            check_error(&error, ErrorKind::Config, &[words]);
        }
    }
    // D10: one connector may take any certificate, for a trial.
    for broker in [&good, &expired, &elsewhere] {
        let config = at(broker.tls_address(), "tls: {insecure: true}");
        let flow = bench.source(&config).await;
        broker.publish("t", "unverified", 1);
        let got = flow.take(1).await;
        assert_eq!(texts(&got), ["unverified"]);
        flow.commit(&got).await;
        flow.end().await;
    }
    // The sender says the same.
    let tls = at(expired.tls_address(), "tls: {ca: ours.pem}");
    let error = bench.try_sender(&tls).await.err().unwrap();
    check_error(&error, ErrorKind::Config, &["has expired"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn d10_a_broker_that_speaks_tls_1_0_alone_is_refused() {
    let authority = Authority::new();
    let old = OldTls::start(&authority.server());
    let bench = Bench::new();
    copy(&bench, "ca.pem", &authority.path());
    let broker = old.address();
    let config = format!("{{broker: \"{broker}\", topic: t, tls: {{ca: ca.pem}}}}");
    let error = bench.try_source(&config).await.err().unwrap();
    check_error(&error, ErrorKind::Config, &["1.2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn d10_c17_a_broker_that_asks_for_a_certificate_gets_it_or_says_so() {
    let authority = Authority::new();
    let mosquitto = Mosquitto::with()
        .tls(&authority.server())
        .client_certificates()
        .start();
    let bench = Bench::new();
    copy(&bench, "ca.pem", &authority.path());
    let client = authority.client("worker");
    copy(&bench, "worker.pem", &client.certificate);
    copy(&bench, "worker.key", &client.key);
    let stranger = Authority::new().client("worker");
    copy(&bench, "stranger.pem", &stranger.certificate);
    copy(&bench, "stranger.key", &stranger.key);
    let with = |own: &str| {
        let broker = mosquitto.tls_address();
        format!("{{broker: \"{broker}\", topic: t, tls: {{ca: ca.pem{own}}}}}")
    };
    let own = ", cert: worker.pem, key: worker.key";
    let flow = bench.source(&with(own)).await;
    let sender = bench.sender(&with(own)).await;
    drop(sender.send(&["by our own certificate"]).await.unwrap());
    let got = flow.take(1).await;
    assert_eq!(texts(&got), ["by our own certificate"]);
    flow.commit(&got).await;
    flow.end().await;
    let error = bench.try_source(&with("")).await.err().unwrap();
    check_error(&error, ErrorKind::Config, &["name `cert` and `key`"]);
    let own = ", cert: stranger.pem, key: stranger.key";
    let error = bench.try_source(&with(own)).await.err().unwrap();
    check_error(&error, ErrorKind::Config, &["refuses our certificate"]);
}
