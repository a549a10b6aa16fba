//! What our names are called at the server. No two of ours have the same one there.

use wiredflow_core::engine::{Name, Shelf};
use wiredflow_core::{Error, Result};

/// The longest name, by what a file of the server may be called and a line of its protocol may hold.
const LONGEST: usize = 200;

/// Makes the names of one namespace.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    space: String,
}

/// Where a queue is.
#[derive(Clone, Debug)]
pub(crate) struct QueuePlace {
    pub(crate) stream: String,
    pub(crate) subject: String,
    /// Where it puts what it has given too often.
    pub(crate) spent: String,
}

/// A stream of entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Bucket {
    Shelf(Shelf),
    Lease,
}

impl Bucket {
    fn word(self) -> &'static str {
        match self {
            Self::Shelf(Shelf::Kept) => "kept",
            Self::Shelf(Shelf::Presence) => "presence",
            Self::Lease => "lease",
        }
    }
}

impl Names {
    /// # Errors
    /// `Config`, where the namespace is no part of a name.
    pub(crate) fn new(space: &str) -> Result<Self> {
        let space = Name::new([space]).map_err(|error| error.context("namespace"))?;
        Ok(Self {
            space: space.as_str().to_owned(),
        })
    }

    /// Where answers are sent.
    pub(crate) fn inbox(&self) -> String {
        format!("wf.{}.inbox", self.space)
    }

    /// A subject at which nobody listens: asking there is answered at once, when all before has been heard.
    pub(crate) fn nobody(&self) -> String {
        format!("wf.{}.nobody", self.space)
    }

    pub(crate) fn queue(&self, name: &Name) -> Result<QueuePlace> {
        let (space, parts) = (&self.space, fitting(name)?);
        Ok(QueuePlace {
            // `=` stands in no part, as `.` may not stand in the name of a stream.
            stream: format!("wf_{space}=q={}", parts.replace('.', "=")),
            subject: format!("wf.{space}.q.{parts}"),
            spent: format!("wf.{space}.spent.{parts}"),
        })
    }

    /// The stream of what queues have given too often, and its subjects.
    pub(crate) fn spent(&self) -> (String, String) {
        let space = &self.space;
        (format!("wf_{space}=spent"), format!("wf.{space}.spent.>"))
    }

    pub(crate) fn bucket(&self, bucket: Bucket) -> String {
        format!("KV_wf_{}_{}", self.space, bucket.word())
    }

    /// The subject of an entry. The `=` at its end lets `a.>` cover the entry `a` as well as `a.b`.
    pub(crate) fn entry(&self, bucket: Bucket, name: &Name) -> Result<String> {
        let (space, word) = (&self.space, bucket.word());
        Ok(format!("$KV.wf_{space}_{word}.{}.=", fitting(name)?))
    }

    /// The subjects of the entries below a name, or of all.
    pub(crate) fn entries(&self, bucket: Bucket, below: Option<&Name>) -> Result<String> {
        let (space, word) = (&self.space, bucket.word());
        Ok(match below {
            Some(name) => format!("$KV.wf_{space}_{word}.{}.>", fitting(name)?),
            None => format!("$KV.wf_{space}_{word}.>"),
        })
    }

    /// The name of the entry at a subject; none where it is not of ours.
    pub(crate) fn of_entry(subject: &str) -> Option<Name> {
        let name = subject.strip_suffix(".=")?.splitn(3, '.').nth(2)?;
        Name::new(name.split('.')).ok()
    }

    /// The stream of blobs, and its subjects.
    pub(crate) fn blobs(&self) -> (String, String) {
        let space = &self.space;
        (format!("wf_{space}=blobs"), format!("wf.{space}.blob.>"))
    }

    /// The subject that says what the pieces of a blob are.
    pub(crate) fn blob(&self, name: &Name) -> Result<String> {
        Ok(format!("wf.{}.blob.m.{}", self.space, fitting(name)?))
    }

    /// The subject of a piece.
    pub(crate) fn piece(&self, id: &str, number: impl std::fmt::Display) -> String {
        format!("wf.{}.blob.c.{id}.{number}", self.space)
    }

    pub(crate) fn address(&self, name: &Name) -> Result<String> {
        Ok(format!("wf.{}.ask.{}", self.space, fitting(name)?))
    }
}

fn fitting(name: &Name) -> Result<&str> {
    let text = name.as_str();
    match text.len() <= LONGEST {
        true => Ok(text),
        false => Err(Error::config(format!(
            "the name `{text}` is too long: {LONGEST} letters and dots are the most"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_apart_and_found_again() {
        let names = Names::new("n").unwrap();
        let (one, two) = (Name::new(["a", "b"]).unwrap(), Name::new(["a_b"]).unwrap());
        assert_eq!(names.queue(&one).unwrap().stream, "wf_n=q=a=b");
        assert_eq!(names.queue(&two).unwrap().stream, "wf_n=q=a_b");
        let subject = names.entry(Bucket::Shelf(Shelf::Kept), &one).unwrap();
        assert_eq!(subject, "$KV.wf_n_kept.a.b.=");
        assert_eq!(Names::of_entry(&subject), Some(one));
        assert_eq!(Names::of_entry("$KV.wf_n_kept.a.b"), None);
        assert!(Names::new("a.b").is_err());
        let long = Name::new(["x".repeat(64).as_str(); 4]).unwrap();
        assert!(names.queue(&long).is_err() && names.address(&long).is_err());
    }
}
