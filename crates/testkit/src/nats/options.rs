//! What a server is told beyond its ports.

use std::{fmt::Write, path::Path};

use super::Nats;
use crate::Identity;

/// What a server is told beyond its ports and folder.
#[derive(Debug, Clone, Default)]
pub struct NatsOptions {
    users: Vec<String>,
    tls: Option<Tls>,
    max_payload: Option<usize>,
    is_without_jetstream: bool,
}

#[derive(Debug, Clone)]
struct Tls {
    identity: Identity,
    wants_certificates: bool,
}

impl NatsOptions {
    /// Takes this user, and nobody who is not named.
    #[must_use]
    pub fn user(mut self, name: &str, password: &str) -> Self {
        let user = format!("user: \"{name}\", password: \"{password}\"");
        self.users.push(user);
        self
    }

    /// Takes this user, who may publish and subscribe to these subjects alone.
    #[must_use]
    pub fn user_with(
        mut self,
        name: &str,
        password: &str,
        publish: &[&str],
        subscribe: &[&str],
    ) -> Self {
        let rights = format!("permissions: {{ publish: {publish:?}, subscribe: {subscribe:?} }}");
        let user = format!("user: \"{name}\", password: \"{password}\", {rights}");
        self.users.push(user);
        self
    }

    /// Takes the owner of the seed of this NKey, which begins with `U`.
    #[must_use]
    pub fn nkey(mut self, public: &str) -> Self {
        self.users.push(format!("nkey: {public}"));
        self
    }

    /// Takes TLS and nothing else.
    #[must_use]
    pub fn tls(mut self, identity: &Identity) -> Self {
        self.tls = Some(Tls {
            identity: identity.clone(),
            wants_certificates: false,
        });
        self
    }

    /// The same, from who shows a certificate of the same authority.
    #[must_use]
    pub fn tls_with_certificates(mut self, identity: &Identity) -> Self {
        self.tls = Some(Tls {
            identity: identity.clone(),
            wants_certificates: true,
        });
        self
    }

    /// The longest message, in bytes.
    #[must_use]
    pub fn max_payload(mut self, bytes: usize) -> Self {
        self.max_payload = Some(bytes);
        self
    }

    /// Keeps nothing.
    #[must_use]
    pub fn without_jetstream(mut self) -> Self {
        self.is_without_jetstream = true;
        self
    }

    /// Starts one; returns when it takes work.
    #[track_caller]
    pub fn start(self, program: &Path) -> Nats {
        Nats::launched(program, self)
    }

    pub(super) fn has_tls(&self) -> bool {
        self.tls.is_some()
    }

    pub(super) fn written(&self, folder: &Path, ports: [u16; 2], more: &str) -> String {
        let [clients, monitor] = ports;
        let mut text = format!("listen: 127.0.0.1:{clients}\nhttp: 127.0.0.1:{monitor}\n{more}\n");
        if !self.is_without_jetstream {
            let store = folder.join("store");
            let store = store.display();
            // A test machine may have less room than a server sets aside by itself.
            writeln!(
                text,
                "jetstream {{ store_dir: \"{store}\", max_file_store: 1GB, max_memory_store: 256MB }}"
            )
            .unwrap();
        }
        if let Some(bytes) = self.max_payload {
            writeln!(text, "max_payload: {bytes}").unwrap();
        }
        if !self.users.is_empty() {
            let users = self.users.iter().map(|user| format!("{{ {user} }}"));
            let users: Vec<_> = users.collect();
            writeln!(text, "authorization {{ users: [ {} ] }}", users.join(", ")).unwrap();
        }
        if let Some(tls) = &self.tls {
            let (certificate, key) = (
                tls.identity.certificate.display(),
                tls.identity.key.display(),
            );
            write!(
                text,
                "tls {{ cert_file: \"{certificate}\", key_file: \"{key}\""
            )
            .unwrap();
            if tls.wants_certificates {
                let authority = tls.identity.authority.display();
                write!(text, ", ca_file: \"{authority}\", verify: true").unwrap();
            }
            writeln!(text, " }}").unwrap();
        }
        text
    }
}
