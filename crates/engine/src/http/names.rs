//! Finding hosts: one look-up for a name at a time, few in all, and only addresses that may be asked.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::sync::{Semaphore, watch};

use super::reach::{Space, admit};

/// How many look-ups wait for the system at once. One may take half a minute there, and cannot be ended.
const AT_ONCE: usize = 64;

/// Finds the addresses of a host; may block. What it finds passes the same checks as the system's answers.
pub type Lookup = Arc<dyn Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync>;

/// The host's addresses, or why there are none.
type Found = Result<Arc<[SocketAddr]>, Arc<str>>;

/// Finds hosts. A cheap clone.
#[derive(Clone)]
pub(super) struct Names(Arc<Inner>);

struct Inner {
    lookup: Lookup,
    places: Arc<Semaphore>,
    /// The names that are being looked up. An entry goes when the system has answered, whoever waits.
    under_way: Mutex<HashMap<String, watch::Receiver<Option<Found>>>>,
}

impl Default for Names {
    fn default() -> Self {
        Self::new(Arc::new(|host: &str| {
            (host, 0).to_socket_addrs().map(Iterator::collect)
        }))
    }
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Names")
    }
}

impl Names {
    pub(super) fn new(lookup: Lookup) -> Self {
        Self(Arc::new(Inner {
            lookup,
            places: Arc::new(Semaphore::new(AT_ONCE)),
            under_way: Mutex::default(),
        }))
    }

    /// A resolver that gives addresses of at most this depth.
    pub(super) fn up_to(&self, deepest: Space) -> Guarded {
        Guarded {
            names: self.clone(),
            deepest,
        }
    }

    /// The addresses of a host. Who drops the future leaves the look-up to those who ask next.
    async fn find(&self, host: &str) -> Found {
        let closed = |_| Arc::from("the look-up ended without an answer");
        let known = self.under_way().get(host).cloned();
        let mut told = match known {
            Some(told) => told,
            None => {
                let places = Arc::clone(&self.0.places);
                let place = places.acquire_owned().await;
                self.start(
                    host,
                    place.map_err(|_| Arc::from("the look-ups have ended"))?,
                )
            }
        };
        let found = told.wait_for(Option::is_some).await.map_err(closed)?;
        found.clone().unwrap_or_else(|| Err("no answer".into()))
    }

    /// Starts a look-up, unless another has done so meanwhile.
    fn start(
        &self,
        host: &str,
        place: tokio::sync::OwnedSemaphorePermit,
    ) -> watch::Receiver<Option<Found>> {
        let mut under_way = self.under_way();
        if let Some(told) = under_way.get(host) {
            return told.clone();
        }
        let (tell, told) = watch::channel(None);
        under_way.insert(host.to_owned(), told.clone());
        drop(under_way);
        let flight = Flight {
            names: self.clone(),
            host: host.to_owned(),
        };
        tokio::task::spawn_blocking(move || {
            let found = match (flight.names.0.lookup)(&flight.host) {
                Ok(addresses) if addresses.is_empty() => Err("it has no address".into()),
                Ok(addresses) => Ok(addresses.into()),
                Err(error) => Err(Arc::from(error.to_string())),
            };
            drop(flight);
            tell.send_replace(Some(found));
            drop(place);
        });
        told
    }

    fn under_way(&self) -> MutexGuard<'_, HashMap<String, watch::Receiver<Option<Found>>>> {
        let under_way = &self.0.under_way;
        under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes the name off the list, also by a panic of the look-up.
struct Flight {
    names: Names,
    host: String,
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.names.under_way().remove(&self.host);
    }
}

/// Finds hosts for connections: the addresses that are checked are those that are connected to.
pub(super) struct Guarded {
    names: Names,
    deepest: Space,
}

impl Resolve for Guarded {
    fn resolve(&self, name: Name) -> Resolving {
        let (names, deepest) = (self.names.clone(), self.deepest);
        Box::pin(async move {
            let host = name.as_str();
            let found = names.find(host).await.map_err(|why| why.to_string())?;
            let mut refused = None;
            let mut admitted = Vec::with_capacity(found.len());
            for &address in found.iter() {
                match admit(host, address.ip(), deepest) {
                    Ok(()) => admitted.push(address),
                    Err(why) => refused = Some(why),
                }
            }
            match refused {
                Some(why) if admitted.is_empty() => Err(why.into()),
                _ => Ok(Box::new(admitted.into_iter()) as Addrs),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn d5_a_name_is_looked_up_once_at_a_time_and_others_are_not_held() {
        let calls = Arc::new(AtomicUsize::new(0));
        let (answer, answered) = std::sync::mpsc::sync_channel::<()>(0);
        let answered = Mutex::new(answered);
        let names = Names::new({
            let calls = Arc::clone(&calls);
            Arc::new(move |host: &str| {
                calls.fetch_add(1, Ordering::SeqCst);
                if host == "slow.test" {
                    // Until the test lets it go.
                    answered.lock().unwrap().recv().unwrap_err();
                }
                Ok(vec!["127.0.0.1:0".parse().unwrap()])
            })
        });
        // More than there are places; each gives up, and the one look-up goes on.
        for _ in 0..2 * AT_ONCE {
            let asked = tokio::time::timeout(Duration::from_millis(2), names.find("slow.test"));
            asked.await.unwrap_err();
        }
        assert_eq!(calls.load(Ordering::SeqCst), 1);
        assert_eq!(names.find("quick.test").await.unwrap().len(), 1);
        drop(answer);
        assert_eq!(names.find("slow.test").await.unwrap().len(), 1);
        assert!(calls.load(Ordering::SeqCst) <= 3);
        assert!(names.under_way().is_empty());
    }

    #[tokio::test]
    async fn a_look_up_that_panics_is_an_error_and_the_next_one_works() {
        let calls = AtomicUsize::new(0);
        let names = Names::new(Arc::new(move |_: &str| {
            assert!(calls.fetch_add(1, Ordering::SeqCst) > 0, "planted");
            Ok(vec!["127.0.0.1:0".parse().unwrap()])
        }));
        names.find("x.test").await.unwrap_err();
        assert_eq!(names.find("x.test").await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn d6_only_admitted_addresses_are_given_to_a_connection() {
        let answers = ["127.0.0.1:0", "1.1.1.1:0", "10.0.0.1:0", "[::1]:0"];
        let names = Names::new(Arc::new(move |host: &str| {
            let all = answers.iter().map(|text| text.parse().unwrap());
            Ok(match host {
                "inside.test" => all.skip(2).collect(),
                _ => all.collect(),
            })
        }));
        let ask = |host: &str, deepest| names.up_to(deepest).resolve(host.parse().unwrap());
        let given = |addrs: Addrs| addrs.map(|address| address.to_string()).collect::<Vec<_>>();
        let public = given(ask("any.test", Space::Public).await.unwrap());
        assert_eq!(public, ["1.1.1.1:0"]);
        let private = given(ask("any.test", Space::Private).await.unwrap());
        assert_eq!(private, ["1.1.1.1:0", "10.0.0.1:0"]);
        assert_eq!(
            given(ask("any.test", Space::Machine).await.unwrap()).len(),
            4
        );
        let refused = ask("inside.test", Space::Public).await.err().unwrap();
        assert!(refused.to_string().contains("`inside.test` ("), "{refused}");
    }
}
