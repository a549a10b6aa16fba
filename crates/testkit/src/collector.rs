//! A subscriber that keeps what it gets, for a test to wait for.

use std::{
    net::{Shutdown, TcpStream},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use crate::mqtt::{Arrival, Client, Login, Message};

/// How long the first subscription, or the marker of `settled`, may take.
const USUAL: Duration = Duration::from_secs(10);
/// The pause before it tries again to reach a broker that is away.
const RECONNECT_AFTER: Duration = Duration::from_millis(20);

/// Gathers the messages of some topics. It holds a session at the broker and connects again after a restart, so a broker
/// that keeps its sessions loses nothing for it.
#[derive(Debug)]
pub struct Collector {
    shared: Arc<Shared>,
    port: u16,
    login: Option<Login>,
    marker: String,
    thread: Option<thread::JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    messages: Vec<Message>,
    markers: usize,
    subscribed: bool,
    stop: bool,
    socket: Option<TcpStream>,
    error: Option<String>,
}

impl Collector {
    /// Subscribes, and returns when the broker has confirmed it.
    #[track_caller]
    pub(crate) fn start(port: u16, login: Option<Login>, topics: &[&str], name: String) -> Self {
        let marker = format!("testkit/marker/{name}");
        let mut topics: Vec<String> = topics.iter().map(|topic| (*topic).to_owned()).collect();
        topics.push(marker.clone());
        let shared = Arc::new(Shared::default());
        let thread = thread::spawn({
            let (shared, login, marker) = (Arc::clone(&shared), login.clone(), marker.clone());
            move || {
                let session = || Client::connect(port, &name, false, login.as_ref());
                shared.gather(session, &topics, &marker);
            }
        });
        let collector = Self {
            shared,
            port,
            login,
            marker,
            thread: Some(thread),
        };
        let state = collector.shared.wait(USUAL, |state| state.subscribed);
        let (subscribed, error) = (state.subscribed, state.error.clone());
        drop(state);
        assert!(subscribed, "the collector could not subscribe: {error:?}");
        collector
    }

    /// Waits until at least `count` messages have arrived and returns all that have; panics, showing those, when there
    /// are fewer at the deadline.
    #[track_caller]
    pub fn wait_for(&self, count: usize, deadline: Duration) -> Vec<Message> {
        self.wait_for_matching(count, deadline, |_| true)
    }

    /// As `wait_for`, for the messages that match; returns those alone.
    #[track_caller]
    pub fn wait_for_matching(
        &self,
        count: usize,
        deadline: Duration,
        matches: impl Fn(&Message) -> bool,
    ) -> Vec<Message> {
        let matching = |state: &State| -> Vec<Message> {
            state
                .messages
                .iter()
                .filter(|message| matches(message))
                .cloned()
                .collect()
        };
        let enough = |state: &State| {
            state
                .messages
                .iter()
                .filter(|message| matches(message))
                .count()
                >= count
        };
        let state = self.shared.wait(deadline, enough);
        let (found, all, error) = (
            matching(&state),
            summary(&state.messages),
            state.error.clone(),
        );
        drop(state);
        assert!(
            found.len() >= count,
            "{} of {count} messages within {deadline:?}; all that came: {all}; last error: {error:?}",
            found.len()
        );
        found
    }

    /// What has arrived until now.
    pub fn messages(&self) -> Vec<Message> {
        self.shared.lock().messages.clone()
    }

    /// Everything that the broker had taken before this call: a marker is sent through the broker and waited for. So a test
    /// can tell that a message did *not* come, without sleeping.
    #[track_caller]
    pub fn settled(&self) -> Vec<Message> {
        let before = self.shared.lock().markers;
        Client::connect(self.port, "", true, self.login.as_ref())
            .and_then(|mut client| client.publish(&self.marker, "", 2))
            .expect("the broker takes the marker");
        let state = self.shared.wait(USUAL, |state| state.markers > before);
        let arrived = state.markers > before;
        let messages = state.messages.clone();
        drop(state);
        assert!(arrived, "the marker did not come back within {USUAL:?}");
        messages
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.stop = true;
        if let Some(socket) = state.socket.take() {
            drop(socket.shutdown(Shutdown::Both));
        }
        drop(state);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait(&self, deadline: Duration, enough: impl Fn(&State) -> bool) -> MutexGuard<'_, State> {
        self.changed
            .wait_timeout_while(self.lock(), deadline, |state| !enough(state))
            .unwrap_or_else(PoisonError::into_inner)
            .0
    }

    /// The collector's thread: one session after the other until it is told to stop.
    fn gather(
        &self,
        session: impl Fn() -> std::io::Result<Client>,
        topics: &[String],
        marker: &str,
    ) {
        let mut half_done = Vec::new();
        while !self.lock().stop {
            let outcome = session().and_then(|mut client| {
                client.subscribe(topics)?;
                self.lock().socket = Some(client.socket()?);
                while !self.lock().stop {
                    let arrival = client.next(&mut half_done)?;
                    self.tell(|state| match arrival {
                        Arrival::Subscribed => state.subscribed = true,
                        Arrival::Message(message) if message.topic == marker => state.markers += 1,
                        Arrival::Message(message) => state.messages.push(message),
                        Arrival::Nothing => {}
                    });
                }
                Ok(())
            });
            if let Err(error) = outcome {
                self.tell(|state| state.error = Some(error.to_string()));
                thread::sleep(RECONNECT_AFTER);
            }
        }
    }

    fn tell(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }
}

fn summary(messages: &[Message]) -> String {
    let one = |message: &Message| {
        let payload = String::from_utf8_lossy(&message.payload);
        format!(
            "{}: {}",
            message.topic,
            payload.chars().take(80).collect::<String>()
        )
    };
    let shown: Vec<String> = messages.iter().take(20).map(one).collect();
    format!("{} in all {shown:#?}", messages.len())
}
