//! MQTT source and sender against a real mosquitto, and against a scripted broker for what a good
//! broker does not do.

mod bench;
mod certificates;
mod connecting;
mod cut;
mod faults;
mod payloads;
mod scripted;
mod sender;
mod source;
mod two_steps;
mod whole;
