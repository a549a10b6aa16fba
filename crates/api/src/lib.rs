//! The API of a running flow: looked at, paused, resumed and triggered by HTTP; metrics; and the client of the verbs
//! that ask it.
//!
//! ```text
//! connection ─> gate: host, origin, token, role, size ─> route ─> answer
//! ```
//!
//! It shows nothing that the tool does not show, and reads the state with the same readers. What viewers get holds no
//! payload: neither data nor words that may quote data.

mod address;
mod answer;
pub mod client;
mod desk;
mod events;
mod gate;
mod history;
mod limiter;
pub mod logs;
mod metrics;
mod process;
mod question;
mod routes;
mod serve;
mod status;
mod tokens;

pub use address::{Note, note};
pub use desk::Live;
pub use routes::{OPEN_API, Route, routes};
pub use serve::{Door, Server};
pub use tokens::{Keys, Role, token_file};
