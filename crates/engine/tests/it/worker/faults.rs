//! What users' code can do to a worker, and what the flow must not notice of it.

use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use wiredflow_core::{Batch, ErrorKind};

use super::{
    Bench, SOON, children, failure, holds, is_alive, many, none, one, params, run, until, written,
};

/// Writes the numbers of its process and of a process that it has started, then does as it is told.
const LINGER: &str = "\
import os, re, subprocess, sys, time
def linger(how, **params):
    child = subprocess.Popen(['sleep', '1000'])
    open('processes.new', 'w').write('%d %d' % (os.getpid(), child.pid))
    os.rename('processes.new', 'processes')
    if how == 'sleep':
        time.sleep(1000)
    elif how == 'spin':
        while True: pass
    elif how == 'hold':
        re.match('(a+)+$', 'a' * 64 + 'b')
    elif how == 'deaf':
        import signal
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(1000)
def echo(relevant_info=None):
    return relevant_info
";

fn processes(bench: &Bench) -> Vec<u32> {
    let text = written(&bench.path("processes"));
    text.split_whitespace()
        .map(|id| id.parse().unwrap())
        .collect()
}

/// SIGKILL has been sent to all; the kernel needs its moment.
async fn all_gone(bench: &Bench) {
    let gone = || processes(bench).iter().all(|&process| !is_alive(process));
    until("all are gone", gone).await;
}

fn kill(process: u32) {
    let pid = Pid::from_raw(i32::try_from(process).unwrap()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
}

async fn echoes(pool: &wiredflow_engine::worker::Pool) {
    let given = one(json!({"still": "here"}));
    assert_eq!(
        run(pool, "echo", given).await.unwrap(),
        [json!([{"still": "here"}])]
    );
}

#[tokio::test]
async fn a5_a_killed_child_is_started_anew() {
    let bench = Bench::new(LINGER);
    let pool = bench.open().await.unwrap();
    let given = params(json!({"how": "sleep"}));
    let mut running = pool.call(given.request("linger")).await.unwrap();
    let first = running.process().unwrap();
    let killer = async {
        until("the function runs", || !processes(&bench).is_empty()).await;
        kill(first);
    };
    let (outcome, ()) = tokio::join!(running.next(), killer);
    let error = outcome.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Data);
    holds(error.message(), &["Python process", "killed by signal 9"]);
    drop(running);
    echoes(&pool).await;
    assert_ne!(pool.idle_processes(), [first]);
    // The one that it had started is gone too, and nothing is left as a zombie.
    all_gone(&bench).await;
    assert_eq!(children(), pool.idle_processes());
}

#[tokio::test]
async fn a5_a_child_killed_between_calls_costs_no_call() {
    let bench = Bench::new(LINGER);
    let pool = bench.open().await.unwrap();
    for _ in 0..3 {
        echoes(&pool).await;
        let process = pool.idle_processes()[0];
        kill(process);
        // Its threads end one after the other, and only then is it seen to have ended.
        let threads =
            || std::fs::read_dir(format!("/proc/{process}/task")).map_or(0, Iterator::count);
        until("it has ended", || !is_alive(process) && threads() < 2).await;
    }
    echoes(&pool).await;
}

#[tokio::test]
async fn a6_a_function_that_hangs_is_stopped_and_says_where() {
    for how in ["sleep", "spin", "hold"] {
        let bench = Bench::new(LINGER);
        let pool = bench.open().await.unwrap();
        let given = params(json!({"how": how})).within(Duration::from_millis(800));
        let error = failure(&pool, "linger", given).await;
        assert_eq!(error.kind(), ErrorKind::Data);
        holds(error.message(), &["no answer within 800ms"]);
        holds(error.trace().unwrap(), &["logic.py", "in linger"]);
        assert!(!error.trace().unwrap().contains("wiredflow"), "{error:?}");
        all_gone(&bench).await;
        echoes(&pool).await;
    }
}

#[tokio::test]
async fn a6_a_function_that_is_deaf_to_sigterm_is_killed_two_seconds_later() {
    let bench = Bench::new(LINGER);
    let pool = bench.open().await.unwrap();
    let given = params(json!({"how": "deaf"})).within(Duration::from_millis(500));
    let begun = Instant::now();
    failure(&pool, "linger", given).await;
    let taken = begun.elapsed();
    assert!(taken > Duration::from_secs(2) && taken < SOON, "{taken:?}");
    all_gone(&bench).await;
    echoes(&pool).await;
}

#[tokio::test]
async fn a6_a_call_that_nobody_waits_for_leaves_no_process() {
    let bench = Bench::new(LINGER);
    let pool = bench.open().await.unwrap();
    let given = params(json!({"how": "sleep"}));
    let running = pool.call(given.request("linger")).await.unwrap();
    until("the function runs", || !processes(&bench).is_empty()).await;
    drop(running);
    all_gone(&bench).await;
    echoes(&pool).await;
    drop(pool);
    until("no child is left", || children().is_empty()).await;
}

#[tokio::test]
async fn a6_prints_never_touch_the_protocol() {
    let bench = Bench::new(
        "import os, subprocess, sys, multiprocessing\n\
         def child():\n    print('from a fork')\n    sys.stdout.flush()\n\
         def noisy(relevant_info=None):\n    print('{\"type\":\"done\",\"id\":1}')\n    os.write(1, b'\\x00\\x00\\x00\\x02{}raw\\n')\n    sys.__stdout__.write('old stdout\\n'); sys.__stdout__.flush()\n    subprocess.check_call('echo child; cat', shell=True)\n    process = multiprocessing.get_context('fork').Process(target=child)\n    process.start(); process.join()\n    if os.fork() == 0:\n        return 'a second return'\n    os.wait()\n    return sys.stdin.read() + 'end'\n",
    );
    let pool = bench.open().await.unwrap();
    for _ in 0..5 {
        assert_eq!(
            run(&pool, "noisy", many(&[json!(1)])).await.unwrap(),
            [json!(["end"])]
        );
    }
    for line in [
        "{\"type\":\"done\",\"id\":1}",
        "{}raw",
        "old stdout",
        "child",
        "from a fork",
    ] {
        until(line, || bench.host.has_line(line)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a6_a_gibibyte_on_stderr_neither_blocks_nor_fills_the_memory() {
    let bench = Bench::new(
        "import subprocess\n\
         def flood(line, **params):\n    subprocess.check_call('yes %s | head -c 512M >&2' % line, shell=True)\n    subprocess.check_call('head -c 512M /dev/zero >&2', shell=True)\n    subprocess.check_call('echo; echo the end >&2', shell=True)\n    return 'done'\n",
    );
    let pool = bench.open().await.unwrap();
    let before = resident();
    let given = params(json!({"line": "a long line of text ".repeat(200)}));
    assert_eq!(run(&pool, "flood", given).await.unwrap(), [json!(["done"])]);
    assert!(
        resident() < before + (32 << 20),
        "{before} grew to {}",
        resident()
    );
    drop(pool);
    until("the rest is told", || {
        bench.host.has_line("more lines were not logged")
    })
    .await;
    let lines = bench.host.lines();
    assert!(lines.len() < 3000, "{} lines", lines.len());
    assert!(lines.iter().all(|line| line.len() < 4200));
}

fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[tokio::test]
async fn a6_an_end_of_the_process_is_a_failure_of_the_call() {
    let bench = Bench::new(
        "import os, sys, ctypes\n\
         def end(how, **params):\n    print('before', file=sys.stderr)\n    if how == 'exit': sys.exit(3)\n    if how == 'text': sys.exit('bye')\n    if how == 'quiet': os._exit(0)\n    if how == 'loud': os._exit(7)\n    if how == 'fault': ctypes.string_at(0)\n    if how == 'close':\n        for fd in range(3, 30):\n            try: os.close(fd)\n            except OSError: pass\n        import time; time.sleep(100)\n\
         def later(how, **params):\n    yield 1\n    end(how)\n\
         def echo(relevant_info=None):\n    return relevant_info\n",
    );
    let pool = bench.open().await.unwrap();
    for (how, parts) in [
        ("exit", &["sys.exit(3)"][..]),
        ("text", &["sys.exit(bye)"]),
        ("quiet", &["ended with exit status 0"]),
        ("loud", &["exit status 7"]),
        ("fault", &["signal 11"]),
        ("close", &["the Python process was"]),
    ] {
        for function in ["end", "later"] {
            let error = failure(&pool, function, params(json!({"how": how}))).await;
            assert_eq!(error.kind(), ErrorKind::Data, "{how}");
            holds(error.message(), parts);
            let trace = error.trace().unwrap();
            assert!(
                trace.contains("before") || trace.contains("in end"),
                "{how}: {trace}"
            );
        }
        echoes(&pool).await;
    }
}

#[tokio::test]
async fn ten_thousand_calls_leave_nothing_behind() {
    let bench = Bench::new(
        "def double(relevant_info):\n    return [{'n': record['n'] * 2} for record in relevant_info]\n",
    );
    let pool = bench.open().await.unwrap();
    let call = async |n: u32| {
        let given = many(&[json!({"n": n}), json!({"n": n + 1})]);
        assert_eq!(
            run(&pool, "double", given).await.unwrap(),
            [json!([{"n": 2 * n}, {"n": 2 * n + 2}])]
        );
    };
    for n in 0..1000 {
        call(n).await;
    }
    let (process, descriptors, memory) = (pool.idle_processes(), descriptors(), resident());
    for n in 1000..10_000 {
        call(n).await;
    }
    assert_eq!(pool.idle_processes(), process);
    assert_eq!(children(), process);
    assert_eq!(self::descriptors(), descriptors);
    assert!(
        resident() < memory + (8 << 20),
        "{memory} grew to {}",
        resident()
    );
    pool.close().await;
    assert_eq!(children(), Vec::<u32>::new());
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[tokio::test]
async fn processes_work_side_by_side_and_calls_wait_for_a_free_one() {
    let bench = Bench::new(
        "import os, time\n\
         def meet(**params):\n    open('here-%d' % os.getpid(), 'w')\n    while len([f for f in os.listdir() if f.startswith('here-')]) < 3:\n        time.sleep(0.005)\n    return os.getpid()\n",
    )
    .processes(3);
    let pool = bench.open().await.unwrap();
    assert_eq!(
        pool.idle_processes().len(),
        1,
        "the others start when they are needed"
    );
    let calls = (0..9).map(|_| run(&pool, "meet", none()));
    let outputs = tokio::time::timeout(SOON, futures_util::future::join_all(calls))
        .await
        .unwrap();
    let mut processes: Vec<Value> = outputs
        .into_iter()
        .map(|output| output.unwrap()[0][0].clone())
        .collect();
    processes.sort_by_key(Value::as_u64);
    processes.dedup();
    assert_eq!(processes.len(), 3);
    assert_eq!(children().len(), 3);
}

#[tokio::test]
async fn an_end_in_good_order_lets_python_clean_up() {
    let bench = Bench::new(
        "import atexit, subprocess\n\
         atexit.register(lambda: open('cleaned', 'w').write('yes'))\n\
         def start(**params):\n    child = subprocess.Popen(['sleep', '1000'])\n    open('processes', 'w').write(str(child.pid))\n",
    );
    for waited_for in [true, false] {
        let pool = bench.open().await.unwrap();
        assert_eq!(run(&pool, "start", none()).await.unwrap(), [json!([])]);
        match waited_for {
            true => pool.close().await,
            false => drop(pool),
        }
        let cleaned = || written(&bench.path("cleaned")) == "yes";
        until("Python has cleaned up", cleaned).await;
        until("no child is left", || children().is_empty()).await;
        std::fs::remove_file(bench.path("cleaned")).unwrap();
        all_gone(&bench).await;
    }
    assert_eq!(bench.host.lines(), Vec::<String>::new());
}

/// Kills a host with SIGKILL while its worker sleeps, spins, or is in C code that never lets Python's threads run.
#[test]
fn a_worker_and_what_it_has_started_end_with_their_host() {
    for (how, all) in [("sleep", true), ("spin", true), ("hold", false)] {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("logic.py"), LINGER).unwrap();
        let mut host = std::process::Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "worker::faults::a_host_that_will_be_killed",
                "--ignored",
            ])
            .env("WORKER_TEST_FOLDER", folder.path())
            .env("WORKER_TEST_HOW", how)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let file = folder.path().join("processes");
        let end = Instant::now() + SOON;
        while !file.exists() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
        let text = written(&file);
        let mut processes: Vec<u32> = text.split(' ').map(|id| id.parse().unwrap()).collect();
        let rest = if all {
            Vec::new()
        } else {
            processes.split_off(1)
        };
        assert!(processes.iter().all(|&process| is_alive(process)));
        host.kill().unwrap();
        host.wait().unwrap();
        let end = Instant::now() + Duration::from_secs(5);
        while processes.iter().any(|&process| is_alive(process)) {
            assert!(
                Instant::now() < end,
                "{how}: still there five seconds later"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        rest.into_iter().for_each(kill);
    }
}

#[tokio::test]
#[ignore = "the other half of `a_worker_and_what_it_has_started_end_with_their_host`, which starts it"]
async fn a_host_that_will_be_killed() {
    let (Some(folder), Ok(how)) = (
        std::env::var_os("WORKER_TEST_FOLDER"),
        std::env::var("WORKER_TEST_HOW"),
    ) else {
        return;
    };
    let mut bench = Bench::new(LINGER);
    bench.keep(folder.as_ref());
    let pool = bench.open().await.unwrap();
    let given = params(json!({"how": how}));
    let mut running = pool.call(given.request("linger")).await.unwrap();
    let outcome: Option<Batch> = running.next().await.unwrap();
    panic!("it ended: {outcome:?}");
}
