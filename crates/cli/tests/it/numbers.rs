//! The pipeline `numbers`, whose source is the topic `in`: what the broker's log tells of it.

use std::ops::Range;

use serde_json::json;
use wiredflow_testkit::{FlowTest, Mosquitto, Running, Signal, wait_until};

use crate::SOON;

/// Starts the flow; it has subscribed.
pub(crate) fn begin(test: &FlowTest, broker: &Mosquitto) -> Running {
    broker.forget_log();
    let running = test.spawn(["run", "flow.yaml"]);
    broker.wait_for_log("Sending SUBACK to flow-numbers-", SOON);
    running
}

/// Ends the flow in good order.
pub(crate) fn end(running: Running) {
    running.signal(Signal::Term);
    running.wait(SOON).assert_code(0);
}

/// How many messages at QoS 1 the broker has been told are done.
pub(crate) fn acknowledged(broker: &Mosquitto) -> usize {
    let log = broker.log();
    log.matches("Received PUBACK from flow-numbers-").count()
}

/// Publishes `payload` until the flow knows that the broker counts its packet ids up: from then on it knows a message
/// that comes again after a kill. Gives how many messages that took.
pub(crate) fn make_known(test: &FlowTest, broker: &Mosquitto, payload: &str, qos: u8) -> usize {
    let kept = test.path(".wiredflow/client_ids/numbers.json");
    let over = match qos {
        1 => "Received PUBACK from flow-numbers-",
        _ => "Received PUBCOMP from flow-numbers-",
    };
    let mut messages = 0;
    wait_until(SOON, || {
        broker.forget_log();
        broker.publish("in", payload, qos);
        messages += 1;
        broker.wait_for_log(over, SOON);
        std::fs::read_to_string(&kept).is_ok_and(|kept| kept.contains("counted"))
    });
    messages
}

/// `{"n": …}` for each number.
pub(crate) fn payloads(numbers: Range<u64>) -> Vec<String> {
    numbers.map(|n| json!({ "n": n }).to_string()).collect()
}
