//! Clusters of agents over a model of an engine, by a clock that passes hours in a moment.

mod stage;
mod storms;
mod turns;
