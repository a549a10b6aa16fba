//! A configuration that yields: the stages after it run once for each limit, three requests at each tick.

use wiredflow::{Call, Flow, Give, Result, http, json};

fn queries(_: Call, give: Give<'_>) -> Result<()> {
    let query = |limit| format!("select * from demo_table limit {limit}");
    (1..=3).try_for_each(|limit| give(json!({"data": query(limit)})))
}

pub fn flow() -> Flow {
    Flow::new("post_for_each_limit").pipeline("numbers", |p| {
        p.every("10s")
            .configuration(queries)
            .http(http("http://localhost:8027").set("method", "POST"))
            .store(json("data"))
    })
}
