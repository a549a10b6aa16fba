//! What is refused at the door, and what `check` refuses before there is one.

use wiredflow_core::ErrorKind;
use wiredflow_core::secret::Secret;
use wiredflow_engine::check::{SystemLookup, check_text};
use wiredflow_engine::functions::Functions;
use wiredflow_engine::http::{Auth, Basic};
use wiredflow_engine::webhook::{Limits, Webhook};

use super::{Hook, post, rules, with_head};

#[tokio::test]
async fn other_paths_methods_and_packings_are_refused() {
    let hook = Hook::open().await;
    hook.commit_all();
    let get = post("{}").replacen("POST", "GET", 1);
    let elsewhere = post("{}").replacen("/readings", "/readings/", 1);
    let traversal = post("{}").replacen("/readings", "/x/../readings", 1);
    for (request, status) in [
        (post("{}"), 200),
        (post("{}").replacen("/readings", "/readings?a=b", 1), 200),
        (elsewhere, 404),
        (traversal, 404),
        (with_head("content-encoding: gzip\r\n", "{}"), 415),
        (with_head("content-encoding: identity\r\n", "{}"), 200),
        ("nonsense\r\n\r\n".to_owned(), 400),
        (with_head("content-length: 5\r\n", "{}"), 400),
        (with_head("x: a\u{0}b\r\n", "{}"), 400),
    ] {
        let reply = hook.send(request.clone()).await.unwrap();
        assert_eq!(reply.status, status, "{request:?}: {reply:?}");
    }
    let reply = hook.send(get).await.unwrap();
    assert_eq!(reply.status, 405);
    assert!(reply.has("allow: post"), "{reply:?}");
}

#[tokio::test]
async fn without_a_login_pages_in_a_browser_are_refused() {
    let hook = Hook::open().await;
    hook.commit_all();
    for header in [
        "Origin: http://evil.example",
        "Origin: null",
        "Sec-Fetch-Site: same-origin",
    ] {
        let reply = hook
            .send(with_head(&format!("{header}\r\n"), "{}"))
            .await
            .unwrap();
        assert_eq!(reply.status, 403, "{reply:?}");
    }
}

#[tokio::test]
async fn only_who_shows_the_login_is_let_in() {
    let bearer = Auth {
        basic: None,
        bearer: Some(Secret::new("right-token")),
    };
    let basic = Auth {
        basic: Some(Basic {
            username: Secret::new("Aladdin"),
            password: Secret::new("open sesame"),
        }),
        bearer: None,
    };
    let right_basic = "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==";
    for (auth, right, wrong, challenge) in [
        (
            bearer,
            "Bearer right-token",
            right_basic,
            "www-authenticate: bearer",
        ),
        (
            basic,
            right_basic,
            "Bearer right-token",
            "www-authenticate: basic",
        ),
    ] {
        let mut rules = rules();
        rules.auth = Some(auth);
        let hook = Hook::with(rules, Limits::default()).await;
        hook.commit_all();
        let shown = |value: &str| with_head(&format!("Authorization: {value}\r\n"), "{}");
        assert_eq!(hook.send(shown(right)).await.unwrap().status, 200);
        let twice = with_head(
            &format!("Authorization: {right}\r\nAuthorization: x\r\n"),
            "{}",
        );
        let long = format!("Bearer {}", "x".repeat(5000));
        for request in [
            post("{}"),
            shown(wrong),
            shown("Bearer right-toke"),
            shown(&long),
            twice,
        ] {
            let reply = hook.send(request).await.unwrap();
            assert_eq!(reply.status, 401, "{reply:?}");
            assert!(
                reply.has(challenge) && !reply.body.contains("right"),
                "{reply:?}"
            );
        }
        // With a login a page may send: it knows the secret.
        let page = format!("Authorization: {right}\r\nOrigin: http://intranet\r\n");
        assert_eq!(hook.send(with_head(&page, "{}")).await.unwrap().status, 200);
    }
}

#[tokio::test]
async fn a_port_that_another_has_is_a_mistake_of_the_file() {
    let hook = Hook::open().await;
    let mut rules = rules();
    rules.listen = hook.address();
    let error = Webhook::open(rules, Limits::default(), &hook.resources).await;
    let error = error.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    let message = error.message();
    assert!(
        message.contains("another program has the port"),
        "{message}"
    );
}

#[test]
fn check_says_what_a_webhook_wants() {
    let folder = tempfile::tempdir().unwrap();
    let check = |webhooks: &[&str]| {
        let mut text = "pipelines:\n".to_owned();
        for (number, webhook) in webhooks.iter().enumerate() {
            let pipeline =
                format!("{{source: {{webhook: {{{webhook}}}}}, stages: [{{store: json}}]}}");
            text += &format!("  p{number}: {pipeline}\n");
        }
        let lookup = SystemLookup::new(folder.path());
        let checked = check_text(&text, "test", folder.path(), &Functions::default(), &lookup);
        let problem = |problem: wiredflow_core::problem::Problem| {
            format!(
                "{}: {} ({})",
                problem.path,
                problem.message,
                problem.help.unwrap_or_default()
            )
        };
        checked
            .problems
            .into_iter()
            .map(problem)
            .collect::<Vec<_>>()
            .join("\n")
    };
    for fine in [
        "listen: '127.0.0.1:9000'",
        "listen: 'localhost:9000', path: /a/b-c_d, method: put, format: text, max_bytes: 10KiB",
        "listen: '[::1]:0', auth: {basic: {username: a, password: b}}, reply_within: 5m",
    ] {
        let fine = fine.replace("put", "PUT");
        assert_eq!(check(&[&fine]), "", "{fine}");
    }
    for (webhook, part) in [
        ("path: /x", "`listen` is missing"),
        ("listen: 9000", "no address to listen at"),
        ("listen: 'example.org:80'", "no address to listen at"),
        (
            "listen: '0.0.0.0:9000'",
            "it wants `tls: {cert: FILE, key: FILE}` and `auth:",
        ),
        (
            "listen: '10.0.0.1:9000', auth: {bearer: x}",
            "it wants `tls:",
        ),
        ("listen: '[::]:9000'", "behind a proxy that does both"),
        ("listen: '127.0.0.1:1', path: x", "`x` is no path"),
        ("listen: '127.0.0.1:1', path: '/x?y'", "is no path"),
        (
            "listen: '127.0.0.1:1', auth: {bearer: ''}",
            "the token is empty",
        ),
        (
            "listen: '127.0.0.1:1', auth: {}",
            "exactly one of `basic` and `bearer`",
        ),
        ("listen: '127.0.0.1:1', max_bytes: 2MiB", "from 1 to 1MiB"),
        ("listen: '127.0.0.1:1', method: GET", "`GET`"),
        (
            "listen: '127.0.0.1:1', tls: {cert: no.pem, key: no.pem}",
            "cannot read `no.pem`",
        ),
    ] {
        let found = check(&[webhook]);
        assert!(found.contains(part), "{webhook}: {found}");
    }
    let one = "listen: '127.0.0.1:9000'";
    let found = check(&[one, "listen: '127.0.0.1:9000', path: /other"]);
    assert!(
        found.contains("pipeline `p0` listens at that port already"),
        "{found}"
    );
    assert!(found.starts_with("pipelines.p1."), "{found}");
    assert_eq!(
        check(&[one, "listen: '[::1]:9000'", "listen: '127.0.0.1:9001'"]),
        ""
    );
}
