//! The engine of Wiredflow: the catalogue of components, the checks, the run loop, the builder.

pub mod builder;
pub mod catalogue;
pub mod check;
pub mod clock;
pub mod fakes;
mod files;
pub mod functions;
pub mod http;
mod logic;
mod mqtt;
pub mod observe;
pub mod outline;
pub mod payload;
pub mod plan;
pub mod resources;
pub mod run;
pub mod senders;
pub mod sources;
mod sql;
pub mod stages;
pub mod state;
mod steps;
pub mod storages;
pub mod tasks;
pub mod tls;
pub mod webhook;
pub mod worker;
