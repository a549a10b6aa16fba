//! What a stage needs at this machine: its setting and its flow's code, asked for by their hashes, and a Python with its
//! packages.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::sync::Mutex;
use wiredflow_core::{Error, Result};
use wiredflow_engine::clock::Clock;
use wiredflow_engine::pack::{hex, is_hash};
use wiredflow_engine::pool::words::{Answer, Setting, What};
use wiredflow_far::{Cache, Venv};

use super::contact::Contact;

/// The longest setting and the most code, in bytes: what the other side sends at most.
const MOST_SETTING: u64 = 64 << 20;
const MOST_CODE: u64 = 512 << 20;

/// All that calls of one setting need here.
#[derive(Debug)]
pub(crate) struct Ready {
    pub(crate) setting: Setting,
    /// The folder of the flow's code.
    pub(crate) folder: PathBuf,
    /// Variables for the process.
    pub(crate) env: Vec<(String, String)>,
}

/// Brings what a setting needs, unless it is here: code by one alone at a time, who holds `bringing`.
///
/// # Errors
/// `Remote`, where the flow does not give it; `Config`, where it cannot be made ready here.
pub(crate) async fn make_ready(
    hash: &str,
    contact: &Contact,
    (cache, bringing): (&Cache, &Mutex<()>),
    clock: &Clock,
) -> Result<Ready> {
    let bytes = fetch(hash, MOST_SETTING, contact).await?;
    let setting: Setting = serde_json::from_slice(&bytes).map_err(|error| {
        Error::config(format!(
            "the setting cannot be read: {error}; use the same release on both sides"
        ))
    })?;
    let mut env: Vec<(String, String)> = setting.env.clone().into_iter().collect();
    let Some(code) = setting.code.clone() else {
        env.push(("WIREDFLOW_PYTHON".to_owned(), setting.python.clone()));
        let folder = std::env::temp_dir();
        return Ok(Ready {
            setting,
            folder,
            env,
        });
    };
    if !is_hash(&code) {
        return Err(Error::config("the setting names code by what is no hash"));
    }
    let folder = cache.code(&code);
    let alone = bringing.lock().await;
    if !folder.is_dir() {
        let bytes = fetch(&code, MOST_CODE, contact).await?;
        let (cache, code) = (cache.clone(), code.clone());
        blocking(move || {
            let brought = cache.bring_code(&code, &*bytes);
            brought.map_err(|error| odd(&error))
        })
        .await?;
    }
    drop(alone);
    Cache::touch(&folder, clock);
    let python = {
        let (cache, clock, folder, python) = (
            cache.clone(),
            clock.clone(),
            folder.clone(),
            setting.python.clone(),
        );
        blocking(move || python_of(&cache, &clock, &folder, &code, &python)).await?
    };
    env.push(("WIREDFLOW_PYTHON".to_owned(), python));
    Ok(Ready {
        setting,
        folder,
        env,
    })
}

fn odd(error: &std::io::Error) -> Error {
    Error::config(format!(
        "the flow's code cannot be put into the cache: {error}"
    ))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Error::bug(format!("making ready was not finished: {error}")))?
}

/// The Python that runs functions: that of a virtual environment, where the flow says which packages it wants.
fn python_of(
    cache: &Cache,
    clock: &Clock,
    folder: &std::path::Path,
    code: &str,
    python: &str,
) -> Result<String> {
    let version = Command::new(python)
        .arg("--version")
        .stdin(Stdio::null())
        .output();
    // Where there is none, only functions in Python miss it, and say so.
    let version = version.map(|said| said.stdout).unwrap_or_default();
    let version = String::from_utf8_lossy(&version).trim().to_owned();
    let Some(venv) = Venv::of(folder, code, python, &version)? else {
        return Ok(python.to_owned());
    };
    venv.make(cache, clock)?;
    let python = cache.venv(venv.name()).join("bin/python");
    Ok(python.to_string_lossy().into_owned())
}

/// Asks for something by its hash, part by part, and looks whether it is that.
async fn fetch(hash: &str, most: u64, contact: &Contact) -> Result<Bytes> {
    let mut bytes = Vec::new();
    loop {
        let what = What::Fetch {
            hash: hash.to_owned(),
            offset: bytes.len() as u64,
        };
        let answer = contact.ask(what, Bytes::new()).await;
        let Ok((Answer::Part { total }, part)) = answer else {
            return Err(Error::remote("the flow does not want this call any more"));
        };
        if total > most {
            return Err(Error::config(format!(
                "{} MiB are more than goes to a node",
                total >> 20
            )));
        }
        bytes.extend_from_slice(&part);
        if bytes.len() as u64 >= total {
            break;
        }
        if part.is_empty() {
            return Err(Error::remote("the flow gives no more of what it promised"));
        }
    }
    match hex(&Sha256::digest(&bytes)) == hash {
        true => Ok(bytes.into()),
        false => Err(Error::config(
            "what the flow gave is not what was asked for",
        )),
    }
}
