//! Who is let in.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;

use super::{Api, LISTEN, QUIET, read_reply};
use crate::{SOON, tool};

#[test]
fn h1_without_its_token_nothing_is_shown() {
    let api = Api::run(QUIET);
    let token = api.token("admin");
    let long = "x".repeat(64);
    for headers in [
        String::new(),
        "authorization: Bearer \r\n".to_owned(),
        "authorization: Bearer\r\n".to_owned(),
        "authorization: \r\n".to_owned(),
        format!("authorization: {token}\r\n"),
        format!("authorization: Basic {token}\r\n"),
        format!("cookie: token={token}\r\nx-api-key: {token}\r\n"),
        format!("authorization: Bearer {token}x\r\n"),
        format!("authorization: Bearer {}\r\n", &token[1..]),
        format!("authorization: Bearer {long}\r\n"),
    ] {
        let reply = api.send("GET", "/api/v1/status", &headers);
        assert!(matches!(reply.status, 401 | 429), "{headers:?}: {reply:?}");
        assert!(!reply.body.contains("quiet"), "{reply:?}");
    }
    let nothing = api.send(
        "GET",
        &format!("/api/v1/status?token={token}&access_token={token}"),
        "",
    );
    assert!(nothing.is(401).head.contains("www-authenticate: bearer"));
    let two = format!("authorization: Bearer {token}\r\n").repeat(2);
    assert!(matches!(
        api.send("GET", "/api/v1/status", &two).status,
        401 | 429
    ));
    let right = format!("authorization: bearer   {token}\r\n");
    api.send("GET", "/api/v1/status", &right).is(200);
}

#[test]
fn h2_ten_thousand_tokens_are_not_tried_and_the_owner_is_not_shut_out() {
    let api = Api::run(QUIET);
    let (mut wrong, mut too_many) = (0, 0);
    let mut stream = api.connect();
    for batch in 0..100 {
        let mut requests = String::new();
        for number in 0..100 {
            let guess = format!("{:064x}", batch * 100 + number);
            requests.push_str(&format!(
                "GET /api/v1/status HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {guess}\r\n\r\n"
            ));
        }
        stream.write_all(requests.as_bytes()).unwrap();
        let (mut heard, mut piece) = (String::new(), [0; 4096]);
        while heard.matches("HTTP/1.1 ").count() < 100 || !heard.ends_with('}') {
            let number = stream.read(&mut piece).unwrap();
            assert!(number > 0, "{heard}");
            heard.push_str(&String::from_utf8_lossy(&piece[..number]));
        }
        assert!(!heard.contains("HTTP/1.1 200"));
        wrong += heard.matches("HTTP/1.1 401").count();
        too_many += heard.matches("HTTP/1.1 429").count();
        assert_eq!(
            heard.matches("retry-after: ").count(),
            heard.matches("HTTP/1.1 429").count()
        );
    }
    // Ten in a minute; the machine may be slow.
    assert_eq!(wrong + too_many, 10_000);
    assert!((10..=100).contains(&wrong), "{wrong}");
    api.ask("admin", "GET", "/api/v1/status").is(200);
    let said = api
        .running
        .stderr()
        .matches("wrong tokens within a minute")
        .count();
    assert!((1..=10).contains(&said), "{said}: {}", api.running.stderr());
}

#[test]
fn h4_only_the_very_routes_are_for_anybody_whatever_pipelines_are_called() {
    let names = ["health", "ready", "metrics", "login", "xready"];
    let pipelines: String = names
        .iter()
        .map(|name| format!("  {name}: {{every: 1h, delay: 1h, stages: [{{store: jsonl}}]}}\n"))
        .collect();
    let api = Api::run(&format!("{LISTEN}pipelines:\n{pipelines}"));
    for name in names {
        api.send("GET", &format!("/api/v1/pipelines/{name}"), "")
            .is(401);
        api.send("POST", &format!("/api/v1/pipelines/{name}/pause"), "")
            .is(401);
        assert_eq!(api.pipeline(name)["pipeline"], name);
    }
    for path in [
        "/xready",
        "/health/",
        "/health/x",
        "/health/../api/v1/status",
        "//health",
        "/%68ealth",
        "/health%2f",
        "/api/v1/health",
        "/api/v1/status/health",
        "/api/v1/status?/health",
        "/api/v1/status#/health",
        "/HEALTH",
        "/api/v1/pipelines/..",
        "/api/v1/pipelines/%2e%2e/status",
        "/ready;x",
        "/api/v1/pipelines/a%2fb",
    ] {
        let reply = api.send("GET", path, "");
        assert!(matches!(reply.status, 400 | 401), "{path}: {reply:?}");
    }
    for path in [
        "/api/v1/pipelines/..",
        "/api/v1/pipelines/%2e%2e",
        "/api/v1/pipelines/a%2fb",
        "/api/v1/pipelines/%00",
    ] {
        api.ask("admin", "GET", path).is(404);
    }
    api.send("POST", "/health", "").is(401);
    let test = tool();
    for name in ["..", "a/b", "%2e%2e", ""] {
        test.file(
            "flow.yaml",
            &format!("pipelines: {{'{name}': {{once: true, stages: [{{store: jsonl}}]}}}}\n"),
        );
        test.run(["check", "flow.yaml"]).assert_code(2);
    }
}

#[test]
fn h6_pages_of_other_sites_and_other_names_get_nothing() {
    let api = Api::run(QUIET);
    api.wait_open("hourly");
    let login = format!("authorization: Bearer {}\r\n", api.token("admin"));
    let pause = |headers: &str| {
        api.send(
            "POST",
            "/api/v1/pipelines/hourly/pause",
            &format!("{login}{headers}"),
        )
    };
    for headers in [
        "origin: https://evil.example\r\n",
        "origin: null\r\n",
        "origin: http://localhost.example\r\n",
        "origin: https://localhost\r\n",
        "origin: http://localhost\r\norigin: http://evil\r\n",
        "sec-fetch-site: cross-site\r\n",
        "sec-fetch-site: same-site\r\n",
    ] {
        let refused = pause(headers);
        assert!(
            !refused.is(403).head.contains("access-control"),
            "{headers}: {refused:?}"
        );
    }
    assert_eq!(api.pipeline("hourly")["paused"], false);
    for host in [
        "evil",
        "evil.example:8420",
        "localhost.evil",
        "169.254.169.254",
        "",
    ] {
        for (path, login) in [
            ("/api/v1/status", login.as_str()),
            ("/health", ""),
            ("/metrics", ""),
        ] {
            let request =
                format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n{login}connection: close\r\n\r\n");
            api.say(&request).is(403);
        }
    }
    let absolute = format!(
        "GET http://evil/health HTTP/1.1\r\nhost: localhost\r\n{login}connection: close\r\n\r\n"
    );
    api.say(&absolute).is(403);
    let two = "GET /health HTTP/1.1\r\nhost: localhost\r\nhost: evil\r\nconnection: close\r\n\r\n";
    assert!(matches!(api.say(two).status, 400 | 403));
    let none = "GET /health HTTP/1.0\r\n\r\n";
    assert!(matches!(api.say(none).status, 400 | 403));
    let preflight = api.send(
        "OPTIONS",
        "/api/v1/pipelines/hourly/pause",
        "origin: http://evil\r\naccess-control-request-method: POST\r\n",
    );
    assert!(!preflight.is(403).head.contains("access-control"));
    for host in ["127.0.0.1", "localhost:1", "[::1]:8420"] {
        let request = format!("GET /health HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        api.say(&request).is(200);
    }
    pause("origin: http://localhost\r\nsec-fetch-site: same-origin\r\n").is(200);
    assert_eq!(api.pipeline("hourly")["paused"], true);
}

#[test]
fn h7_every_answer_says_that_it_is_no_page() {
    let api = Api::run(QUIET);
    let admin = |path: &str| api.ask("admin", "GET", path);
    for reply in [
        admin("/api/v1/status"),
        admin("/api/v1/%3Cscript%3Ealert(1)%3C/script%3E"),
        admin("/api/v1/runs?%3Cscript%3E=1"),
        admin("/api/v1/events"),
        api.send("GET", "/health", ""),
        api.send("GET", "/metrics", ""),
        api.send("GET", "/", ""),
    ] {
        for header in [
            "x-content-type-options: nosniff",
            "frame-ancestors 'none'",
            "x-frame-options: deny",
            "cache-control: no-store",
        ] {
            assert!(reply.head.contains(header), "{header}: {reply:?}");
        }
        assert!(!reply.head.contains("text/html"), "{reply:?}");
    }
}

#[test]
fn h15_what_anybody_may_see_says_nothing_and_metrics_want_a_token_elsewhere() {
    let api = Api::run(QUIET);
    api.wait_open("hook");
    api.wait_open("hourly");
    assert_eq!(
        api.send("GET", "/health", "").is(200).body,
        r#"{"status":"ok"}"#
    );
    assert_eq!(
        api.send("GET", "/ready", "").is(200).body,
        r#"{"status":"ready"}"#
    );
    for header in [
        "x-forwarded-for: 10.0.0.1\r\n",
        "forwarded: for=10.0.0.1\r\n",
        "via: 1.1 proxy\r\n",
    ] {
        let refused = api.send("GET", "/metrics", header);
        assert!(!refused.is(401).body.contains("hourly"));
    }
    assert!(
        api.send("GET", "/metrics", "")
            .is(200)
            .body
            .contains("hourly")
    );
    assert!(!api.send("GET", "/health", "").head.contains("server:"));
}

#[test]
fn h16_a_token_that_others_may_read_stops_the_start() {
    let api = Api::run(QUIET);
    let test = api.test;
    drop(api.running);
    for name in ["token", "token.operator", "token.viewer"] {
        let path = test.path(format!(".wiredflow/{name}"));
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    let path = test.path(".wiredflow/token.viewer");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let refused = test.run(["run", "flow.yaml", "--for", "1s"]);
    refused.assert_code(1);
    assert!(
        refused.stderr.contains("others may read"),
        "{}",
        refused.stderr
    );
    fs::remove_file(&path).unwrap();
    test.run(["run", "flow.yaml", "--for", "10ms"])
        .assert_code(0);
    assert_eq!(super::token(&test, "viewer").len(), 64);
}

#[test]
fn h17_events_want_the_token_and_no_other_page() {
    let api = Api::run(QUIET);
    api.send("GET", "/api/v1/events", "accept: text/event-stream\r\n")
        .is(401);
    let upgrade = "connection: upgrade, close\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let reply = api.say(&format!(
        "GET /api/v1/events HTTP/1.1\r\nhost: localhost\r\n{upgrade}\r\n"
    ));
    reply.is(401);
    let login = format!("authorization: Bearer {}\r\n", api.token("viewer"));
    let foreign = api.send(
        "GET",
        "/api/v1/events",
        &format!("{login}origin: http://evil\r\n"),
    );
    foreign.is(403);
    let mut stream = api.connect();
    let request = format!("GET /api/v1/events HTTP/1.1\r\nhost: localhost\r\n{login}\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    read_reply(&mut stream).is(200);
    let mut heard = String::new();
    let mut piece = [0; 4096];
    // Figures come each second, and a change when it happens.
    let mut is_paused = false;
    while heard.matches("event: figures").count() < 3 || !heard.contains(r#""paused":true"#) {
        let number = stream.read(&mut piece).unwrap();
        assert!(number > 0, "{heard}");
        heard.push_str(&String::from_utf8_lossy(&piece[..number]));
        if !is_paused && heard.contains("event: figures") {
            api.ask("operator", "POST", "/api/v1/pipelines/hourly/pause")
                .is(200);
            is_paused = true;
        }
    }
    api.running.signal(wiredflow_testkit::Signal::Term);
    // The end of the flow is the end of its events.
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    api.running.wait(SOON).assert_code(0);
}
