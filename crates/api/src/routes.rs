//! The table of routes: the router is made from it, and tests walk it.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, Query, RawPathParams, State};
use axum::http::{Method, Response, StatusCode, Uri};
use axum::routing::{MethodFilter, on};
use futures_util::future::{BoxFuture, FutureExt};

use crate::answer::{Answer, refused, text};
use crate::desk::Desk;
use crate::gate::Caller;
use crate::question::{Question, bad};
use crate::tokens::Role;
use crate::{events, history, logs, metrics, status};

/// The description of the API, as it is served.
pub const OPEN_API: &str = include_str!("../../../docs/openapi.json");

/// Where the metrics are.
pub(crate) const METRICS: &str = "/metrics";

/// One route.
#[derive(Clone, Copy)]
pub struct Route {
    /// Its method.
    pub method: &'static str,
    /// Its path; `{…}` stands for one part of any text.
    pub path: &'static str,
    /// Who may ask; none: anybody.
    pub role: Option<Role>,
    /// The names of its query.
    pub query: &'static [&'static str],
    answer: fn(Question) -> BoxFuture<'static, Result<Answer, Answer>>,
}

impl std::fmt::Debug for Route {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.method, self.path)
    }
}

macro_rules! route {
    ($method:literal $path:expr, $role:expr, [$($query:literal),*], $answer:path) => {
        Route {
            method: $method,
            path: $path,
            role: $role,
            query: &[$($query),*],
            answer: |question| $answer(question).boxed(),
        }
    };
}

const VIEWER: Option<Role> = Some(Role::Viewer);
const OPERATOR: Option<Role> = Some(Role::Operator);
const ADMIN: Option<Role> = Some(Role::Admin);

const ROUTES: &[Route] = &[
    route!("GET" "/health", None, [], status::health),
    route!("GET" "/ready", None, [], status::ready),
    route!("GET" METRICS, VIEWER, [], metrics::show),
    route!("GET" "/api/v1/openapi.json", VIEWER, [], open_api),
    route!("GET" "/api/v1/status", VIEWER, [], status::show),
    route!("GET" "/api/v1/pipelines", VIEWER, [], status::pipelines),
    route!("GET" "/api/v1/pipelines/{pipeline}", VIEWER, [], status::pipeline),
    route!("POST" "/api/v1/pipelines/{pipeline}/pause", OPERATOR, [], status::pause),
    route!("POST" "/api/v1/pipelines/{pipeline}/resume", OPERATOR, [], status::resume),
    route!("POST" "/api/v1/pipelines/{pipeline}/trigger", OPERATOR, [], status::trigger),
    route!("GET" "/api/v1/stages", VIEWER, ["pipeline"], status::stages),
    route!("GET" "/api/v1/runs", VIEWER, ["pipeline", "outcome", "limit"], history::runs),
    route!("GET" "/api/v1/dead-letters", VIEWER, ["pipeline", "limit"], history::letters),
    route!("GET" "/api/v1/dead-letters/{id}", OPERATOR, [], history::letter),
    route!("POST" "/api/v1/dead-letters/{id}/replay", OPERATOR, [], history::replay),
    route!("DELETE" "/api/v1/dead-letters/{id}", ADMIN, [], history::remove),
    route!("GET" "/api/v1/logs", OPERATOR, ["pipeline", "after", "limit"], logs::show),
    route!("GET" "/api/v1/profile", VIEWER, ["seconds"], status::profile),
    route!("GET" "/api/v1/figures", VIEWER, [], status::figures),
    route!("GET" "/api/v1/events", VIEWER, [], events::show),
];

/// All routes.
pub fn routes() -> &'static [Route] {
    ROUTES
}

/// Whether this very path, with this method, is for anybody.
pub(crate) fn is_open(method: &Method, path: &str) -> bool {
    let method = if method == Method::HEAD {
        &Method::GET
    } else {
        method
    };
    let mut open = ROUTES.iter().filter(|route| route.role.is_none());
    open.any(|route| route.path == path && route.method == method.as_str())
}

/// The router of the table.
pub(crate) fn router(desk: Arc<Desk>) -> Router {
    let mut router = Router::new();
    for route in ROUTES {
        let method = match route.method {
            "POST" => MethodFilter::POST,
            "DELETE" => MethodFilter::DELETE,
            _ => MethodFilter::GET,
        };
        router = router.route(
            route.path,
            on(
                method,
                move |State(desk): State<Arc<Desk>>,
                      Extension(caller): Extension<Caller>,
                      parts: RawPathParams,
                      query: Result<Query<Vec<(String, String)>>, QueryRejection>| async move {
                    // The last word: whatever led here, the table says who may.
                    if route.role.is_some_and(|role| caller.role < role) {
                        return *forbidden(route, caller);
                    }
                    let part = parts.iter().next().map(|(_, part)| part.to_owned());
                    let Ok(Query(query)) = query else {
                        return *bad("the query cannot be read");
                    };
                    let part = part.unwrap_or_default();
                    let answer = match Question::new(desk, caller, part, query, route.query) {
                        Ok(question) => (route.answer)(question).await,
                        Err(answer) => Err(answer),
                    };
                    *answer.unwrap_or_else(|refused| refused)
                },
            ),
        );
    }
    router
        .fallback(nothing)
        .method_not_allowed_fallback(other_method)
        .with_state(desk)
}

fn forbidden(route: &Route, caller: Caller) -> Answer {
    let wanted = route.role.map_or("", Role::word);
    let why = format!(
        "this wants the role `{wanted}`, and the token's is `{}`",
        caller.role.word()
    );
    refused(StatusCode::FORBIDDEN, why)
}

async fn nothing(uri: Uri) -> Response<Body> {
    let why = format!("there is nothing at `{}`", uri.path().escape_debug());
    *refused(StatusCode::NOT_FOUND, why)
}

async fn other_method(method: Method, uri: Uri) -> Response<Body> {
    let why = format!("`{}` does not take `{method}`", uri.path().escape_debug());
    *refused(StatusCode::METHOD_NOT_ALLOWED, why)
}

async fn open_api(_: Question) -> Result<Answer, Answer> {
    Ok(text(StatusCode::OK, "application/json", OPEN_API))
}
