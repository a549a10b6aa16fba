//! What becomes of the values that a function gives.

use serde_json::json;
use wiredflow_core::ErrorKind;

use super::{Bench, failure, holds, many, none, params, run};

#[tokio::test]
async fn what_a_function_gives_becomes_records() {
    let bench = Bench::new(
        "import collections, datetime, decimal, pathlib, uuid\n\
         class Array:\n    def __init__(self, values): self.values = values\n    def tolist(self): return self.values\n\
         VALUES = [\n\
         None, {'a': 1}, [1, 2], (1, 2), {3}, [], 'text', 5, 2.5, True, Array([1, 2]), Array(7), {1: 2, None: 3},\n\
         [datetime.datetime(2026, 1, 2, 3, 4, 5), datetime.date(2026, 1, 2), decimal.Decimal('1.10')],\n\
         [uuid.UUID(int=1), pathlib.Path('/x'), Array([1.5]), frozenset([4]), collections.OrderedDict(a=1), (1, (2,))],\n\
         ]\n\
         def give(index):\n    return VALUES[index]\n",
    );
    let pool = bench.open().await.unwrap();
    let expected = [
        json!([]),
        json!([{"a": 1}]),
        json!([1, 2]),
        json!([1, 2]),
        json!([3]),
        json!([]),
        json!(["text"]),
        json!([5]),
        json!([2.5]),
        json!([true]),
        json!([1, 2]),
        json!([7]),
        json!([{"1": 2, "null": 3}]),
        json!(["2026-01-02T03:04:05", "2026-01-02", "1.10"]),
        json!(["00000000-0000-0000-0000-000000000001", "/x", [1.5], [4], {"a": 1}, [1, [2]]]),
    ];
    for (index, expected) in expected.into_iter().enumerate() {
        let given = run(&pool, "give", params(json!({"index": index}))).await;
        assert_eq!(given.unwrap(), [expected], "VALUES[{index}]");
    }
}

#[tokio::test]
async fn e3_what_json_does_not_have_is_an_error_that_says_where() {
    let bench = Bench::new(
        "NAN, INF = float('nan'), float('inf')\nLOOP = []\nLOOP.append(LOOP)\nclass Odd: pass\n\
         def give(index):\n    return [[{'a': 1}, {'t': [NAN]}], {'x': {'y': -INF}}, {'a': Odd()}, LOOP, {(1, 2): 3}, {'big': 2**64}, {'s': '\\ud800'}, {'k\\ud800': 1}, Odd()][index]\n\
         def fine():\n    return {'big': 2**64 - 1, 'small': -2**63, 'float': 0.1 + 0.2, 'zero': -0.0, 'tiny': 5e-324}\n\
         def deep(depth):\n    value = 1\n    for _ in range(depth):\n        value = [value]\n    return {'deep': value}\n",
    );
    let pool = bench.open().await.unwrap();
    let process = pool.idle_processes();
    for (index, parts) in [
        &["`[1].t[0]`", "nan"][..],
        &["`x.y`", "-inf"],
        &["`a`", "`Odd`"],
        &["holds itself"],
        &["key of type `tuple`"],
        &["18446744073709551616", "64 bits"],
        &["`s`", "surrogate"],
        &["key`", "surrogate"],
        &["the output is a `Odd`"],
    ]
    .into_iter()
    .enumerate()
    {
        let error = failure(&pool, "give", params(json!({"index": index}))).await;
        assert_eq!(error.kind(), ErrorKind::Data);
        holds(error.message(), parts);
    }
    let fine = run(&pool, "fine", none()).await.unwrap();
    assert_eq!(
        fine[0].to_string(),
        r#"[{"big":18446744073709551615,"small":-9223372036854775808,"float":0.30000000000000004,"zero":-0.0,"tiny":5e-324}]"#
    );
    assert!(
        run(&pool, "deep", params(json!({"depth": 100})))
            .await
            .is_ok()
    );
    for depth in [127, 500, 100_000] {
        let error = failure(&pool, "deep", params(json!({"depth": depth}))).await;
        assert_eq!(error.kind(), ErrorKind::Data, "{error:?}");
        assert!(
            ["recursion", "nested"]
                .iter()
                .any(|word| error.message().contains(word)),
            "{error}"
        );
    }
    // None of it has cost the process.
    assert_eq!(pool.idle_processes(), process);
}

#[tokio::test]
async fn text_of_all_kinds_goes_there_and_back() {
    let bench = Bench::new("def echo(relevant_info):\n    return relevant_info\n");
    let pool = bench.open().await.unwrap();
    let values = [
        json!("ünï😀\u{0}\u{1f}\u{2028}\"\\/\u{7f}\u{ffff}\u{10ffff}"),
        json!({"": "", "ключ": ["日本"], "type": "output"}),
        json!("x".repeat(10 << 20)),
    ];
    assert_eq!(
        run(&pool, "echo", many(&values)).await.unwrap(),
        [json!(values)]
    );
}
