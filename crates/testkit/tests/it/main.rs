//! The kit itself, where it could lie: a kit that always says yes makes every test green.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

mod fault_proxy;
mod flow;
mod http;
mod model_engine;
mod mosquitto;
mod sshd;

use std::time::Duration;

/// Enough for what should happen at once, on a busy machine.
const SOON: Duration = Duration::from_secs(10);
/// Long enough for what must not happen.
const BRIEFLY: Duration = Duration::from_millis(100);

/// The text of the panic in which the function ends.
fn panic_of(function: impl FnOnce()) -> String {
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(function))
        .expect_err("it should have panicked");
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap()
}
