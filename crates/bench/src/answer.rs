//! An HTTP server for many pollers that ask once a second: ten records to each, and a note of when it asked.

use std::io::BufRead;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::{Options, Result};

/// The time between two polls of one poller, in seconds.
const PERIOD: f64 = 1.0;

/// When each poller asked, in seconds since the start.
type Arrivals = Arc<Mutex<Vec<Vec<f64>>>>;

/// Says `address HOST:PORT`. A line on the standard input begins the time that counts, another ends it; then it
/// says `polls MADE EXPECTED P50 P99 MOST DRIFT`: the last four in milliseconds.
///
/// A poll's error is its distance from the poller's own grid of whole periods, which is laid through the
/// middle of its arrivals: when it should have begun is its own business, that it keeps to it is measured. Drift
/// is how far the errors of the last quarter lie from those of the first, in the middle.
pub(crate) fn run(options: &Options<'_>) -> Result {
    let pollers = usize::try_from(options.number("--pollers")?)?;
    let arrivals: Arrivals = Arc::new(Mutex::new(vec![Vec::new(); pollers]));
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    println!("address {}", listener.local_addr()?);
    let start = Instant::now();
    let noted = Arc::clone(&arrivals);
    std::thread::spawn(move || -> Result {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async move {
            let listener = TcpListener::from_std(listener)?;
            loop {
                let (stream, _) = listener.accept().await?;
                tokio::spawn(answer(stream, start, Arc::clone(&noted)));
            }
        })
    });
    let wait = || -> Result<f64> {
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line)?;
        Ok(start.elapsed().as_secs_f64())
    };
    let (from, to) = (wait()?, wait()?);
    let arrivals = arrivals.lock().unwrap_or_else(PoisonError::into_inner);
    let expected = (to - from) / PERIOD * pollers as f64;
    let (mut made, mut errors) = (0, Vec::new());
    for times in arrivals.iter() {
        let counted = times.iter().filter(|time| (from..to).contains(*time));
        let offsets: Vec<f64> = counted.map(|time| (time - from) % PERIOD).collect();
        made += offsets.len();
        errors.extend(from_grid(&offsets));
    }
    let quarter = (to - from) / 4.0;
    let of = |times: std::ops::Range<f64>| {
        let some = errors
            .iter()
            .filter(|(index, _)| times.contains(&(*index as f64 * PERIOD)));
        middle(some.map(|(_, error)| *error).collect())
    };
    let drift = of(to - from - quarter..f64::MAX) - of(0.0..quarter);
    let mut distances: Vec<f64> = errors.iter().map(|(_, error)| error.abs()).collect();
    distances.sort_by(f64::total_cmp);
    let at = |part: f64| {
        let last = distances.len().saturating_sub(1);
        distances
            .get((last as f64 * part) as usize)
            .copied()
            .unwrap_or(f64::NAN)
            * 1e3
    };
    println!(
        "polls {made} {expected:.0} {} {} {} {}",
        at(0.5),
        at(0.99),
        at(1.0),
        drift * 1e3
    );
    Ok(())
}

/// The number of each poll and its error in seconds, between minus and plus half a period.
fn from_grid(offsets: &[f64]) -> impl Iterator<Item = (usize, f64)> {
    // Around the first one, so that a grid near the edge of a period is not torn.
    let first = offsets.first().copied().unwrap_or(0.0);
    let around = |offset: f64| (offset - first + 1.5 * PERIOD) % PERIOD - 0.5 * PERIOD;
    let grid = middle(offsets.iter().map(|offset| around(*offset)).collect());
    let errors: Vec<f64> = offsets
        .iter()
        .map(|offset| around(*offset) - grid)
        .collect();
    errors.into_iter().enumerate()
}

fn middle(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

fn note(arrivals: &Arrivals, number: usize, now: f64) {
    let mut arrivals = arrivals.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(times) = arrivals.get_mut(number) {
        times.push(now);
    }
}

/// Answers the requests of one connection, `GET /NUMBER …`.
async fn answer(mut stream: TcpStream, start: Instant, arrivals: Arrivals) -> Result {
    stream.set_nodelay(true)?;
    let records: Vec<String> = (0..10)
        .map(|id| format!(r#"{{"id":{id},"sensor":"line-{id}","celsius":20.5}}"#))
        .collect();
    let body = format!("[{}]", records.join(","));
    let reply = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let (mut buffer, mut filled) = ([0; 2048], 0);
    loop {
        let read = stream.read(&mut buffer[filled..]).await?;
        if read == 0 {
            return Ok(());
        }
        filled += read;
        if !buffer[..filled].ends_with(b"\r\n\r\n") {
            continue;
        }
        let now = start.elapsed().as_secs_f64();
        let number = std::str::from_utf8(&buffer[..filled])?
            .split([' ', '/'])
            .nth(2)
            .and_then(|word| word.parse::<usize>().ok());
        if let Some(number) = number {
            note(&arrivals, number, now);
        }
        stream.write_all(reply.as_bytes()).await?;
        filled = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_told_from_the_pollers_own_grid_also_at_the_edge_of_a_period() {
        let errors: Vec<f64> = from_grid(&[0.999, 0.001, 0.0, 0.010, 0.0])
            .map(|(_, error)| (error * 1e6).round() / 1e3)
            .collect();
        assert_eq!(errors, [-1.0, 1.0, 0.0, 10.0, 0.0]);
    }
}
