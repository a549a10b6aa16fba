//! What is measured of a flow, what limits it, and (later) what to do about it. Pure: no clock, no network.

pub mod bottleneck;
mod clocks;
mod difference;
pub mod figures;
pub mod histogram;
pub mod looks;
pub mod placement;
pub mod profile;
