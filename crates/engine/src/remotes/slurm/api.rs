//! What Slurm's REST API is asked, and what its answers mean.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use reqwest::header::{HeaderName, HeaderValue};
use reqwest::{Method, StatusCode, Url};
use wiredflow_core::secret::Secret;
use wiredflow_core::stage::Cx;
use wiredflow_core::{Error, Result, Value};

use super::job::Job;
use super::{SlurmConfig, target};
use crate::clock::Clock;
use crate::http::{Answer, HttpClient, JSON, Request};
use crate::resources::Resources;
use crate::tls::warn_if_insecure;

/// The longest answer, in bytes: a list of all jobs of a large cluster.
const MOST: usize = wiredflow_core::frame::FRAME_LIMIT;

const USER: HeaderName = HeaderName::from_static("x-slurm-user-name");
const TOKEN: HeaderName = HeaderName::from_static("x-slurm-user-token");

/// What Slurm says no by. It has words in the body then.
const NO: &[StatusCode] = &[
    StatusCode::BAD_REQUEST,
    StatusCode::NOT_FOUND,
    StatusCode::INTERNAL_SERVER_ERROR,
    StatusCode::BAD_GATEWAY,
    StatusCode::GATEWAY_TIMEOUT,
    StatusCode::NETWORK_AUTHENTICATION_REQUIRED,
];

/// The number of "no such job".
const NO_SUCH_JOB: i64 = 2017;
/// The number of a login that the controller has not taken.
const LOGIN_REFUSED: i64 = 1007;
/// The numbers from which on it is the controller that has said no.
const BY_CONTROLLER: i64 = 2000;

/// The numbers of what the user has to change: a partition, an account or nodes that are not to be had.
const REFUSED: [i64; 11] = [
    2000, 2001, 2002, 2003, 2004, 2005, 2006, 2010, 2014, 2045, 2051,
];

/// Asks it.
#[derive(Debug)]
pub(super) struct Api {
    client: HttpClient,
    /// A request to its root, with the login.
    root: Request,
    version: String,
    token: Secret,
    clock: Clock,
}

/// A no.
#[derive(Debug)]
struct No {
    status: StatusCode,
    /// Slurm's own number for it; 0 where it has none.
    number: i64,
    words: String,
}

impl Api {
    pub(super) fn open(config: &SlurmConfig, resources: &Resources) -> Result<Self> {
        let tls = config.tls.as_ref();
        let client = resources
            .http
            .open(tls, &resources.folder, &resources.clock)?;
        warn_if_insecure(tls, resources);
        let mut root = target(config).parts()?.request(Method::GET);
        let user = HeaderValue::from_str(&config.user)
            .map_err(|_| Error::config("`user` cannot be sent in a header"))?;
        let mut token = HeaderValue::from_str(config.token.expose())
            .map_err(|_| Error::config("`token` cannot be sent in a header"))?;
        token.set_sensitive(true);
        root.headers.insert(USER, user);
        root.headers.insert(TOKEN, token);
        root.also = NO;
        Ok(Self {
            client,
            root,
            version: config.api.clone(),
            token: config.token.clone(),
            clock: resources.clock.clone(),
        })
    }

    /// Looks whether it and its controller answer; gives Slurm's version.
    pub(super) async fn ping(&self, cx: &Cx) -> Result<String> {
        let said = self.ask(Method::GET, "ping", None, cx).await?;
        let said = said.map_err(|no| self.error(&no))?;
        let pings = said["pings"].as_array();
        let is_down = |ping: &Value| ping["ping"] == "DOWN" || ping["pinged"] == "DOWN";
        if pings.is_some_and(|pings| !pings.is_empty() && pings.iter().all(is_down)) {
            return Err(Error::remote(
                "Slurm's REST API answers, its controller (slurmctld) does not",
            ));
        }
        let meta = &said["meta"];
        let release = ["Slurm", "slurm"].map(|key| meta[key]["release"].as_str());
        Ok(release
            .into_iter()
            .flatten()
            .next()
            .unwrap_or("of a version that it does not tell")
            .to_owned())
    }

    /// Hands a job in, and gives its number. An error that is [unsent](Error::is_unsent), or not of kind `Remote`, says
    /// that Slurm does not have it.
    pub(super) async fn submit(&self, job: &Value, cx: &Cx) -> Result<u64> {
        let said = self.ask(Method::POST, "job/submit", Some(job), cx).await?;
        let said = match said {
            Ok(said) => said,
            Err(no) => {
                let error = self.error(&no);
                return Err(match no.number {
                    BY_CONTROLLER.. => error.as_unsent(),
                    _ => error,
                });
            }
        };
        let number = said["job_id"]
            .as_u64()
            .or_else(|| said["result"]["job_id"].as_u64());
        // A job that has a number is there, whatever is said of it besides.
        number.filter(|number| *number > 0).ok_or_else(|| {
            let words = words_of(&said).1;
            Error::remote(format!("Slurm gives the job no number: {words}"))
        })
    }

    /// A job; `None` where Slurm does not know it, or not any more.
    pub(super) async fn job(&self, number: u64, cx: &Cx) -> Result<Option<Job>> {
        let path = format!("job/{number}");
        match self.ask(Method::GET, &path, None, cx).await? {
            Ok(said) => Ok(jobs(&said).find(|job| job.number == number)),
            Err(no) if no.number == NO_SUCH_JOB => Ok(None),
            Err(no) => Err(self.error(&no)),
        }
    }

    /// The newest job of a name.
    pub(super) async fn find(&self, name: &str, user: &str, cx: &Cx) -> Result<Option<u64>> {
        let said = self.ask(Method::GET, "jobs", None, cx).await?;
        let said = said.map_err(|no| self.error(&no))?;
        let ours = |job: &Job| job.name == name && job.user == user;
        Ok(jobs(&said).filter(ours).map(|job| job.number).max())
    }

    /// Ends a job.
    pub(super) async fn cancel(&self, number: u64, cx: &Cx) -> Result<()> {
        let path = format!("job/{number}");
        match self.ask(Method::DELETE, &path, None, cx).await? {
            Err(no) if no.number != NO_SUCH_JOB => Err(self.error(&no)),
            _ => Ok(()),
        }
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        cx: &Cx,
    ) -> Result<Result<Value, No>> {
        let mut request = self.root.clone();
        request.method = method;
        let root = request.url.as_str().trim_end_matches('/');
        let place = format!("{root}/slurm/{}/{path}", self.version);
        request.url = Url::parse(&place)
            .map_err(|error| Error::config(format!("`url` is no address: {error}")))?;
        if let Some(body) = body {
            request = request.with_body(body.to_string(), JSON);
        }
        let answer = self.client.ask(&request, MOST, cx).await?;
        understand(answer)
    }

    fn error(&self, no: &No) -> Error {
        let No {
            status,
            number,
            words,
        } = no;
        let url = &self.root.url;
        if *status == StatusCode::NOT_FOUND {
            return Error::config(format!(
                "{url}: there is no Slurm with version `{}` of its API (`api`)",
                self.version
            ));
        }
        if *status == StatusCode::NETWORK_AUTHENTICATION_REQUIRED || *number == LOGIN_REFUSED {
            return Error::config(format!("{url}: Slurm refused the token: {words}"));
        }
        // A token that it does not take and a controller that is away are the same to many versions.
        if let Some(end) = ended(self.token.expose()).filter(|end| *end <= self.clock.now()) {
            return Error::config(format!(
                "{url}: the token came to its end at {end}: `scontrol token lifespan=…` makes a new one ({words})"
            ));
        }
        if REFUSED.contains(number) || *status == StatusCode::BAD_REQUEST {
            return Error::config(format!("{url}: Slurm does not take the job: {words}"));
        }
        let hint = match number {
            -1 => " (its controller is away, or does not take the token of this user)",
            _ => "",
        };
        Error::remote(format!("{url}: Slurm cannot answer now: {words}{hint}"))
    }
}

fn understand(answer: Answer) -> Result<Result<Value, No>> {
    let status = answer.status();
    let said = match answer.into_value() {
        Ok(said) => said,
        Err(error) if status.is_success() => return Err(error),
        // A proxy's word, or that of a version which does not know the address.
        Err(_) => {
            return Ok(Err(No {
                status,
                number: 0,
                words: format!("it answers {status}, and not as Slurm does"),
            }));
        }
    };
    if status.is_success() {
        return Ok(Ok(said));
    }
    let (number, words) = words_of(&said);
    Ok(Err(No {
        status,
        number,
        words,
    }))
}

/// The number and the words of what went wrong.
fn words_of(said: &Value) -> (i64, String) {
    let errors = said["errors"].as_array().map_or(&[][..], Vec::as_slice);
    let number = |error: &Value| {
        let number = error["error_number"].as_i64();
        number.or_else(|| error["error_code"].as_i64())
    };
    let text = |error: &Value| {
        let words = ["description", "error"].map(|key| error[key].as_str().unwrap_or_default());
        match words {
            ["", error] => error.to_owned(),
            [description, "" | "Unspecified error"] => description.to_owned(),
            [description, error] if description.contains(error) => description.to_owned(),
            [description, error] => format!("{description}: {error}"),
        }
    };
    let words: Vec<String> = errors.iter().map(text).collect();
    let words = match words.is_empty() {
        true => "it gives no reason".to_owned(),
        false => words.join("; "),
    };
    (errors.iter().find_map(number).unwrap_or(0), words)
}

fn jobs(said: &Value) -> impl Iterator<Item = Job> {
    let jobs = said["jobs"].as_array().map_or(&[][..], Vec::as_slice);
    jobs.iter().filter_map(Job::read)
}

/// When a token comes to its end, if it says so.
fn ended(token: &str) -> Option<Timestamp> {
    let claims = token.split('.').nth(1)?;
    let claims = URL_SAFE_NO_PAD.decode(claims.trim_end_matches('=')).ok()?;
    let claims: Value = serde_json::from_slice(&claims).ok()?;
    Timestamp::from_second(claims["exp"].as_i64()?).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_end_of_a_token_is_read_from_it() {
        // As `scontrol token` of Slurm 22.05 gives it.
        let token = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJleHAiOjE3OTU1MTc0ODgsImlhdCI6MTc5NTQ4MTQ4OCwic3VuIjoibm9ib2R5In0.XLSB";
        assert_eq!(ended(token).unwrap().as_second(), 1_795_517_488);
        assert_eq!(ended("something else"), None);
        assert_eq!(ended("a.b.c"), None);
    }

    #[test]
    fn what_went_wrong_is_told_in_slurms_words() {
        for (errors, number, words) in [
            (
                json!([{"description": "Unable to find JobId=77", "error_number": 2017, "error": "Invalid job id specified", "source": "slurm_load_job"}]),
                2017,
                "Unable to find JobId=77: Invalid job id specified",
            ),
            (
                json!([{"error_code": 2000, "error": "Invalid partition name specified"}]),
                2000,
                "Invalid partition name specified",
            ),
            (
                json!([{"description": "Failed while looking for jobs", "error_number": -1, "error": "Unspecified error"}]),
                -1,
                "Failed while looking for jobs",
            ),
            (
                json!([{"description": "Unknown key \"nope\""}, {"error_code": 9001, "error": "Failure during parsing"}]),
                9001,
                "Unknown key \"nope\"; Failure during parsing",
            ),
            (json!([]), 0, "it gives no reason"),
        ] {
            assert_eq!(
                words_of(&json!({"errors": errors})),
                (number, words.to_owned())
            );
        }
    }
}
