//! Where a request may go: SSRF in its many forms.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;
use wiredflow_core::ErrorKind;
use wiredflow_testkit::{HttpPeer, Reply};

use super::{Flow, contains};
use crate::harness::problems;

/// Public by all rules, and given to nobody: no packet for it leaves this network.
const NOWHERE: &str = "[2d00::1]:0";

fn peer() -> HttpPeer {
    let peer = HttpPeer::start();
    peer.on("*", Reply::bytes("application/json", "[1]"));
    peer
}

fn port(peer: &HttpPeer) -> String {
    let url = peer.url("");
    url.rsplit_once(':').unwrap().1.trim_matches('/').to_owned()
}

/// A `url` of a configuration is refused before anybody is asked.
async fn refused(flow: &Flow, stage: &str, url: &str) {
    let error = flow.error_with(stage, json!({"url": url})).await;
    assert_eq!(error.kind(), ErrorKind::Data, "{url}: {error:?}");
    let why = ["public ones only", "hands out credentials"];
    let said = why.iter().any(|why| error.message().contains(why));
    assert!(said, "{url}: {error:?}");
}

#[tokio::test]
async fn d6_a_url_from_data_reaches_neither_this_machine_nor_a_network_of_its_own() {
    let (own, other) = (peer(), peer());
    let flow = Flow::finding(|host| {
        Ok(match host {
            "inside.test" => vec!["127.0.0.1:0".parse().unwrap()],
            "network.test" => vec![
                "10.0.0.9:0".parse().unwrap(),
                "[fd00::9]:0".parse().unwrap(),
            ],
            "metadata.test" => vec!["169.254.169.254:0".parse().unwrap()],
            _ => vec!["127.0.0.1:0".parse().unwrap(), "[::1]:0".parse().unwrap()],
        })
    });
    let stage = format!("http: {}", own.url("/x"));
    let port = port(&other);
    for host in [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "0177.0.0.1",
        "017700000001",
        "①②⑦.0.0.1",
        "0.0.0.0",
        "0",
        "[::]",
        "[::1]",
        "[0:0:0:0:0:ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "localhost",
        "LOCALHOST.",
        "any.localhost",
        "inside.test",
        "network.test",
        "metadata.test",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.0.1",
        "100.64.0.1",
        "169.254.1.1",
        "169.254.169.254",
        "[::ffff:169.254.169.254]",
        "[fe80::1]",
        "[fd00:ec2::254]",
        "[fd00::1]",
        "metadata.google.internal",
        "255.255.255.255",
        "224.0.0.1",
    ] {
        refused(&flow, &stage, &format!("http://{host}:{port}/x")).await;
        refused(&flow, &stage, &format!("https://u:p@{host}:{port}/x")).await;
    }
    assert!(own.requests().is_empty() && other.requests().is_empty());
}

#[tokio::test]
async fn d6_a_url_of_the_stages_own_origin_is_as_trusted_as_the_file() {
    let (flow, own) = (Flow::brief(), peer());
    let stage = format!("http: {{url: '{}', auth: {{bearer: t}}}}", own.url("/x"));
    let params = json!({"url": own.url("/pages?page=2"), "params": {"limit": 5, "next": "http://10.0.0.1/"}});
    assert_eq!(flow.values_with(&stage, params).await, [1]);
    let asked = own.requests().pop().unwrap();
    assert_eq!(asked.path, "/pages");
    assert_eq!(asked.header("authorization"), Some("Bearer t"));

    // Another port, another scheme or another name is another origin.
    let port = port(&own);
    for url in [
        "http://127.0.0.1:1/".to_owned(),
        format!("https://127.0.0.1:{port}/"),
        format!("http://localhost:{port}/"),
        format!("http://127.0.0.1:{port}@127.0.0.1:1/"),
    ] {
        refused(&flow, &stage, &url).await;
    }
}

#[tokio::test]
async fn d6_allow_hosts_opens_the_hosts_that_it_names_and_no_others() {
    let (flow, own, other) = (Flow::brief(), peer(), peer());
    let port = port(&other);
    let stage = |allowed: &str| {
        let url = own.url("/x");
        format!(
            "http: {{url: '{url}', headers: {{apikey: k}}, query: {{q: 1}}, allow_hosts: [{allowed}]}}"
        )
    };
    let to = |url: String| json!({"url": url});
    for allowed in ["127.0.0.1".to_owned(), format!("'127.0.0.1:{port}'")] {
        let params = to(other.url("/y"));
        assert_eq!(flow.values_with(&stage(&allowed), params).await, [1]);
        // Who is named gets what the file's own host gets.
        let asked = other.requests().pop().unwrap();
        assert_eq!(
            (asked.header("apikey"), asked.query.as_str()),
            (Some("k"), "q=1")
        );
    }
    let asked = other.requests().len();
    refused(&flow, &stage("'127.0.0.1:1'"), &other.url("/y")).await;
    refused(&flow, &stage("127.0.0.2, localhost"), &other.url("/y")).await;
    // Where credentials are handed out is closed to all.
    let metadata = "http://169.254.169.254/latest/meta-data/";
    refused(&flow, &stage("169.254.169.254"), metadata).await;
    assert_eq!(other.requests().len(), asked);
}

#[tokio::test]
async fn d6_each_redirect_is_looked_at_again() {
    let flow = Flow::finding(|_| Ok(vec!["127.0.0.1:0".parse().unwrap()]));
    let (own, allowed, other) = (peer(), peer(), peer());
    let port_of_other = port(&other);
    let stage = format!(
        "http: {{url: '{}', allow_hosts: ['127.0.0.1:{}']}}",
        own.url("/x"),
        port(&allowed)
    );
    // A url from data may be public, or allowed: what its peer leads to must be so too.
    for target in [
        other.url("/y"),
        format!("http://2130706433:{port_of_other}/"),
        format!("http://[::ffff:127.0.0.1]:{port_of_other}/"),
        format!("http://inside.test:{port_of_other}/"),
        format!("//inside.test:{port_of_other}/"),
        "http://169.254.169.254/latest/".to_owned(),
        // The file's own host as well: a stranger does not choose the path.
        own.url("/admin/delete"),
    ] {
        allowed.on("/led", Reply::redirect(&target));
        refused(&flow, &stage, &allowed.url("/led")).await;
    }
    assert!(own.requests().is_empty() && other.requests().is_empty());
    allowed.on("/led", Reply::redirect("/home"));
    let params = json!({"url": allowed.url("/led")});
    assert_eq!(flow.values_with(&stage, params).await, [1]);

    // The file's own peer leads where it could go itself, but never to the metadata.
    own.on("/x", Reply::redirect(&other.url("/y")));
    assert_eq!(flow.values(&stage).await, [1]);
    own.on("/x", Reply::redirect("http://[::ffff:169.254.169.254]/"));
    let error = flow.error(&stage).await;
    assert_eq!(error.kind(), ErrorKind::Data);
    contains(&error, &["hands out credentials"]);
}

#[tokio::test]
async fn d6_the_address_that_is_looked_at_is_the_one_that_is_asked() {
    static LOOKS: AtomicUsize = AtomicUsize::new(0);
    // A name whose owner answers with another address each time.
    let flow = Flow::finding(|host| {
        let look = LOOKS.fetch_add(usize::from(host == "rebind.test"), Ordering::SeqCst);
        let inside = "127.0.0.1:0".parse().unwrap();
        Ok(match host {
            "rebind.test" if look == 0 => vec![NOWHERE.parse().unwrap()],
            "both.test" => vec![NOWHERE.parse().unwrap(), inside],
            _ => vec![inside],
        })
    });
    let (own, inner) = (peer(), peer());
    let stage = format!("http: {}", own.url("/x"));
    let url = |name: &str| format!("http://{name}:{}/y", port(&inner));
    let ask = |name: &str| json!({"url": url(name)});
    let error = flow.error_with(&stage, ask("rebind.test")).await;
    assert_eq!(
        error.kind(),
        ErrorKind::Remote,
        "public, but away: {error:?}"
    );
    refused(&flow, &stage, &url("rebind.test")).await;
    assert_eq!(
        LOOKS.load(Ordering::SeqCst),
        2,
        "one look for each connection"
    );
    // The inner one of two addresses is not tried when the other is away.
    let error = flow.error_with(&stage, ask("both.test")).await;
    assert_eq!(error.kind(), ErrorKind::Remote, "{error:?}");
    assert!(inner.requests().is_empty());
}

#[tokio::test]
async fn d6_a_connection_of_the_file_is_not_lent_to_data() {
    let flow = Flow::finding(|_| Ok(vec!["127.0.0.1:0".parse().unwrap()]));
    let (own, inner) = (peer(), peer());
    let url = format!("http://name.test:{}/y", port(&inner));
    assert_eq!(flow.values(&format!("http: {url}")).await, [1]);
    // The connection to that very name is open, and no look-up would be needed.
    refused(&flow, &format!("http: {}", own.url("/x")), &url).await;
    assert_eq!(inner.requests().len(), 1);
}

#[test]
fn d6_check_refuses_metadata_and_hosts_that_are_none() {
    let folder = tempfile::tempdir().unwrap();
    for url in [
        "http://169.254.169.254/latest",
        "http://0xa9fea9fe/",
        "http://metadata.google.internal/",
    ] {
        let found = problems(&format!("http: '{url}'"), folder.path()).join("\n");
        assert!(found.contains("hands out credentials"), "{url}: {found}");
    }
    let text = "http: {url: 'http://x/', allow_hosts: ['http://x/', '10.0.0.0/8', ok]}";
    let found = problems(text, folder.path());
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(
        found[1].contains("one host, without `http://`, path and `*`"),
        "{found:?}"
    );
}
