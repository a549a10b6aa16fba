use serde_json::json;

use super::*;

fn storages() -> Vec<String> {
    vec!["numbers".to_owned(), "my-notes".to_owned()]
}

#[track_caller]
fn refused(sql: &str, part: &str) {
    let (message, help) = Query::check(sql, &storages()).unwrap_err();
    assert!(message.contains(part), "{sql}: {message} ({help})");
}

fn run(sql: &str, input: &[Value], params: Value) -> Result<Vec<Value>> {
    let Value::Object(params) = params else {
        panic!("params are an object")
    };
    let query = Query::check(sql, &[]).unwrap_or_else(|problem| panic!("{sql}: {problem:?}"));
    let input = Batch::of_values(input.to_vec());
    query.run(&input, &params, &StorageHandles::default(), &Arc::default())
}

#[test]
fn only_the_storages_that_a_query_mentions_are_read() {
    let query = Query::check("select * from Numbers", &storages()).unwrap();
    assert_eq!(query.storages, ["numbers"]);
    let query = Query::check(
        "select * from \"my-notes\" join numbers using (id)",
        &storages(),
    );
    assert_eq!(query.unwrap().storages, ["numbers", "my-notes"]);
    let query = Query::check(
        "with n as (values (1)) select 'numbers' from n",
        &storages(),
    );
    assert!(query.unwrap().storages.is_empty());
}

#[test]
fn e9_whatever_is_no_select_over_the_flows_storages_is_refused_before_it_runs() {
    for sql in [
        "drop table numbers",
        "delete from numbers",
        "insert into input values (1)",
        "create table x (a)",
        "create temp trigger t after insert on numbers begin select 1; end",
        "attach 'x.db' as x",
        "vacuum into 'x.db'",
        "pragma writable_schema = on",
        "begin",
        "select * from sqlite_schema",
        "select * from pragma_table_info('numbers')",
        "select count(*) from sqlite_schema",
        "select 1 from pragma_database_list",
        "with x as (select 1) delete from numbers",
    ] {
        refused(sql, "only `SELECT` is possible");
    }
    for sql in [
        "select 1; drop table numbers",
        "select 1; delete from numbers",
    ] {
        refused(sql, "only `SELECT` is possible");
    }
    refused("select 1; select 2", "more than one statement");
    refused(
        "select load_extension('x')",
        "`load_extension` is not possible here",
    );
}

#[test]
fn check_tells_what_can_be_known_without_the_columns() {
    refused("selct 1", "near \"selct\": syntax error");
    refused("select (1", "incomplete input");
    refused(
        "select * from number",
        "there is no table `number`: did you mean `numbers`?",
    );
    refused("", "it selects nothing");
    refused("-- nothing", "it selects nothing");
    refused("select ?", "a parameter needs a name");
    refused(
        "select 1 as a, 2 as a",
        "two columns of the result are named `a`",
    );
    let storages = vec!["Input".to_owned()];
    let (message, _) = Query::check("select 1", &storages).unwrap_err();
    assert!(message.contains("a storage is named `input`"), "{message}");
    Query::check(
        "select whatever, n.else_ from numbers n where x > :least",
        &self::storages(),
    )
    .unwrap();
}

#[test]
fn the_batch_is_a_table_and_params_are_bound() {
    let input = [
        json!({"t": 19, "tags": ["a"]}),
        json!({"t": 21.5, "site": "n"}),
        json!({"t": 25}),
    ];
    let rows = run(
        "select t, tags, site from input where t > :least or tags is not null order by t desc",
        &input,
        json!({"least": 20}),
    );
    let expected = [
        json!({"t": 25, "tags": null, "site": null}),
        json!({"t": 21.5, "tags": null, "site": "n"}),
        json!({"t": 19, "tags": ["a"], "site": null}),
    ];
    assert_eq!(rows.unwrap(), expected);
    let rows = run(
        "select sum(value) as sum from input",
        &[json!(1), json!(2)],
        json!({}),
    );
    assert_eq!(rows.unwrap(), [json!({"sum": 3})]);
    let rows = run(
        "select json_extract(i.tags, '$[0]') as first, (select count(*) from json_each(i.tags)) as n from input i where tags is not null",
        &input,
        json!({}),
    );
    assert_eq!(rows.unwrap(), [json!({"first": "a", "n": 1})]);
}

#[test]
fn e9_data_and_names_are_never_sql() {
    let evil = "'; DROP TABLE input;--";
    let name = "a\"; DROP TABLE input;--";
    let input = [json!({name: evil, "b": 1})];
    let rows = run("select * from input where b = 1", &input, json!({})).unwrap();
    assert_eq!(rows, input);
    let rows = run(
        "select b from input where :what = :what",
        &input,
        json!({"what": evil}),
    )
    .unwrap();
    assert_eq!(rows, [json!({"b": 1})]);
    let error = run("select 1 from input", &[json!({"a\0b": 1})], json!({})).unwrap_err();
    assert!(error.message().contains("zero byte"), "{error}");
}

#[test]
fn a_table_without_rows_has_whatever_columns_are_asked_for() {
    for sql in [
        "select t, avg(u) as mean from input group by t",
        "select i.t, i.\"odd name\" from input i join input j on i.x = j.x",
        "select * from input",
    ] {
        assert_eq!(run(sql, &[], json!({})).unwrap(), [] as [Value; 0], "{sql}");
    }
    let sql = "select count(t) as n from input";
    assert_eq!(run(sql, &[], json!({})).unwrap(), [json!({"n": 0})]);
}

#[test]
fn what_goes_wrong_says_what_is_possible() {
    for (sql, part) in [
        (
            "select tmp from input",
            "no such column: tmp; `input` has `temp`, `site`",
        ),
        (
            "select temp from input where temp > :lest",
            "`:lest` of the query is not among the params: did you mean `least`?",
        ),
        (
            "select abs(-9223372036854775808) as x from input",
            "integer overflow",
        ),
        ("select zeroblob(100000000) as x", "too big"),
    ] {
        let error = run(sql, &[json!({"temp": 1, "site": 2})], json!({"least": 1})).unwrap_err();
        assert_eq!(error.kind(), wiredflow_core::ErrorKind::Data);
        assert!(error.message().contains(part), "{sql}: {error}");
    }
    let sql = "with recursive n(i) as (select 1 union all select i + 1 from n) select i, hex(zeroblob(100000)) as text from n";
    let error = run(sql, &[], json!({})).unwrap_err();
    assert!(error.message().contains("more than 64 MiB"), "{error}");
}

#[test]
fn a_query_that_nobody_waits_for_ends() {
    let sql = "with recursive n(i) as (select 1 union all select i + 1 from n) select max(i) as most from n";
    let query = Query::check(sql, &[]).unwrap();
    let stopped: Arc<AtomicBool> = Arc::default();
    let (stop, input) = (Arc::clone(&stopped), Batch::default());
    let thread = std::thread::spawn(move || {
        query.run(&input, &Map::new(), &StorageHandles::default(), &stopped)
    });
    stop.store(true, Ordering::Relaxed);
    let error = thread.join().unwrap().unwrap_err();
    assert!(error.message().contains("the query was stopped"), "{error}");
}
