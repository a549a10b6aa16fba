//! A certificate authority of the test's own, and what it signs, by the `openssl` command.

use std::{
    fs,
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use tempfile::TempDir;

use crate::{
    owned::Owned,
    wait::{free_port, holds_within},
};

/// What `openssl ca` must be told beside its arguments; paths are relative to the folder of the authority.
const CONFIGURATION: &str = "
[ca]
default_ca = own
[own]
database = index.txt
new_certs_dir = .
rand_serial = yes
unique_subject = no
copy_extensions = copy
default_md = sha256
policy = any
private_key = authority.key
certificate = authority.pem
x509_extensions = leaf
[any]
commonName = supplied
[req]
distinguished_name = nothing
[nothing]
[leaf]
basicConstraints = CA:FALSE
keyUsage = digitalSignature
extendedKeyUsage = serverAuth, clientAuth
";

/// A certificate authority that nobody trusts who was not told to. Its files live as long as it or one of its identities.
#[derive(Debug)]
pub struct Authority {
    folder: Arc<TempDir>,
}

/// A certificate with its key, as PEM files.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The file of the certificate.
    pub certificate: PathBuf,
    /// The file of its key.
    pub key: PathBuf,
    /// The file of the authority's certificate.
    pub authority: PathBuf,
    _folder: Arc<TempDir>,
}

impl Authority {
    /// A new authority with a new key.
    #[expect(
        clippy::new_without_default,
        reason = "two authorities are never equal"
    )]
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("index.txt"), "").unwrap();
        fs::write(folder.path().join("ca.conf"), CONFIGURATION).unwrap();
        let subject = ["-subj", "/CN=testkit authority", "-days", "3650"];
        let extensions = [
            "-addext",
            "basicConstraints=critical,CA:TRUE",
            "-addext",
            "keyUsage=critical,keyCertSign,cRLSign",
        ];
        let files = ["-keyout", "authority.key", "-out", "authority.pem"];
        openssl(
            folder.path(),
            [
                &["req", "-x509"],
                &NEW_KEY[..],
                &subject,
                &extensions,
                &files,
            ],
        );
        Self {
            folder: Arc::new(folder),
        }
    }

    /// For a server whose certificate is signed by its own key alone; valid for `localhost` and 127.0.0.1.
    pub fn self_signed() -> Identity {
        let folder = tempfile::tempdir().unwrap();
        let name = ["-subj", "/CN=localhost", "-days", "3650"];
        let hosts = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"];
        let files = ["-keyout", "alone.key", "-out", "alone.pem"];
        openssl(
            folder.path(),
            [&["req", "-x509"], &NEW_KEY[..], &name, &hosts, &files],
        );
        let certificate = folder.path().join("alone.pem");
        Identity {
            key: folder.path().join("alone.key"),
            authority: certificate.clone(),
            certificate,
            _folder: Arc::new(folder),
        }
    }

    /// The file of the authority's certificate, for those who shall trust it.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("authority.pem")
    }

    /// For a server as it should be: valid for `localhost` and 127.0.0.1.
    pub fn server(&self) -> Identity {
        self.sign("server", "DNS:localhost,IP:127.0.0.1,IP:::1", 2049)
    }

    /// For a server whose certificate ran out in 2021.
    pub fn expired(&self) -> Identity {
        self.sign("expired", "DNS:localhost,IP:127.0.0.1,IP:::1", 2021)
    }

    /// For a server whose certificate is for `elsewhere.example` alone.
    pub fn wrong_host(&self) -> Identity {
        self.sign("wrong-host", "DNS:elsewhere.example", 2049)
    }

    /// For a client of that name: letters, digits and `-`.
    pub fn client(&self, name: &str) -> Identity {
        self.sign(name, &format!("DNS:{name}"), 2049)
    }

    fn sign(&self, name: &str, hosts: &str, last_year: u16) -> Identity {
        let folder = self.folder.path();
        let [request, key, certificate] =
            ["csr", "key", "pem"].map(|ending| format!("{name}.{ending}"));
        let subject = format!("/CN={name}");
        let hosts = format!("subjectAltName={hosts}");
        let wish = [
            "-subj", &subject, "-addext", &hosts, "-keyout", &key, "-out", &request,
        ];
        openssl(folder, [&["req"], &NEW_KEY[..], &wish]);
        // `copy_extensions` takes the names over from the request.
        let end = format!("{last_year}0101000000Z");
        let dates = ["-startdate", "20200101000000Z", "-enddate", &end];
        let files = ["-in", &request, "-out", &certificate, "-config", "ca.conf"];
        openssl(folder, [&["ca", "-batch", "-notext"], &dates[..], &files]);
        Identity {
            certificate: folder.join(certificate),
            key: folder.join(key),
            authority: self.path(),
            _folder: Arc::clone(&self.folder),
        }
    }
}

/// A server that speaks TLS 1.0 and nothing newer. Dropping it ends it.
#[derive(Debug)]
pub struct OldTls {
    port: u16,
    _server: Owned,
}

impl OldTls {
    /// Starts one with that certificate; returns when it answers.
    #[track_caller]
    pub fn start(identity: &Identity) -> Self {
        let port = free_port();
        let mut command = Command::new("openssl");
        command
            .args(["s_server", "-quiet", "-tls1"])
            .args(["-cipher", "DEFAULT@SECLEVEL=0", "-accept"])
            .arg(format!("127.0.0.1:{port}"))
            .arg("-cert")
            .arg(&identity.certificate)
            .arg("-key")
            .arg(&identity.key)
            .stdin(Stdio::piped()) // its end would be the server's
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let server = Owned::start(&mut command)
            .unwrap_or_else(|error| panic!("install openssl (`apt-get install openssl`): {error}"));
        let answers = || TcpStream::connect(("127.0.0.1", port)).is_ok();
        let started = holds_within(Duration::from_secs(10), answers);
        assert!(started, "openssl s_server does not answer");
        Self {
            port,
            _server: server,
        }
    }

    /// `localhost:PORT`.
    pub fn address(&self) -> String {
        format!("localhost:{}", self.port)
    }
}

const NEW_KEY: [&str; 5] = [
    "-newkey",
    "ec",
    "-pkeyopt",
    "ec_paramgen_curve:prime256v1",
    "-nodes",
];

fn openssl<const N: usize>(folder: &Path, args: [&[&str]; N]) {
    let output = Command::new("openssl")
        .args(args.concat())
        .current_dir(folder)
        .output()
        .unwrap_or_else(|error| panic!("install openssl (`apt-get install openssl`): {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "openssl {args:?} failed: {said}");
}
