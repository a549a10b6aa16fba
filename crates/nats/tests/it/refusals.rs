//! Servers that refuse us, or that we refuse.

use std::path::PathBuf;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use wiredflow_core::ErrorKind;
use wiredflow_core::secret::Secret;
use wiredflow_nats::{Access, Login, Nats as Engine, TlsFiles};
use wiredflow_testkit::{Authority, EngineSuite, Identity, Nats, NatsVersion};

use crate::servers::{access, connected, program, refused};

/// A pair that the documents of NATS show.
const PUBLIC: &str = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4";
const SEED: &str = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY";
/// Another one's.
const OTHER_SEED: &str = "SUAMLK2ZNL35WSMW37E7UD4VZ7ELPKW7DHC3BWBSD2GCZ7IUQQXZIORRBU";

fn password(user: &str, password: &str) -> Login {
    Login::Password {
        user: user.to_owned(),
        password: Secret::new(password),
    }
}

fn with_login(server: &Nats, login: Login) -> Access {
    Access {
        login: Some(login),
        ..access([server.url()])
    }
}

fn with_tls(server: &Nats, ca: PathBuf) -> Access {
    let tls = TlsFiles {
        ca: Some(ca),
        ..TlsFiles::default()
    };
    Access {
        tls: Some(tls),
        ..access([server.url()])
    }
}

async fn check_refused(access: &Access, word: &str) {
    let error = refused(access).await;
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    assert!(error.message().contains(word), "{error}");
    assert!(!error.message().contains("canary"), "{error}");
}

async fn check_logins(version: NatsVersion) {
    let server = Nats::with()
        .user("me", "right-canary")
        .nkey(PUBLIC)
        .start(&program(version));
    connected(&with_login(&server, password("me", "right-canary"))).await;
    connected(&with_login(&server, Login::Seed(Secret::new(SEED)))).await;
    let refuses = "refuses the login";
    check_refused(&access([server.url()]), refuses).await;
    for login in [
        password("me", "wrong-canary"),
        password("canary", "right"),
        Login::Token(Secret::new("canary")),
        Login::Seed(Secret::new(OTHER_SEED)),
    ] {
        check_refused(&with_login(&server, login), refuses).await;
    }
    let garbage = Login::Seed(Secret::new("canary"));
    check_refused(&with_login(&server, garbage), "cannot be used").await;
    let nowhere = Login::Credentials("/nowhere/creds".into());
    check_refused(&with_login(&server, nowhere), "cannot read").await;
}

#[tokio::test]
async fn a_wrong_login_is_the_users_to_change() {
    check_logins(NatsVersion::Debian).await;
    check_logins(NatsVersion::Newest).await;
}

async fn check_certificates(version: NatsVersion) {
    let (authority, other) = (Authority::new(), Authority::new());
    let program = program(version);
    let start = |identity: &Identity| Nats::with().tls(identity).start(&program);
    let server = start(&authority.server());
    connected(&with_tls(&server, authority.path())).await;
    check_refused(&with_tls(&server, other.path()), "signed by nobody").await;
    let in_the_clear = access([format!("nats://127.0.0.1:{}", server.port())]);
    check_refused(&in_the_clear, "signed by nobody").await;
    let wrong = start(&authority.wrong_host());
    check_refused(&with_tls(&wrong, authority.path()), "for another host").await;
    let expired = start(&authority.expired());
    check_refused(&with_tls(&expired, authority.path()), "has expired").await;

    let plain = Nats::start(&program);
    let tls_to_plain = access([format!("tls://localhost:{}", plain.port())]);
    check_refused(&tls_to_plain, "does not speak TLS").await;

    let identity = authority.server();
    let strict = Nats::with()
        .tls_with_certificates(&identity)
        .start(&program);
    let mut shown = with_tls(&strict, authority.path());
    check_refused(&shown, "certificate").await;
    let own = authority.client("me");
    let files = shown.tls.as_mut().unwrap();
    files.cert = Some(own.certificate.clone());
    files.key = Some(own.key.clone());
    connected(&shown).await;
}

#[tokio::test]
async fn a_certificate_that_will_never_do_is_the_users_to_change() {
    check_certificates(NatsVersion::Debian).await;
    check_certificates(NatsVersion::Newest).await;
}

#[tokio::test]
async fn a_server_without_jetstream_is_refused() {
    for version in [NatsVersion::Debian, NatsVersion::Newest] {
        let server = Nats::with().without_jetstream().start(&program(version));
        check_refused(&access([server.url()]), "JetStream is off").await;
    }
}

#[tokio::test]
async fn a_server_that_is_too_old_is_refused() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serve = async {
        let (mut peer, _) = listener.accept().await.unwrap();
        let info =
            r#"INFO {"server_id":"x","version":"2.8.4","max_payload":1048576,"headers":true}"#;
        peer.write_all(format!("{info}\r\n").as_bytes())
            .await
            .unwrap();
        let mut buffer = [0; 4096];
        while peer.read(&mut buffer).await.unwrap_or(0) > 0 {
            peer.write_all(b"PONG\r\n").await.unwrap();
        }
    };
    let all = access([format!("nats://{address}")]);
    tokio::select! {
        () = check_refused(&all, "2.8.4 is too old: 2.9.10 or newer") => {}
        () = serve => panic!("the connection ended first"),
    }
}

#[tokio::test]
async fn rights_that_are_missing_are_named() {
    let program = program(NatsVersion::Newest);
    let publish = ["wf.test.>", "$KV.>", "$JS.API.>", "$JS.ACK.>", "$JS.FC.>"];
    let server = Nats::with()
        .user_with("enough", "p", &publish, &["wf.test.>"])
        .user_with("deaf", "p", &publish, &["wf.other.>"])
        .user_with("mute", "p", &["wf.test.>", "$JS.ACK.>"], &["wf.test.>"])
        .start(&program);
    // Those that are documented will do.
    let enough = with_login(&server, password("enough", "p"));
    let suite = EngineSuite::new(async || connected(&enough).await).await;
    tokio::join!(
        suite.check_queues(),
        suite.check_spent(),
        suite.check_shelves(),
        suite.check_questions()
    );
    let deaf = with_login(&server, password("deaf", "p"));
    check_refused(&deaf, "wf.test.inbox").await;
    let mute = with_login(&server, password("mute", "p"));
    check_refused(&mute, "$JS.API.INFO").await;
    // Another namespace is not ours.
    let error = Engine::connect(&enough, "other").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
}

#[tokio::test]
async fn what_others_have_made_by_our_names_is_taken_over_or_refused() {
    use wiredflow_core::engine::{If, Shelf};

    use crate::servers::{RULES, name};

    let server = Nats::start(&program(NatsVersion::Debian));
    let other = async_nats::connect(server.url()).await.unwrap();
    for stream in [
        r#"{"name":"KV_wf_test_kept","subjects":["$KV.wf_test_kept.>"],"max_msgs_per_subject":5}"#,
        r#"{"name":"KV_wf_test_lease","subjects":["$KV.wf_test_lease.>"],"storage":"memory"}"#,
        r#"{"name":"wf_test=q=alien","subjects":["wf.test.q.alien"],"retention":"workqueue"}"#,
    ] {
        let name: serde_json::Value = serde_json::from_str(stream).unwrap();
        let verb = format!("$JS.API.STREAM.CREATE.{}", name["name"].as_str().unwrap());
        other.request(verb, stream.into()).await.unwrap();
    }
    let engine = connected(&access([server.url()])).await;
    let entry = name("entry");
    for _ in 0..2 {
        let put = engine.put(Shelf::Kept, &entry, "x".into(), If::Any).await;
        put.unwrap();
    }
    assert!(engine.get(Shelf::Kept, &entry).await.unwrap().is_some());
    // Where it is kept cannot be changed.
    let error = engine.acquire(&entry, "me").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    let alien = name("alien");
    let error = engine.publish(&alien, "1", "x".into()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    // Who opens it says what it is.
    engine.open_queue(&alien, RULES).await.unwrap();
    engine.publish(&alien, "1", "x".into()).await.unwrap();
}
