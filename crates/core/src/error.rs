//! Errors say who must act: the kind decides what the engine does, and nothing else does.

use std::fmt;
use std::time::Duration;

use crate::storage::Epoch;

/// What a component gives back.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Who must act on an error, and so what the engine does about it.
///
/// | kind | means | the engine |
/// |---|---|---|
/// | `Config` | the user's file, a key, a credential, a certificate is wrong | stops the flow; never tries again |
/// | `Data` | this call's data cannot be handled, or the user's function failed on it | its attempts (1 unless told), then `on_error` |
/// | `Remote` | a peer is away, slow, or refuses for now | backs off and tries again (for ever unless told); nothing is acknowledged till then |
/// | `Bug` | a promise inside Wiredflow broke, or a Rust stage panicked | as `Data`, and says that it is our fault |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The flow file, a credential or a certificate must be changed by the user.
    Config,
    /// The data of this call cannot be handled.
    Data,
    /// A peer is away, slow, or refuses for now.
    Remote,
    /// An invariant of Wiredflow broke.
    Bug,
}

impl ErrorKind {
    /// The word used in logs, dead letters and worker frames.
    pub fn word(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Data => "data",
            Self::Remote => "remote",
            Self::Bug => "bug",
        }
    }
}

/// One failure of one call: a kind, a message for people, and what the engine may use.
#[derive(Clone, PartialEq, Eq)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    details: Option<Box<Details>>,
}

/// The rarely present parts, boxed so that a `Result` stays small.
#[derive(Clone, Default, PartialEq, Eq)]
struct Details {
    trace: Option<String>,
    retry_after: Option<Duration>,
    record: Option<usize>,
    is_limit: bool,
    is_unsent: bool,
    fenced_by: Option<Epoch>,
}

impl Error {
    /// The user must change the file, a credential or a certificate.
    pub fn config(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Config, message)
    }

    /// The data of this call cannot be handled.
    pub fn data(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Data, message)
    }

    /// A peer is away, slow, or refuses for now.
    pub fn remote(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Remote, message)
    }

    /// An invariant of Wiredflow broke.
    pub fn bug(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Bug, message)
    }

    /// Another owner, of a later epoch, has taken over what this one works on: kind `Config`, so that nothing is tried again,
    /// and known by [`Error::fenced_by`]. The run that meets it ends at once, with nothing acknowledged.
    pub fn fenced(message: impl Into<String>, by: Epoch) -> Self {
        let mut error = Self::config(message);
        error.details_mut().fenced_by = Some(by);
        error
    }

    /// An error of the given kind. Messages are lowercase, without a final dot, and say what to do.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            details: None,
        }
    }

    /// Adds the trace of the user's own code, for the log and the dead letter.
    #[must_use]
    pub fn with_trace(mut self, trace: impl Into<String>) -> Self {
        self.details_mut().trace = Some(trace.into());
        self
    }

    /// Adds how long the peer asked us to wait; the engine waits at least that.
    #[must_use]
    pub fn with_retry_after(mut self, wait: Duration) -> Self {
        self.details_mut().retry_after = Some(wait);
        self
    }

    /// Says that the peer would answer, were it asked less often: 429, or `Retry-After`.
    #[must_use]
    pub fn as_limit(mut self) -> Self {
        self.details_mut().is_limit = true;
        self
    }

    /// Says that nobody has got anything of the request: another peer may be asked without having it done twice.
    #[must_use]
    pub fn as_unsent(mut self) -> Self {
        self.details_mut().is_unsent = true;
        self
    }

    /// The same error of a call that may have reached somebody before.
    #[must_use]
    pub fn as_sent(mut self) -> Self {
        self.details_mut().is_unsent = false;
        self
    }

    /// Names the one record (its index in the batch) that could not be handled, so that the engine
    /// can set it aside and go on with the others. No record of the batch may have been handled.
    #[must_use]
    pub fn at_record(mut self, index: usize) -> Self {
        self.details_mut().record = Some(index);
        self
    }

    /// The same error, for another to act on.
    #[must_use]
    pub fn as_kind(self, kind: ErrorKind) -> Self {
        Self { kind, ..self }
    }

    /// Puts words before the message: where it happened.
    #[must_use]
    pub fn context(mut self, place: impl fmt::Display) -> Self {
        self.message = format!("{place}: {}", self.message);
        self
    }

    /// Rewrites the texts, as the scrubbing of secrets does.
    #[must_use]
    pub fn map_text(mut self, rewrite: impl Fn(&str) -> String) -> Self {
        self.message = rewrite(&self.message);
        if let Some(trace) = self
            .details
            .as_mut()
            .and_then(|details| details.trace.as_mut())
        {
            *trace = rewrite(trace);
        }
        self
    }

    /// Who must act.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The message for people.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The epoch of the owner that has taken over, if that is what went wrong.
    pub fn fenced_by(&self) -> Option<Epoch> {
        self.details.as_ref().and_then(|details| details.fenced_by)
    }

    /// Whether the peer would answer, were it asked less often.
    pub fn is_limit(&self) -> bool {
        self.details
            .as_ref()
            .is_some_and(|details| details.is_limit)
    }

    /// Whether nobody has got anything of the request.
    pub fn is_unsent(&self) -> bool {
        self.details
            .as_ref()
            .is_some_and(|details| details.is_unsent)
    }

    /// The trace of the user's code, if there is one.
    pub fn trace(&self) -> Option<&str> {
        self.details
            .as_ref()
            .and_then(|details| details.trace.as_deref())
    }

    /// The message, and below it the trace; the end of a trace that says the same again is left out.
    pub fn told(&self) -> String {
        let Some(trace) = self.trace() else {
            return self.message.clone();
        };
        let trace = trace.trim_end();
        let (above, last) = trace.rsplit_once('\n').unwrap_or(("", trace));
        let trace = if self.message.contains(last.trim()) {
            above
        } else {
            trace
        };
        if trace.is_empty() {
            return self.message.clone();
        }
        format!("{}\n{trace}", self.message)
    }

    /// How long the peer asked us to wait.
    pub fn retry_after(&self) -> Option<Duration> {
        self.details
            .as_ref()
            .and_then(|details| details.retry_after)
    }

    /// The index of the record that could not be handled, if the component knows it.
    pub fn record(&self) -> Option<usize> {
        self.details.as_ref().and_then(|details| details.record)
    }

    fn details_mut(&mut self) -> &mut Details {
        self.details.get_or_insert_default()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} error: {}", self.kind.word(), self.message)?;
        if let Some(trace) = self.trace() {
            write!(f, "\n{trace}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_trace_says_again_is_told_once() {
        let error = Error::data("TypeError: no")
            .with_trace("Traceback:\n  File \"l.py\", line 1\nTypeError: no\n");
        let located = error.clone().context("stage `s`");
        assert_eq!(
            error.told(),
            "TypeError: no\nTraceback:\n  File \"l.py\", line 1"
        );
        assert_eq!(
            located.told(),
            "stage `s`: TypeError: no\nTraceback:\n  File \"l.py\", line 1"
        );
        assert_eq!(Error::data("a").with_trace("b\nc").told(), "a\nb\nc");
        assert_eq!(Error::data("a").with_trace("a").told(), "a");
        assert_eq!(Error::data("a").told(), "a");
    }
}
