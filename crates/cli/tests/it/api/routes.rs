//! The table: every route, every role, every method.

use std::collections::BTreeSet;

use serde_json::Value;
use wiredflow_api::{OPEN_API, routes};

use super::{Api, QUIET};

const ROLES: [&str; 3] = ["viewer", "operator", "admin"];
const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];

fn open_api() -> Value {
    serde_json::from_str(OPEN_API).unwrap()
}

/// The role that the checked-in document wants, and whether there is such an operation.
fn documented(document: &Value, path: &str, method: &str) -> Option<Option<String>> {
    let method = if method == "HEAD" { "GET" } else { method };
    let operation = &document["paths"][path][method.to_lowercase()];
    let role = operation.get("x-role")?;
    Some(role.as_str().map(str::to_owned))
}

#[test]
fn h3_the_table_of_routes_is_the_document() {
    let document = open_api();
    let mut described = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let query = operation["parameters"]
                .as_array()
                .cloned()
                .unwrap_or_default();
            let query = query.iter().filter(|one| one["in"] == "query");
            let query: BTreeSet<String> = query
                .map(|one| one["name"].as_str().unwrap().to_owned())
                .collect();
            let role = operation["x-role"].as_str().unwrap_or("anybody").to_owned();
            assert_eq!(
                operation["security"].as_array().unwrap().is_empty(),
                role == "anybody",
                "{path}"
            );
            described.insert((method.to_uppercase(), path.clone(), role, query));
        }
    }
    let served: BTreeSet<_> = routes()
        .iter()
        .map(|route| {
            let role = route.role.map_or("anybody", |role| role.word()).to_owned();
            let query = route.query.iter().map(|name| (*name).to_owned()).collect();
            (route.method.to_owned(), route.path.to_owned(), role, query)
        })
        .collect();
    assert_eq!(served, described, "docs/openapi.json describes the routes");
}

#[test]
fn h3_every_route_with_every_role_and_every_method_does_what_the_table_says() {
    let api = Api::run(QUIET);
    api.wait_open("hourly");
    let document = open_api();
    let mut paths: BTreeSet<&str> = routes().iter().map(|route| route.path).collect();
    paths.extend([
        "/",
        "/api",
        "/api/v1",
        "/api/v1/nothing",
        "/login",
        "/metrics/",
    ]);
    for path in paths {
        let real = path
            .replace("{pipeline}", "hook")
            .replace("{id}", "nosuchletter");
        for method in METHODS {
            let documented = documented(&document, path, method);
            let nobody = api.send(method, &real, "");
            let expected = match &documented {
                Some(None) => 200,
                // Without a token where only this machine listens.
                Some(_) if path == "/metrics" => 200,
                _ => 401,
            };
            assert_eq!(
                nobody.status, expected,
                "{method} {path} by nobody: {nobody:?}"
            );
            for (rank, role) in ROLES.into_iter().enumerate() {
                let reply = api.ask(role, method, &real);
                let wanted = documented.clone().flatten();
                let wanted =
                    wanted.map(|wanted| ROLES.iter().position(|role| **role == wanted).unwrap());
                let is_known = document["paths"].get(path).is_some();
                let place = format!("{method} {path} by {role}: {reply:?}");
                match (&documented, wanted) {
                    (None, _) if is_known => assert_eq!(reply.status, 405, "{place}"),
                    (None, _) => assert_eq!(reply.status, 404, "{place}"),
                    (Some(_), Some(wanted)) if rank < wanted => {
                        assert_eq!(reply.status, 403, "{place}")
                    }
                    // 404: there is no such letter; 409: a stream is not triggered.
                    (Some(_), _) => {
                        assert!(matches!(reply.status, 200 | 202 | 404 | 409), "{place}")
                    }
                }
                if reply.status >= 400 && method != "HEAD" {
                    assert!(reply.json()["error"].is_string(), "{place}");
                }
                let code = reply.status.to_string();
                if documented.is_some() && method != "HEAD" {
                    let operation = &document["paths"][path][method.to_lowercase()];
                    assert!(
                        operation["responses"].get(&code).is_some(),
                        "not documented: {place}"
                    );
                }
            }
        }
    }
}

#[test]
fn h5_a_viewer_changes_nothing() {
    let api = Api::run(QUIET);
    api.wait_open("hourly");
    for what in ["pause", "resume", "trigger"] {
        let path = format!("/api/v1/pipelines/hourly/{what}");
        let refused = api.ask("viewer", "POST", &path);
        assert!(refused.is(403).body.contains("operator"), "{refused:?}");
    }
    let hourly = api.pipeline("hourly");
    assert_eq!(
        (&hourly["paused"], &hourly["records_in"]),
        (&false.into(), &0.into())
    );
    for path in ["/api/v1/dead-letters/x", "/api/v1/logs"] {
        api.ask("viewer", "GET", path).is(403);
    }
    api.ask("operator", "DELETE", "/api/v1/dead-letters/x")
        .is(403);
}

#[test]
fn h13_nothing_can_be_uploaded() {
    let api = Api::run(QUIET);
    let before = api.test.read("flow.yaml");
    for path in [
        "/api/v1/flow",
        "/api/v1/pipelines",
        "/api/v1/pipelines/new",
        "/api/v1/config",
        "/flow.yaml",
    ] {
        for method in ["PUT", "POST", "PATCH"] {
            let reply = api.ask("admin", method, path);
            assert!(
                matches!(reply.status, 404 | 405),
                "{method} {path}: {reply:?}"
            );
        }
    }
    assert!(!OPEN_API.contains("requestBody"));
    assert_eq!(api.test.read("flow.yaml"), before);
    let wanted = ["hook", "hourly"];
    let known = api.get("pipelines");
    let known: Vec<&str> = known["pipelines"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["pipeline"].as_str().unwrap())
        .collect();
    assert_eq!(known, wanted);
}

#[test]
fn what_a_query_says_and_nobody_knows_is_refused() {
    let api = Api::run(QUIET);
    for path in [
        "status?x=1",
        "runs?limt=3",
        "runs?limit=0",
        "runs?limit=-1",
        "runs?limit=1001",
        "runs?limit=",
        "runs?limit=%2B1",
        "runs?limit=1&limit=2",
        "runs?outcome=fine",
        "logs?after=x",
        "runs?limit=%ff",
    ] {
        api.ask("admin", "GET", &format!("/api/v1/{path}")).is(400);
    }
    api.ask("admin", "GET", "/api/v1/runs?pipeline=nobody")
        .is(404);
    let told = api.ask("admin", "GET", "/api/v1/runs?limt=3");
    assert!(told.body.contains("limit"), "{told:?}");
}
