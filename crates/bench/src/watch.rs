//! How old messages are when another process can read them in the file.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;

use rustix::fs::inotify;

use crate::message::{now, sent};
use crate::{Options, Result};

/// Says `ready`, follows the file until so many messages were added, and says
/// `latency MESSAGES P50 P99 MAX` in microseconds.
pub(crate) fn run(options: &Options<'_>) -> Result {
    let (path, messages) = (options.text("--file")?, options.number("--messages")?);
    let mut file = File::open(path)?;
    file.seek(SeekFrom::End(0))?;
    let changes = inotify::init(inotify::CreateFlags::CLOEXEC)?;
    inotify::add_watch(changes.as_fd(), path, inotify::WatchFlags::MODIFY)?;
    println!("ready");

    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut events = inotify::Reader::new(changes.as_fd(), &mut buffer);
    let (mut text, mut ages) = (String::new(), Vec::new());
    while (ages.len() as u64) < messages {
        events.next()?;
        file.read_to_string(&mut text)?;
        let read = now();
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        let times = text[..whole].lines().filter_map(sent);
        ages.extend(times.map(|sent| read.saturating_sub(sent)));
        text.drain(..whole);
    }
    ages.sort_unstable();
    let at = |part: f64| ages[((ages.len() - 1) as f64 * part).round() as usize];
    println!(
        "latency {} {} {} {}",
        ages.len(),
        at(0.5),
        at(0.99),
        at(1.0)
    );
    Ok(())
}
