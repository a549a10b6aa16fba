//! Others read it: Prometheus, and a reader of the description.
