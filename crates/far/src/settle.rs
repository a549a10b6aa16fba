//! Making a host ready: looking at what it is, and bringing what it has not got.

use std::fs;
use std::time::Duration;

use sha2::{Digest, Sha256};
use wiredflow_engine::pack::{Pack, hex};
use wiredflow_engine::worker::Parting;

use crate::ssh::{Refusal, Ssh, last_line};
use crate::venv::Venv;

/// How long a copy may take.
const COPY: Duration = Duration::from_secs(240);

/// How long packages may take to be installed.
const INSTALL: Duration = Duration::from_secs(20 * 60);

/// What the script that looks prints first.
const MARK: &str = "WFPROBE1\n";

/// Where all lies over there, in the words of its shell; `cache.rs` says the same.
const FOLDER: &str = "${XDG_CACHE_HOME:-$HOME/.cache}/wiredflow";

/// The room that must be left beside what is brought, in KiB.
const SPARE: u64 = 16 << 10;

/// This program's file, to be brought.
#[derive(Debug)]
pub(crate) struct Program {
    bytes: Vec<u8>,
    hash: String,
}

impl Program {
    /// That of this process.
    pub(crate) fn own() -> Result<Self, Refusal> {
        // The file that runs, also where another one stands in its place meanwhile.
        let bytes = fs::read("/proc/self/exe").or_else(|_| fs::read(std::env::current_exe()?));
        let bytes = bytes.map_err(|error| {
            Refusal::wrong(format!("this program's own file cannot be read: {error}"))
        })?;
        let hash = hex(&Sha256::digest(&bytes));
        Ok(Self { bytes, hash })
    }

    /// The line that runs it over there.
    pub(crate) fn line(&self, arguments: &str) -> String {
        format!("exec \"{FOLDER}/bin/{}\" worker {arguments}", self.hash)
    }

    /// The newest GNU C library that it wants, as (major, minor); none where it wants none.
    fn wanted_libc(&self) -> Option<(u32, u32)> {
        let words = self.bytes.split(|byte| *byte == 0);
        let versions = words.filter_map(|word| {
            let version = word.strip_prefix(b"GLIBC_")?;
            version_of(str::from_utf8(version).ok()?)
        });
        versions.max()
    }
}

/// What a host said of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Its system, as `uname -s` has it.
    pub system: String,
    /// Its processor, as `uname -m` has it.
    pub machine: String,
    /// Its C library, such as `glibc 2.36`; empty where it does not say.
    pub libc: String,
    /// What its Python says of itself; empty where there is none.
    pub python: String,
    /// The room in the folder of the cache, in KiB.
    pub space: u64,
    /// Whether this program is there already.
    pub has_program: bool,
    /// Whether the flow's code is there already.
    pub has_code: bool,
    /// What is wrong with the folder.
    problem: Option<String>,
}

impl Found {
    /// In words, for people.
    pub fn told(&self) -> String {
        let Self {
            system, machine, ..
        } = self;
        let or_none = |text: &str, none: &str| match text.is_empty() {
            true => none.to_owned(),
            false => text.to_owned(),
        };
        let (libc, python) = (
            or_none(&self.libc, "another C library"),
            or_none(&self.python, "no Python"),
        );
        let (space, copied) = (
            self.space >> 10,
            if self.has_program {
                "our program is there"
            } else {
                "our program was copied there"
            },
        );
        format!("{system} on {machine}, {libc}, {python}, {space} MiB free; {copied}")
    }
}

/// Has a virtual environment made over there, unless it is there.
pub(crate) async fn make_venv(ssh: &Ssh, program: &Program, venv: &Venv) -> Result<(), Refusal> {
    let request = serde_json::to_vec(venv).map_err(std::io::Error::from)?;
    let output = ssh
        .run_line(&program.line("--venv"), &request, INSTALL)
        .await?;
    match output.status.success() {
        true => Ok(()),
        false => {
            let said = last_line(&output.stderr).unwrap_or("it did not say why");
            let said = said.strip_prefix(Parting::MARK).unwrap_or(said);
            Err(Refusal::wrong(format!("`{}`: {said}", ssh.address())))
        }
    }
}

/// Looks at the host, and brings the program and the code where they are missing.
pub(crate) async fn settle(
    ssh: &Ssh,
    program: &Program,
    pack: &Pack,
    python: &str,
) -> Result<Found, Refusal> {
    let _only = ssh.lock().await?;
    let found = look(ssh, program, pack, python).await?;
    let host = ssh.address();
    let (system, machine) = (std::env::consts::OS, std::env::consts::ARCH);
    if !found.system.eq_ignore_ascii_case(system) || found.machine != machine {
        return Err(Refusal::wrong(format!(
            "`{host}` is {} on {}, and this program is for {system} on {machine}: run the flow on a machine of its kind",
            found.system, found.machine
        )));
    }
    // One that is there has run there.
    let wanted = match found.has_program {
        true => None,
        false => program.wanted_libc(),
    };
    let has = found.libc.strip_prefix("glibc ").and_then(version_of);
    if let (Some(wanted), Some(has)) = (wanted, has)
        && has < wanted
    {
        return Err(Refusal::wrong(format!(
            "`{host}` has glibc {}.{}, and this program wants {}.{} or newer: build it for an older one (docs/remote.md)",
            has.0, has.1, wanted.0, wanted.1
        )));
    }
    if let Some(problem) = &found.problem {
        return Err(Refusal::wrong(format!(
            "`{host}` has no folder for us: {problem}"
        )));
    }
    let kib = |bytes: usize| (bytes >> 10) as u64;
    let mut needed = 0;
    if !found.has_program {
        needed += kib(program.bytes.len());
    }
    if !found.has_code {
        needed += 2 * kib(pack.bytes().len());
    }
    if needed > 0 && found.space < needed + SPARE {
        return Err(Refusal::wrong(format!(
            "`{host}` has {} MiB left for what goes there, and {} are wanted",
            found.space >> 10,
            (needed + SPARE) >> 10
        )));
    }
    if !found.has_program {
        bring_program(ssh, program).await?;
    }
    if !found.has_code {
        let line = program.line(&format!("--unpack {}", pack.hash()));
        let output = ssh.run_line(&line, pack.bytes(), COPY).await?;
        if !output.status.success() {
            return Err(cannot_run(ssh, &output));
        }
    }
    Ok(found)
}

async fn look(ssh: &Ssh, program: &Program, pack: &Pack, python: &str) -> Result<Found, Refusal> {
    let (hash, code, python) = (&program.hash, pack.hash(), quoted(python));
    let script = format!(
        r#"D="{FOLDER}"
printf 'WFPROBE1\n'
echo "system $(uname -s)"
echo "machine $(uname -m)"
echo "libc $(getconf GNU_LIBC_VERSION 2>/dev/null)"
umask 077
P=$(mkdir -p "$D/bin" "$D/code" "$D/run" 2>&1) || echo "problem $P"
[ -x "$D/bin/{hash}" ] && touch "$D/bin/{hash}" && echo "program yes"
[ -d "$D/code/{code}" ] && echo "code yes"
echo "space $(df -Pk "$D" 2>/dev/null | awk 'NR==2 {{print $4}}')"
echo "python $({python} --version 2>/dev/null)"
echo "end yes"
"#
    );
    let text = ssh.look(&script, MARK).await?;
    let value = |name: &str| {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map(|line| line.trim().to_owned())
    };
    if value("end").is_none() {
        return Err(Refusal::away(format!(
            "`{}` has not finished to say what it is",
            ssh.address()
        )));
    }
    Ok(Found {
        system: value("system").unwrap_or_default(),
        machine: value("machine").unwrap_or_default(),
        libc: value("libc").unwrap_or_default(),
        python: value("python").unwrap_or_default(),
        // Where `df` does not say, the copy will.
        space: value("space")
            .and_then(|space| space.parse().ok())
            .unwrap_or(u64::MAX >> 10),
        has_program: value("program").is_some(),
        has_code: value("code").is_some(),
        problem: value("problem"),
    })
}

/// Copies the program under a name of its own, and gives it its right one when it is there as a whole.
async fn bring_program(ssh: &Ssh, program: &Program) -> Result<(), Refusal> {
    let hash = &program.hash;
    let line = format!(
        "umask 077; F=\"{FOLDER}/bin/{hash}\"; N=\"$F.new.$$\"; cat > \"$N\" && S=$(sha256sum < \"$N\") && \
         [ \"${{S%% *}}\" = {hash} ] && chmod 700 \"$N\" && mv -f \"$N\" \"$F\" && echo WFOK; rm -f \"$N\""
    );
    let output = ssh.run_line(&line, &program.bytes, COPY).await?;
    if !String::from_utf8_lossy(&output.stdout).contains("WFOK") {
        let said = last_line(&output.stderr).unwrap_or("what has arrived is not what was sent");
        return Err(Refusal::wrong(format!(
            "the program cannot be copied to `{}`: {said}",
            ssh.address()
        )));
    }
    let line = format!("exec \"{FOLDER}/bin/{hash}\" --version");
    let output = ssh.run_line(&line, b"", COPY).await?;
    match output.status.success() {
        true => Ok(()),
        false => Err(cannot_run(ssh, &output)),
    }
}

/// Why the program does not run over there.
pub(crate) fn cannot_run(ssh: &Ssh, output: &std::process::Output) -> Refusal {
    let host = ssh.address();
    let said = last_line(&output.stderr).unwrap_or("it did not say why");
    if output.status.code() == Some(Parting::Gone as i32) {
        return Refusal::away(said);
    }
    match said.contains("ermission denied") {
        true => Refusal::wrong(format!(
            "`{host}` does not let programs run from its cache folder ({said}): it may be mounted `noexec`; set XDG_CACHE_HOME there"
        )),
        false => Refusal::wrong(format!("the program does not run on `{host}`: {said}")),
    }
}

/// A text as one word of `sh`.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

fn version_of(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.trim().split('.').map(|part| part.parse().ok());
    Some((parts.next()??, parts.next()??))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_library_that_a_program_wants_is_found() {
        let program = |text: &[u8]| Program {
            bytes: text.to_vec(),
            hash: String::new(),
        };
        let bytes = b"..\0GLIBC_2.4\0GLIBC_2.34\0GLIBC_2.9\0GLIBC_PRIVATE\0GLIBC_";
        assert_eq!(program(bytes).wanted_libc(), Some((2, 34)));
        assert_eq!(program(b"nothing").wanted_libc(), None);
    }

    #[test]
    fn a_word_stays_one() {
        assert_eq!(quoted("it's; $(touch x)"), r"'it'\''s; $(touch x)'");
    }
}
