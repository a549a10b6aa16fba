//! The files of a call, in the folder that this machine and the cluster's nodes share.

use std::fs::{self, File};
use std::io::{self, ErrorKind as Io, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use wiredflow_core::units::format_size;
use wiredflow_core::{Batch, Error, Result, json};

/// The longest result, in bytes.
const MOST: u64 = wiredflow_core::frame::FRAME_LIMIT as u64;

/// How many lines of a log are told, and how many bytes.
const LINES: usize = 40;
const LOG: u64 = 16 * 1024;

/// The files of a call. A cheap clone.
#[derive(Clone, Debug)]
pub(super) struct Files {
    folder: PathBuf,
    /// What they are named by. It has none of a path's own characters.
    name: String,
}

/// What a job has left.
#[derive(Debug, PartialEq)]
pub(super) enum Left {
    /// What it made.
    Result(Batch),
    /// There is none, or it is not to be seen here yet.
    Nothing,
}

impl Files {
    pub(super) fn new(folder: &str, name: String) -> Self {
        let folder = PathBuf::from(folder);
        Self { folder, name }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Where the command's standard error goes.
    pub(super) fn log(&self) -> PathBuf {
        self.path("log")
    }

    pub(super) fn result(&self) -> PathBuf {
        self.path("result.json")
    }

    fn path(&self, end: &str) -> PathBuf {
        self.folder.join(format!("{}.{end}", self.name))
    }

    /// What the job does. It may be there twice, or come when nobody waits for it any more: then it does nothing.
    pub(super) fn script(&self, command: &[String]) -> String {
        let words: Vec<String> = command.iter().map(|word| quoted(word)).collect();
        let [folder, call, part, result, log] = [
            self.folder.clone(),
            self.path("call.json"),
            self.path("part"),
            self.result(),
            self.log(),
        ]
        .map(|path| quoted(&path.to_string_lossy()));
        let command = words.join(" ");
        format!(
            "#!/bin/sh\n\
             cd {folder} || exit 1\n\
             if [ -e {result} ]; then exit 0; fi\n\
             if ! [ -e {call} ]; then rm -f {log}; exit 0; fi\n\
             {command} <{call} >{part} || exit\n\
             mv -f {part} {result}\n"
        )
    }

    /// Writes the call: all of it is there, or nothing.
    pub(super) async fn write(&self, call: String) -> Result<()> {
        let (part, whole) = (self.path("call.part"), self.path("call.json"));
        blocking(&self.folder, move |_| {
            let mut file = File::create(&part)?;
            file.write_all(call.as_bytes())?;
            file.sync_all()?;
            fs::rename(&part, &whole)
        })
        .await
    }

    /// Looks for what the job has made.
    pub(super) async fn look(&self) -> Result<Left> {
        let path = self.result();
        let read = blocking(&self.folder, move |folder| {
            // Opening the folder has a network file system ask its server what is new there.
            File::open(folder)?;
            let file = match File::open(&path) {
                Err(error) if error.kind() == Io::NotFound => return Ok(None),
                opened => opened?,
            };
            let mut bytes = Vec::new();
            file.take(MOST + 1).read_to_end(&mut bytes)?;
            Ok(Some(bytes))
        });
        let Some(bytes) = read.await? else {
            return Ok(Left::Nothing);
        };
        if bytes.len() as u64 > MOST {
            let most = format_size(MOST);
            return Err(Error::data(format!("the result is longer than {most}")));
        }
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Ok(Left::Result(Batch::default()));
        }
        let value = json::parse(&bytes, usize::MAX);
        let value = value.map_err(|why| {
            let begins: String = String::from_utf8_lossy(&bytes).chars().take(80).collect();
            Error::data(format!(
                "the result cannot be read as JSON: {why}; it begins with: {}",
                begins.escape_debug()
            ))
        })?;
        Ok(Left::Result(Batch::of_document(value)))
    }

    /// The last lines of the log; none where there is none.
    pub(super) async fn log_end(&self) -> Vec<String> {
        let path = self.log();
        let read = blocking(&self.folder, move |folder| {
            File::open(folder)?;
            let mut file = File::open(path)?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(LOG)))?;
            let mut bytes = Vec::new();
            file.take(LOG).read_to_end(&mut bytes)?;
            Ok(bytes)
        });
        let bytes = read.await.unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.lines().collect();
        let last = &lines[lines.len().saturating_sub(LINES)..];
        last.iter().map(|&line| line.to_owned()).collect()
    }

    /// Takes away the call, so that a job which begins later does nothing.
    pub(super) async fn withdraw(&self) {
        self.take_away(&["call.json"]).await;
    }

    /// Takes them away.
    pub(super) async fn remove(&self) {
        self.take_away(&["call.json", "call.part", "part", "result.json", "log"])
            .await;
    }

    async fn take_away(&self, ends: &[&str]) {
        let paths: Vec<PathBuf> = ends.iter().map(|end| self.path(end)).collect();
        let taken = blocking(&self.folder, move |_| {
            for path in paths {
                // What stays is in nobody's way: no other call has the name.
                drop(fs::remove_file(path));
            }
            Ok(())
        });
        drop(taken.await);
    }
}

/// Whether files can be written in the folder; writes one and takes it away.
pub(super) async fn try_folder(folder: &str, mark: u64) -> Result<()> {
    blocking(Path::new(folder), move |folder| {
        let path = folder.join(format!(".wiredflow-{mark:016x}"));
        File::create(&path)?.write_all(b"wiredflow")?;
        fs::remove_file(path)
    })
    .await
}

/// Does what may wait for a disk, or for a network.
async fn blocking<T: Send + 'static>(
    folder: &Path,
    work: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
) -> Result<T> {
    let folder = folder.to_owned();
    let working = tokio::task::spawn_blocking(move || {
        work(&folder).map_err(|error| {
            let message = format!(
                "`folder`: {} cannot be used from here: {error}",
                folder.display()
            );
            match error.kind() {
                Io::NotFound
                | Io::PermissionDenied
                | Io::NotADirectory
                | Io::ReadOnlyFilesystem => Error::config(message),
                _ => Error::remote(message),
            }
        })
    });
    let ended = working.await;
    ended.map_err(|error| Error::bug(format!("files were not looked at: {error}")))?
}

/// The word as a shell reads it back, whatever stands in it.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use serde_json::json;

    use super::*;

    fn files(folder: &Path) -> Files {
        Files::new(folder.to_str().unwrap(), "a__b__1".to_owned())
    }

    fn run(files: &Files, command: &[&str]) -> Option<i32> {
        let command: Vec<String> = command.iter().map(|&word| word.to_owned()).collect();
        let script = files.script(&command);
        let ran = Command::new("sh").args(["-c", &script]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&ran.stdout), "");
        ran.status.code()
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.collect()
    }

    #[tokio::test]
    async fn words_reach_a_command_as_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let odd = folder.path().join("it's a $HOME `x` \"y\"");
        fs::create_dir(&odd).unwrap();
        let files = files(&odd);
        files.write("[1]".to_owned()).await.unwrap();
        let words = ["'", "$HOME `id` \\ \"", "a b\n*", "", "; exit 7"];
        let program =
            "import json, sys; json.dump(sys.argv[1:] + json.load(sys.stdin), sys.stdout)";
        let command: Vec<&str> = ["python3", "-c", program]
            .into_iter()
            .chain(words)
            .collect();
        assert_eq!(run(&files, &command), Some(0));
        let mut made: Vec<_> = words.iter().map(|word| json!(word)).collect();
        made.push(json!(1));
        let made = Left::Result(Batch::of_values(made));
        assert_eq!(files.look().await.unwrap(), made);
        // A second job of that name changes nothing.
        assert_eq!(run(&files, &["sh", "-c", "echo 2"]), Some(0));
        assert_eq!(files.look().await.unwrap(), made);
        files.remove().await;
        assert_eq!(names(&odd), [""; 0]);
    }

    #[tokio::test]
    async fn what_fails_leaves_no_result_and_what_nobody_waits_for_does_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let files = files(folder.path());
        files.write("null".to_owned()).await.unwrap();
        assert_eq!(run(&files, &["sh", "-c", "echo [1; exit 3"]), Some(3));
        assert_eq!(files.look().await.unwrap(), Left::Nothing);
        assert_eq!(run(&files, &["true"]), Some(0));
        assert_eq!(files.look().await.unwrap(), Left::Result(Batch::default()));
        fs::write(files.result(), "[1").unwrap();
        let error = files.look().await.unwrap_err();
        assert!(error.message().contains("begins with: [1"), "{error}");
        files.remove().await;
        fs::write(files.log(), "").unwrap();
        assert_eq!(run(&files, &["touch", "done"]), Some(0));
        assert_eq!(names(folder.path()), [""; 0]);
    }

    #[tokio::test]
    async fn a_log_is_told_from_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let files = files(folder.path());
        assert_eq!(files.log_end().await, [""; 0]);
        let lines: Vec<String> = (0..9999).map(|line| format!("line {line}")).collect();
        fs::write(files.log(), lines.join("\n")).unwrap();
        assert_eq!(files.log_end().await, lines[9999 - LINES..]);
    }

    #[tokio::test]
    async fn a_folder_that_is_not_there_is_for_the_user_to_mend() {
        let error = try_folder("/no/such/folder", 1).await.unwrap_err();
        assert_eq!(error.kind(), wiredflow_core::ErrorKind::Config);
    }
}
