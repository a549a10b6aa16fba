//! How a server is reached, and what of that is refused before anything is sent.

use std::net::IpAddr;
use std::path::PathBuf;

use async_nats::ServerAddr;
use wiredflow_core::secret::Secret;
use wiredflow_core::{Error, Result};

/// How a server, or a cluster of them, is reached.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// `nats://host:4222` or `tls://host:4222`, one for each server of a cluster: no others are connected to.
    pub urls: Vec<String>,
    /// Who we are.
    pub login: Option<Login>,
    /// TLS with these files; without any of them that of a `tls://` address trusts the authorities of the system.
    pub tls: Option<TlsFiles>,
    /// Takes servers elsewhere also without TLS or without a login: for a trial.
    pub insecure: bool,
}

/// Who we are.
#[derive(Clone, Debug)]
pub enum Login {
    /// A user and his password.
    Password {
        /// The user.
        user: String,
        /// His password.
        password: Secret,
    },
    /// A token.
    Token(Secret),
    /// The seed of an NKey: `SU…`.
    Seed(Secret),
    /// A file of credentials, as `nsc` writes them. It is read when the connection is made.
    Credentials(PathBuf),
}

/// PEM files for TLS. They are read when the connection is made.
#[derive(Clone, Debug, Default)]
pub struct TlsFiles {
    /// The authorities to trust, in place of those of the system.
    pub ca: Option<PathBuf>,
    /// Our own certificate, with those between it and its authority.
    pub cert: Option<PathBuf>,
    /// The key of that certificate.
    pub key: Option<PathBuf>,
}

impl Access {
    /// The addresses, where nothing speaks against them.
    ///
    /// # Errors
    /// `Config`, where one cannot be read, has a login in it, or leads elsewhere without TLS or a login.
    pub(crate) fn addresses(&self) -> Result<Vec<ServerAddr>> {
        if self.urls.is_empty() {
            return Err(Error::config(
                "no server of NATS is named: write its address, like `nats://host:4222`",
            ));
        }
        if let Some(tls) = &self.tls
            && tls.cert.is_some() != tls.key.is_some()
        {
            return Err(Error::config(
                "a certificate and its key go together: one is missing",
            ));
        }
        let addresses: Vec<ServerAddr> = self
            .urls
            .iter()
            .map(|url| read(url))
            .collect::<Result<_>>()?;
        for address in &addresses {
            self.guard(address)?;
        }
        Ok(addresses)
    }

    /// Whether a connection may only be one of TLS.
    pub(crate) fn wants_tls(&self, addresses: &[ServerAddr]) -> bool {
        let elsewhere = || addresses.iter().any(|address| !is_loopback(address));
        let named = || addresses.iter().any(ServerAddr::tls_required);
        self.tls.is_some() || named() || (!self.insecure && elsewhere())
    }

    /// Whether a server that takes anybody is refused.
    pub(crate) fn wants_login(&self, addresses: &[ServerAddr]) -> bool {
        let elsewhere = addresses.iter().any(|address| !is_loopback(address));
        elsewhere && !self.insecure && !self.shows_certificate()
    }

    fn shows_certificate(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.cert.is_some())
    }

    fn guard(&self, address: &ServerAddr) -> Result<()> {
        if self.insecure || is_loopback(address) {
            return Ok(());
        }
        let told = told(address);
        if self.tls.is_none() && !address.tls_required() {
            return Err(Error::config(format!(
                "nats at `{told}` is on another machine and would be spoken to in the clear: give it TLS and write \
                 `tls://{told}`, or say that it may be insecure"
            )));
        }
        if self.login.is_none() && !self.shows_certificate() {
            return Err(Error::config(format!(
                "nats at `{told}` is on another machine and no login is named: give it users, or say that it may be \
                 insecure"
            )));
        }
        Ok(())
    }
}

fn read(url: &str) -> Result<ServerAddr> {
    // The address itself is not repeated where it may hold a password.
    let odd = "an address of NATS looks like `nats://host:4222` or `tls://host:4222`";
    let address: ServerAddr = url.parse().map_err(|_| Error::config(odd))?;
    if address.has_user_pass() || address.password().is_some() {
        return Err(Error::config(
            "an address of NATS has a login in it: name the login on its own, where it is kept as a secret",
        ));
    }
    let usual = matches!(address.scheme(), "nats" | "tls") && !address.host().is_empty();
    match usual {
        true => Ok(address),
        false => Err(Error::config(odd)),
    }
}

/// An address in words that may be shown: `host:port`.
pub(crate) fn told(address: &ServerAddr) -> String {
    let (host, port) = (address.host(), address.port());
    match host.contains(':') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    }
}

fn is_loopback(address: &ServerAddr) -> bool {
    let host = address.host();
    let ip = host.parse::<IpAddr>();
    host.eq_ignore_ascii_case("localhost") || ip.is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use wiredflow_core::ErrorKind;

    use super::*;

    fn access(url: &str) -> Access {
        Access {
            urls: vec![url.to_owned()],
            ..Access::default()
        }
    }

    #[track_caller]
    fn check_refused(access: &Access, expected: &str) {
        let error = access.addresses().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.message().contains(expected), "{error}");
    }

    #[test]
    fn another_machine_wants_tls_and_a_login_unless_it_may_be_insecure() {
        let mut elsewhere = access("nats://10.1.2.3:4222");
        check_refused(&elsewhere, "in the clear");
        elsewhere.tls = Some(TlsFiles::default());
        check_refused(&elsewhere, "no login is named");
        elsewhere.login = Some(Login::Token(Secret::new("t")));
        let addresses = elsewhere.addresses().unwrap();
        assert!(elsewhere.wants_tls(&addresses) && elsewhere.wants_login(&addresses));
        let trial = Access {
            insecure: true,
            ..access("nats://10.1.2.3:4222")
        };
        assert!(!trial.wants_tls(&trial.addresses().unwrap()));
    }

    #[test]
    fn this_machine_wants_neither() {
        for url in ["nats://127.0.0.1:4222", "localhost", "nats://[::1]:4222"] {
            let here = access(url);
            let addresses = here.addresses().unwrap();
            assert!(
                !here.wants_tls(&addresses) && !here.wants_login(&addresses),
                "{url}"
            );
        }
        let named = access("tls://localhost:4222");
        assert!(named.wants_tls(&named.addresses().unwrap()));
    }

    #[test]
    fn what_is_no_address_is_refused_and_not_repeated() {
        for url in ["http://x", "nats://", "ws://localhost", "nats://:4222"] {
            check_refused(&access(url), "looks like");
        }
        check_refused(&access("nats://u:canary@localhost"), "as a secret");
        let error = access("nats://u:canary@localhost").addresses().unwrap_err();
        assert!(!error.message().contains("canary"));
        check_refused(&Access::default(), "no server of NATS is named");
    }
}
