//! A flow file and the files that it needs, as one piece known by its digest.
//!
//! `u32` length of the header, the header in JSON, then a [`Pack`].

use std::fmt;
use std::path::{Component, Path};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use wiredflow_core::engine::Name;
use wiredflow_core::node::{Node, NodeKind, Span};
use wiredflow_core::{Error, Result};
use wiredflow_engine::pack::{Pack, hex};

/// The format of bundles.
const FORMAT: u32 = 1;

/// Keys whose files are secret: they stay where they are.
const SECRET_FILES: [&str; 2] = ["key", "identity"];

/// A flow that can travel. A cheap clone.
#[derive(Clone, Debug, PartialEq)]
pub struct Bundle {
    header: Header,
    bytes: Bytes,
    version: String,
    /// Where the pack begins.
    pack: usize,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Header {
    format: u32,
    /// The flow's name where its file gives none.
    name: String,
    /// The flow file.
    flow: String,
    /// The hash of the pack.
    pack: String,
}

/// Why a flow cannot travel.
#[derive(Clone, Debug)]
pub enum BundleError {
    /// A place in the flow file, what is wrong with it, and what to do.
    At(Span, String, String),
    /// Something else.
    Other(Error),
}

impl fmt::Display for BundleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(_, message, help) => write!(f, "{message}; {help}"),
            Self::Other(error) => f.write_str(error.message()),
        }
    }
}

impl From<Error> for BundleError {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

impl Bundle {
    /// Packs a flow: its text, the Python files of its folder and all below it, and each file of the folder that a value of
    /// the flow file names. `name` is the flow's where the file gives none; `node` is the text as it was read.
    ///
    /// # Errors
    /// Where a private key would travel, or there is too much.
    pub fn of(text: &str, node: &Node, name: &str, folder: &Path) -> Result<Self, BundleError> {
        let mut named = Vec::new();
        gather(node, "", folder, &mut named)?;
        let pack = Pack::of(folder, &named)?;
        let header = Header {
            format: FORMAT,
            name: name.to_owned(),
            flow: text.to_owned(),
            pack: pack.hash().to_owned(),
        };
        let unwritten =
            |error: serde_json::Error| Error::bug(format!("a bundle cannot be written: {error}"));
        let head = serde_json::to_vec(&header).map_err(unwritten)?;
        let length =
            u32::try_from(head.len()).map_err(|_| Error::config("the flow file is too long"))?;
        let mut bytes = length.to_be_bytes().to_vec();
        bytes.extend(head);
        let begin = bytes.len();
        bytes.extend(pack.bytes());
        let version = hex(&Sha256::digest(&bytes));
        Ok(Self {
            header,
            version,
            bytes: bytes.into(),
            pack: begin,
        })
    }

    /// Reads one that has arrived.
    ///
    /// # Errors
    /// `Remote`, where it is not the one of this version: it is damaged, and may be whole another time. `Config`, where it is of another format.
    pub fn read(bytes: Bytes, version: &str) -> Result<Self> {
        if hex(&Sha256::digest(&bytes)) != version {
            return Err(Error::remote("the code of the flow has arrived damaged"));
        }
        let odd = || {
            Error::config(
                "the code of the flow is of another format: run the same version of Wiredflow on all machines",
            )
        };
        let (length, rest) = bytes.split_at_checked(4).ok_or_else(odd)?;
        let length = length
            .iter()
            .fold(0, |sum, byte| (sum << 8) | usize::from(*byte));
        let (head, _) = rest.split_at_checked(length).ok_or_else(odd)?;
        let header: Header = serde_json::from_slice(head).map_err(|_| odd())?;
        if header.format != FORMAT {
            return Err(odd());
        }
        Ok(Self {
            header,
            version: version.to_owned(),
            pack: 4 + length,
            bytes,
        })
    }

    /// Its digest: 64 hexadecimal digits.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// All of it.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The name of its blob.
    ///
    /// # Errors
    /// `Config`, for what is no version.
    pub fn blob(version: &str) -> Result<Name> {
        Name::new(["code", version])
    }

    /// The flow file.
    pub fn text(&self) -> &str {
        &self.header.flow
    }

    /// The flow's name where its file gives none.
    pub fn default_name(&self) -> &str {
        &self.header.name
    }

    /// Writes its files into a folder that is not there yet, as a whole or not at all.
    ///
    /// # Errors
    /// `Remote`, where the disk does not take them.
    pub fn unpack(&self, place: &Path) -> Result<()> {
        let unpacked = Pack::unpack(&self.header.pack, &self.bytes[self.pack..], place);
        unpacked.map_err(|error| {
            let place = place.display();
            Error::remote(format!(
                "the code of the flow cannot be written to `{place}`: {error}"
            ))
        })
    }
}

/// The files of the folder that values of the flow file name.
fn gather(
    node: &Node,
    key: &str,
    folder: &Path,
    named: &mut Vec<String>,
) -> Result<(), BundleError> {
    match &node.kind {
        NodeKind::Map(entries) => entries
            .iter()
            .try_for_each(|entry| gather(&entry.value, &entry.key, folder, named)),
        NodeKind::List(items) => items
            .iter()
            .try_for_each(|item| gather(item, key, folder, named)),
        _ => {
            let Some(text) = node.as_text() else {
                return Ok(());
            };
            // `${file:secret}` stays: it is filled in on the node.
            let path = Path::new(text);
            let inside =
                |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
            if text.is_empty() || !path.components().all(inside) || !folder.join(path).is_file() {
                return Ok(());
            }
            if SECRET_FILES.contains(&key) {
                let message =
                    format!("`{text}` is a private key, which does not travel with the flow");
                let help = "put it on each node, and write its absolute path";
                return Err(BundleError::At(node.span, message, help.to_owned()));
            }
            let name: std::path::PathBuf = path
                .components()
                .filter(|part| *part != Component::CurDir)
                .collect();
            named.push(name.to_string_lossy().into_owned());
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use wiredflow_core::yaml;

    use super::*;

    const FLOW: &str = "
remotes: {s: {http: {url: \"https://x/\", tls: {ca: ca.pem}}}}
pipelines:
  p:
    once: true
    stages:
      - core_logic: {python: \"logic.py:f\"}
      - core_logic: {program: [./tools/score.sh, -v, missing.txt, ../outside]}
      - send: {http_post: {url: \"http://x/${file:secret.txt}\"}}
";

    #[test]
    fn a_flow_travels_with_its_code_and_the_files_that_it_names_but_no_secrets() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        for name in [
            "logic.py",
            "package/more.py",
            "ca.pem",
            "tools/score.sh",
            "secret.txt",
            "data/kept.db",
            ".hidden",
        ] {
            write(name, name);
        }
        std::fs::write(folder.path().join("../outside"), "x").unwrap_or_default();
        let node = yaml::parse(FLOW).unwrap();
        let bundle = Bundle::of(FLOW, &node, "flow", folder.path()).unwrap();
        let again = Bundle::of(FLOW, &node, "flow", folder.path()).unwrap();
        assert_eq!(bundle.version(), again.version());

        let read = Bundle::read(bundle.bytes().clone(), bundle.version()).unwrap();
        assert_eq!((read.text(), read.default_name()), (FLOW, "flow"));
        let place = tempfile::tempdir().unwrap();
        let place = place.path().join("files");
        read.unpack(&place).unwrap();
        for name in ["logic.py", "package/more.py", "ca.pem", "tools/score.sh"] {
            assert_eq!(std::fs::read_to_string(place.join(name)).unwrap(), name);
        }
        for name in ["secret.txt", "data", ".hidden"] {
            assert!(!place.join(name).exists(), "{name}");
        }

        let mut damaged = bundle.bytes().to_vec();
        *damaged.last_mut().unwrap() ^= 1;
        Bundle::read(damaged.into(), bundle.version()).unwrap_err();
    }

    #[test]
    fn a_private_key_stays_where_it_is() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("own.key"), "secret").unwrap();
        let text = "pipelines: {p: {source: {mqtt: {broker: b, topic: t, tls: {key: own.key}}}}}";
        let node = yaml::parse(text).unwrap();
        let error = Bundle::of(text, &node, "flow", folder.path()).unwrap_err();
        assert!(
            error.to_string().contains("`own.key` is a private key"),
            "{error}"
        );
    }
}
