//! Asking Airflow: an address of its API, with a login that is made anew when it has come to its end.

use std::sync::PoisonError;

use reqwest::header::{AUTHORIZATION, HeaderValue};
use reqwest::{Method, StatusCode, Url};
use wiredflow_core::stage::Cx;
use wiredflow_core::{Error, ErrorKind, Result, Value};

use super::{AirflowAuth, Inner, MOST, Version};
use crate::http::{Auth, Basic, JSON, Request};

impl Inner {
    /// Asks once, and once more with a new login where the old one is refused.
    pub(super) async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        also: &'static [StatusCode],
        cx: &Cx,
    ) -> Result<Value> {
        let mut is_new = false;
        loop {
            let login = self.login().filter(|_| !is_new);
            let login = match login {
                Some(login) => login,
                None => {
                    is_new = true;
                    self.log_in(cx).await?
                }
            };
            let version = self.config.api.word();
            let mut request =
                self.request(method.clone(), &format!("api/{version}/{path}"), body)?;
            request.headers.insert(AUTHORIZATION, login);
            request.also = also;
            match self.client.ask(&request, MOST, cx).await {
                // A token has its time.
                Err(error) if error.kind() == ErrorKind::Config && !is_new => {
                    self.keep_login(None);
                }
                Err(error) => return Err(error),
                Ok(answer) => return answer.into_value(),
            }
        }
    }

    async fn log_in(&self, cx: &Cx) -> Result<HeaderValue> {
        let AirflowAuth { username, password } = &self.config.auth;
        let login = match self.config.api {
            Version::V1 => Auth {
                basic: Some(Basic {
                    username: username.clone(),
                    password: password.clone(),
                }),
                bearer: None,
            }
            .header()?,
            Version::V2 => {
                let body = serde_json::json!({"username": username.expose(), "password": password.expose()});
                let request = self.request(Method::POST, "auth/token", Some(&body))?;
                let answer = self.client.ask(&request, MOST, cx).await?.into_value()?;
                let token = answer["access_token"].as_str();
                let token = token
                    .ok_or_else(|| Error::config("Airflow has answered a login without a token"))?;
                let mut login = HeaderValue::from_str(&format!("Bearer {token}"))
                    .map_err(|_| Error::config("Airflow has answered a login with an odd token"))?;
                login.set_sensitive(true);
                login
            }
        };
        self.keep_login(Some(login.clone()));
        Ok(login)
    }

    fn request(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Request> {
        let mut request = self.root.clone();
        request.method = method;
        let root = request.url.as_str().trim_end_matches('/');
        request.url = Url::parse(&format!("{root}/{path}"))
            .map_err(|error| Error::config(format!("`url` is no address: {error}")))?;
        Ok(match body {
            Some(body) => request.with_body(body.to_string(), JSON),
            None => request,
        })
    }

    fn login(&self) -> Option<HeaderValue> {
        self.login
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn keep_login(&self, login: Option<HeaderValue>) {
        *self.login.lock().unwrap_or_else(PoisonError::into_inner) = login;
    }
}
