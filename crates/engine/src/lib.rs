//! The engine of Wiredflow: the catalogue of components, the checks, the run loop, the builder.

pub mod catalogue;
pub mod clock;
pub mod functions;
pub mod resources;
pub mod senders;
pub mod sources;
pub mod stages;
pub mod state;
pub mod storages;
pub mod tasks;
