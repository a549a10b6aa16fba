//! The peers, as clients see them.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use rumqttc::{AsyncClient, Event, EventLoop, Incoming, MqttOptions, PublishOptions, QoS};
use serde_json::{Value, json};
use wiredflow_demo::{
    Broker, Error, HttpPeers, LETTERS_TOPIC, Login, NUMBERS_TOPIC, Peers, Ports, Publisher, Server,
};

const FAST: Duration = Duration::from_millis(10);

/// One HTTP exchange: the status and the body.
fn http(address: SocketAddr, method: &str, body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    let length = body.len();
    write!(
        stream,
        "{method} /a?b=c HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    let (head, body) = reply.split_once("\r\n\r\n").unwrap();
    (
        head.split(' ').nth(1).unwrap().parse().unwrap(),
        body.to_owned(),
    )
}

fn get(address: SocketAddr) -> Value {
    let (status, body) = http(address, "GET", "");
    assert_eq!(status, 200);
    serde_json::from_str(&body).unwrap()
}

/// A subscriber that is known to be subscribed.
async fn subscribed(broker: SocketAddr, topics: &[&str]) -> (AsyncClient, EventLoop) {
    let mut options = MqttOptions::new("reader", (broker.ip().to_string(), broker.port()));
    options.set_credentials("wiredflow", "wiredflow"); // what upstream's example logs in with
    let (client, mut events) = AsyncClient::builder(options).capacity(100).build();
    for topic in topics {
        client.subscribe(*topic, QoS::AtLeastOnce).await.unwrap();
    }
    let mut missing = topics.len();
    while missing > 0 {
        if let Event::Incoming(Incoming::SubAck(_)) = events.poll().await.unwrap() {
            missing -= 1;
        }
    }
    (client, events)
}

async fn next(events: &mut EventLoop) -> (String, String) {
    tokio::time::timeout(Duration::from_secs(5), async {
        loop {
            if let Event::Incoming(Incoming::Publish(publish)) = events.poll().await.unwrap() {
                let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
                return (text(&publish.topic), text(&publish.payload));
            }
        }
    })
    .await
    .expect("no message within 5 s")
}

#[test]
fn the_servers_answer_as_upstreams_do() {
    let peers = HttpPeers::start(0, 0, 0).unwrap();
    assert_eq!(
        get(peers.address(Server::Hello)),
        json!([{"Message": "Hello world!"}])
    );
    let (mut lower, mut upper) = (false, false);
    for _ in 0..200 {
        let reply = get(peers.address(Server::Letters));
        let letter = reply[0]["Generated random letter"].as_str().unwrap();
        assert!(
            letter.len() == 1 && letter.as_bytes()[0].is_ascii_alphabetic(),
            "{letter}"
        );
        lower |= letter.as_bytes()[0].is_ascii_lowercase();
        upper |= letter.as_bytes()[0].is_ascii_uppercase();
        let reply = get(peers.address(Server::Integers));
        assert_eq!(reply.as_array().unwrap().len(), 1);
        assert!((0..=100).contains(&reply[0]["Generated random number"].as_i64().unwrap()));
    }
    assert!(lower && upper, "the letters come in one case only");
}

#[test]
fn a_query_for_integers_gets_as_many_as_it_asks_for_but_six_at_most() {
    let peers = HttpPeers::start(0, 0, 0).unwrap();
    let ask = |body: &str| -> Value {
        let (status, reply) = http(peers.address(Server::Integers), "POST", body);
        assert_eq!(status, 200);
        serde_json::from_str(&reply).unwrap()
    };
    for (limit, items) in [(0, 0), (1, 1), (3, 3), (6, 6), (7, 6), (100_000, 6)] {
        let reply = ask(&format!("select * from demo_table limit {limit}"));
        assert_eq!(reply.as_array().unwrap().len(), items, "limit {limit}");
    }
    for other in [
        "42",
        "",
        "select * from other limit 3",
        "select * from demo_table limit x",
    ] {
        assert_eq!(ask(other), json!({"correct": true}), "{other}");
    }
}

#[test]
fn what_is_put_and_posted_is_shown_and_the_oldest_goes_after_a_thousand() {
    let peers = HttpPeers::start(0, 0, 0).unwrap();
    let (status, reply) = http(peers.address(Server::Integers), "PUT", "102");
    assert_eq!((status, reply.as_str()), (200, r#"{"correct": true}"#));
    let received = &peers.received()[0];
    assert_eq!(received.server, Server::Integers);
    assert_eq!(
        (
            received.method.as_str(),
            received.path.as_str(),
            received.body.as_str()
        ),
        ("PUT", "/a?b=c", "102")
    );
    for number in 0..1000 {
        http(peers.address(Server::Hello), "POST", &number.to_string());
    }
    let bodies: Vec<String> = peers
        .received()
        .into_iter()
        .map(|received| received.body)
        .collect();
    assert_eq!(bodies.len(), 1000);
    assert_eq!((bodies[0].as_str(), bodies[999].as_str()), ("0", "999"));
    assert_eq!(http(peers.address(Server::Hello), "DELETE", "").0, 405);
}

#[tokio::test]
async fn the_publisher_counts_up_in_text_and_names_letters() {
    let peers = Peers::start_publishing_every(FAST, Ports::FREE).unwrap();
    let (_client, mut events) = subscribed(peers.broker(), &[NUMBERS_TOPIC, LETTERS_TOPIC]).await;
    let (mut numbers, mut letters) = (Vec::new(), 0);
    while numbers.len() < 5 || letters < 5 {
        let (topic, payload) = next(&mut events).await;
        let value: Value = serde_json::from_str(&payload).unwrap();
        if topic == NUMBERS_TOPIC {
            let number: u64 = value["Generated number"].as_str().unwrap().parse().unwrap();
            assert_eq!(payload, format!(r#"{{"Generated number": "{number}"}}"#));
            numbers.push(number);
        } else {
            assert_eq!(topic, LETTERS_TOPIC);
            assert_eq!(value["Generated letter"].as_str().unwrap().len(), 1);
            letters += 1;
        }
    }
    let expected: Vec<u64> = (numbers[0]..).take(numbers.len()).collect();
    assert_eq!(numbers, expected, "a number is missing or comes twice");
    peers.stop();
}

#[tokio::test]
async fn a_broker_with_a_login_refuses_others() {
    let login = Login {
        username: "wiredflow".to_owned(),
        password: "right".to_owned(),
    };
    let broker = Broker::start_with_login(0, login.clone()).unwrap();
    let wrong = Login {
        password: "wrong".to_owned(),
        ..login.clone()
    };
    for refused in [None, Some(wrong)] {
        let error = Publisher::start(broker.address(), refused, FAST)
            .unwrap_err()
            .to_string();
        assert!(error.contains("BadUserNamePassword"), "{error}");
    }
    Publisher::start(broker.address(), Some(login.clone()), FAST)
        .unwrap()
        .stop();
    assert!(!format!("{login:?}").contains("right"));
}

#[tokio::test]
async fn a_message_reaches_a_subscriber_of_the_broker_whole() {
    let broker = Broker::start(0).unwrap();
    let (client, mut events) = subscribed(broker.address(), &["big"]).await;
    let payload = "ä".repeat(4_000); // under the 10 KiB that this client takes by default
    client
        .publish("big", payload.clone(), PublishOptions::at_least_once())
        .await
        .unwrap();
    assert_eq!(next(&mut events).await, ("big".to_owned(), payload));
}

#[test]
fn a_taken_port_is_named_and_the_peers_before_it_are_stopped() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    for (ports, peer) in [
        (
            Ports {
                hello: port,
                ..Ports::FREE
            },
            "HTTP server of greetings",
        ),
        (
            Ports {
                letters: port,
                ..Ports::FREE
            },
            "HTTP server of letters",
        ),
        (
            Ports {
                integers: port,
                ..Ports::FREE
            },
            "HTTP server of integers",
        ),
        (
            Ports {
                mqtt: port,
                ..Ports::FREE
            },
            "MQTT broker",
        ),
    ] {
        let error = Peers::start(ports).unwrap_err();
        assert!(matches!(error, Error::PortTaken { port: named, .. } if named == port));
        let text = error.to_string();
        assert!(
            text.contains(peer) && text.contains(&port.to_string()),
            "{text}"
        );
    }
}

#[test]
fn stopped_peers_free_their_ports_at_once_even_with_clients_connected() {
    let peers = Peers::start(Ports::FREE).unwrap();
    let port = |server: Server| -> u16 {
        peers
            .url(server)
            .rsplit(':')
            .next()
            .map(|port| port.parse().unwrap())
            .unwrap()
    };
    let ports = Ports {
        hello: port(Server::Hello),
        letters: port(Server::Letters),
        integers: port(Server::Integers),
        mqtt: peers.broker().port(),
    };
    let _idle_http = TcpStream::connect(("127.0.0.1", ports.hello)).unwrap();
    let _silent_mqtt = TcpStream::connect(("127.0.0.1", ports.mqtt)).unwrap();
    let begun = Instant::now();
    peers.stop();
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(4), "stopping took {took:?}");
    Peers::start(ports)
        .expect("the ports are free again")
        .stop();
}

#[tokio::test]
async fn what_a_flow_sends_to_the_broker_is_heard_and_the_publishers_own_words_are_not() {
    let peers = Peers::start_publishing_every(FAST, Ports::FREE).unwrap();
    let (client, mut events) = subscribed(peers.broker(), &["demo/#"]).await;
    client
        .publish("demo/sorted", "[1, 2]", PublishOptions::at_least_once())
        .await
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(5);
    while peers.heard_since(0).1 == 0 {
        assert!(Instant::now() < deadline);
        drop(tokio::time::timeout(FAST, events.poll()).await);
    }
    let (heard, total) = peers.heard_since(0);
    assert_eq!(
        (heard[0].topic.as_str(), heard[0].body.as_str()),
        ("demo/sorted", "[1, 2]")
    );
    assert_eq!((heard.len(), total), (1, 1));
    assert_eq!(peers.heard_since(1).0, []);
}
