//! The connections of a flow to engines that carry work between processes: one for each engine.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OnceCell;
use wiredflow_core::engine::Engine;
use wiredflow_core::node::Node;
use wiredflow_core::secret::Secret;
use wiredflow_core::{Result, config};
use wiredflow_nats::Nats;
pub use wiredflow_nats::{Access, Login, TlsFiles};

use crate::catalogue::CheckCx;
use crate::pool::NAMESPACE;
use crate::tls::TlsKeys;

config! {
    /// Who we are at an engine: a user and a password, or one of the others.
    pub struct EngineAuth {
        /// The user's name.
        user: Option<Secret>,
        /// The password.
        password: Option<Secret>,
        /// A token.
        token: Option<Secret>,
        /// The seed of an NKey, `SU…`.
        seed: Option<Secret>,
        /// A file of credentials, as `nsc` writes them.
        credentials: Option<String>,
    }
}

impl EngineAuth {
    fn login(&self, folder: &Path) -> Option<Login> {
        let parts = (
            self.user.as_ref().zip(self.password.as_ref()),
            &self.token,
            &self.seed,
            &self.credentials,
        );
        match parts {
            (Some((user, password)), None, None, None) => Some(Login::Password {
                user: user.expose().to_owned(),
                password: password.clone(),
            }),
            (None, Some(token), None, None) => Some(Login::Token(token.clone())),
            (None, None, Some(seed), None) => Some(Login::Seed(seed.clone())),
            (None, None, None, Some(file)) => Some(Login::Credentials(folder.join(file))),
            _ => None,
        }
    }

    /// Reports what is no login.
    fn check(&self, node: &Node, cx: &mut CheckCx<'_>) {
        if self.user.is_some() != self.password.is_some() || self.login(cx.folder).is_none() {
            let message = "one login is wanted: `user` and `password`, or `token`, or `seed`, or `credentials`";
            cx.reading.error(node.span, message);
        }
        if let Some(file) = &self.credentials
            && !cx.folder.join(file).is_file()
        {
            let span = node
                .entry("credentials")
                .map_or(node.span, |entry| entry.value.span);
            cx.reading.error(span, format!("there is no file `{file}`"));
        }
    }
}

/// How the engine of a pool is reached, as a flow file says it.
pub(crate) fn access(
    urls: &[String],
    auth: Option<&EngineAuth>,
    tls: Option<&TlsKeys>,
    insecure: bool,
    folder: &Path,
) -> Access {
    let file = |file: &Option<String>| file.as_ref().map(|file| folder.join(file));
    Access {
        urls: urls.to_vec(),
        login: auth.and_then(|auth| auth.login(folder)),
        tls: tls.map(|tls| TlsFiles {
            ca: file(&tls.ca),
            cert: file(&tls.cert),
            key: file(&tls.key),
        }),
        insecure,
    }
}

/// Reports what cannot work of a way to an engine; `node` has `engine`, `auth` and `tls`.
pub(crate) fn check_access(
    urls: &[String],
    auth: Option<&EngineAuth>,
    tls: Option<&TlsKeys>,
    node: &Node,
    cx: &mut CheckCx<'_>,
) {
    let part = |key: &str| node.entry(key).map_or(node, |entry| &entry.value);
    for url in urls {
        let rest = url
            .strip_prefix("nats://")
            .or_else(|| url.strip_prefix("tls://"));
        let whole =
            rest.is_some_and(|rest| !rest.is_empty() && !rest.contains(char::is_whitespace));
        if !whole {
            let message = format!("`{}` is not the address of an engine", url.escape_debug());
            let help = "such as `nats://10.0.0.1:4222`, or `tls://…`";
            cx.reading
                .error_with_help(part("engine").span, message, help);
        } else if rest.is_some_and(|rest| rest.contains('@')) {
            let message = "an address with a login in it would be seen in logs: use `auth`";
            cx.reading.error(part("engine").span, message);
        }
    }
    if urls.is_empty() {
        cx.reading.error(part("engine").span, "no engine is named");
    }
    if let Some(auth) = auth {
        auth.check(part("auth"), cx);
    }
    if let Some(tls) = tls {
        tls.check(part("tls"), cx.folder, cx.reading);
        if tls.insecure {
            let message =
                "an engine's certificate is always looked at: name its authority with `ca`";
            cx.reading.error(part("tls").span, message);
        }
    }
}

/// The engines of a flow. A cheap clone.
#[derive(Clone, Default)]
pub struct Engines(Arc<Mutex<HashMap<String, Arc<Known>>>>);

type Known = OnceCell<Arc<dyn Engine>>;

impl fmt::Debug for Engines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Engines")
    }
}

impl Engines {
    /// The same engines, and this one at an address: what a test puts in the place of a server.
    #[must_use]
    pub fn with(self, address: &str, engine: Arc<dyn Engine>) -> Self {
        let known = Arc::new(OnceCell::new_with(Some(engine)));
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(address.to_owned(), known);
        drop(all);
        self
    }

    /// The engine at an address, connected when it is first wanted. Who comes later by the same addresses
    /// shares it, with the login of the first.
    ///
    /// # Errors
    /// As when it is connected.
    pub async fn connect(&self, access: &Access) -> Result<Arc<dyn Engine>> {
        let key = access.urls.join(",");
        let known = {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(all.entry(key).or_default())
        };
        let engine = known.get_or_try_init(|| async {
            let engine = Nats::connect(access, NAMESPACE).await?;
            for weakness in &engine.about().weaknesses {
                tracing::warn!("the engine at `{}`: {weakness}", access.urls.join(", "));
            }
            Ok(engine as Arc<dyn Engine>)
        });
        engine.await.cloned()
    }
}
