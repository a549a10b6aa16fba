//! The floor of many polls: one task for each poller, one client for all, and a thread that writes what came.

use std::fs::File;
use std::io::Write;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use crate::{Options, Result};

/// How many replies wait for the writer at most.
const AHEAD: usize = 8192;

/// Polls once a second, the pollers spread over the second, until it is ended from outside.
pub(crate) fn run(options: &Options<'_>) -> Result {
    let (url, pollers) = (
        options.text("--url")?.to_owned(),
        options.number("--pollers")?,
    );
    let mut file = File::options()
        .append(true)
        .create(true)
        .open(options.text("--file")?)?;
    let (came, mut waiting) = mpsc::channel::<serde_json::Value>(AHEAD);
    std::thread::spawn(move || -> Result {
        let (mut taken, mut buffer) = (Vec::new(), Vec::new());
        while waiting.blocking_recv_many(&mut taken, AHEAD) > 0 {
            for reply in taken.drain(..) {
                for record in reply.as_array().into_iter().flatten() {
                    serde_json::to_writer(&mut buffer, record)?;
                    buffer.push(b'\n');
                }
            }
            file.write_all(&buffer)?;
            file.sync_data()?;
            buffer.clear();
        }
        Ok(())
    });
    // An error means that there is one already.
    drop(rustls::crypto::ring::default_provider().install_default());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async move {
        let client = reqwest::Client::builder().no_proxy().build()?;
        let start = Instant::now();
        for number in 0..pollers {
            let (client, came) = (client.clone(), came.clone());
            let url = format!("{url}/{number}");
            let first =
                start + Duration::from_secs(1) * u32::try_from(number)? / u32::try_from(pollers)?;
            tokio::spawn(async move {
                let mut ticks = interval_at(first, Duration::from_secs(1));
                ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
                loop {
                    ticks.tick().await;
                    let reply = async {
                        let reply = client.get(&url).send().await?.error_for_status()?;
                        reply.json().await
                    };
                    if let Ok(reply) = reply.await
                        && came.send(reply).await.is_err()
                    {
                        return;
                    }
                }
            });
        }
        std::future::pending::<Result>().await
    })
}
