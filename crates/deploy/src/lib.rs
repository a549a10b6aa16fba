//! A flow on its way to nodes, and what runs it there.
//!
//! ```text
//! run --engine: flow file + code ─> Bundle ─> blob `code.VERSION` ─> Site: files/ ─> check ─> the part's pipelines run
//! ```
//!
//! A bundle holds the flow file as it was written: `${env:…}` and `${file:…}` are filled in on the node, so secrets do not travel.

mod bundle;
mod running;
mod site;

pub use bundle::{Bundle, BundleError};
pub use site::{Allowed, Site};
