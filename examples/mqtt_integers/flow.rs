//! Stores what comes by MQTT. A message is acknowledged when its row is on the disk.

use wiredflow::{Flow, json, mqtt};

pub fn flow() -> Flow {
    let integers = mqtt("localhost:1883", "/demo/integers")
        .set("username", "wiredflow")
        .set("password", "wiredflow");
    Flow::new("mqtt_integers").pipeline("integers", |p| p.source(integers).store(json("data")))
}
