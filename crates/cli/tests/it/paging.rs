//! An API that is read page by page, as docs/functions.md says how.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use wiredflow_testkit::{HttpPeer, Reply, Signal, rows, wait_until};

use crate::numbers::end;
use crate::{SOON, tool};

/// The functions that the document shows.
fn functions() -> String {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/functions.md");
    let page = std::fs::read_to_string(page).unwrap();
    let section = page.split("## An API page by page").nth(1).unwrap();
    let code = section.split("```python\n").nth(1).unwrap();
    code.split("```").next().unwrap().to_owned()
}

/// A server with numbered items, of which it tells as some servers do.
#[derive(Default)]
struct Server {
    items: BTreeSet<u64>,
    asked: Vec<u64>,
}

impl Server {
    /// One page, oldest first: with each request some items are added, one of them late, before those told already;
    /// every third page is one of long ago, whatever was asked for; a page ends with an item twice.
    fn page(&mut self, query: &str) -> Vec<Value> {
        let of = |name: &str| {
            let mut parts = query.split('&').filter_map(|part| part.split_once('='));
            let (_, value) = parts.find(|(key, _)| *key == name).unwrap();
            value.parse::<u64>().unwrap()
        };
        let (since, limit) = (of("since"), of("limit"));
        self.asked.push(since);
        let newest = self.items.last().copied().unwrap_or(0);
        if newest < 400 {
            self.items.extend([newest + 2, newest + 3, newest + 4]);
            self.items.insert(newest.saturating_sub(3).max(1));
        }
        let from = match self.asked.len() % 3 {
            0 => 0,
            _ => since,
        };
        let page = self.items.range(from..).take(limit as usize);
        let mut page: Vec<Value> = page.map(|id| json!({"id": id, "value": id * 7})).collect();
        page.extend(page.last().cloned());
        page
    }
}

#[test]
fn d9_an_api_that_repeats_and_goes_back_is_read_whole_and_stored_once() {
    let server = Arc::new(Mutex::new(Server::default()));
    let peer = HttpPeer::start();
    peer.on_request("/items", {
        let server = Arc::clone(&server);
        move |request| Reply::json(json!(server.lock().unwrap().page(&request.query)))
    });
    let test = tool();
    test.file("logic.py", &functions());
    let url = peer.url("/items");
    test.file(
        "flow.yaml",
        &format!(
            "storages:\n  items: {{sqlite: {{path: items.db, table: rows}}, key: id}}\npipelines:\n  pages:\n    every: 20ms\n    stages:\n      \
             - configuration: {{python: \"logic.py:newer\", params: {{overlap: 10, limit: 20}}}}\n      \
             - http: \"{url}\"\n      - store: items\n"
        ),
    );
    let stored = || {
        let rows = rows("sqlite", &test.path("items.db")).unwrap_or_default();
        let ids = rows.iter().map(|row| row["id"].as_u64().unwrap());
        ids.collect::<Vec<u64>>()
    };
    let running = test.spawn(["run", "flow.yaml"]);
    wait_until(SOON, || stored().len() > 100);
    running.signal(Signal::Kill);
    drop(running);
    let running = test.spawn(["run", "flow.yaml"]);
    let whole = || {
        let items = server.lock().unwrap().items.clone();
        items.last() >= Some(&400) && stored().len() >= items.len()
    };
    wait_until(2 * SOON, whole);
    end(running);
    let mut ids = stored();
    ids.sort_unstable();
    let server = server.lock().unwrap();
    let expected: Vec<u64> = server.items.iter().copied().collect();
    assert_eq!(ids, expected, "each once");
    assert!(server.asked.is_sorted(), "{:?}", server.asked);
}
