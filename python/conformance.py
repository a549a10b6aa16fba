"""Checks that a worker, in whatever language, keeps Wiredflow's worker protocol (docs/worker-protocol.md).

    python3 conformance.py [--only WORD] -- COMMAND [ARGUMENT …]

speaks the host's side to COMMAND and prints a line for each rule. The worker must have the functions of the part
"what the worker must be able to do" below; one that loads Python code finds them here, by the `source` of `start`.
Exit code 0 when every rule is kept.
"""

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time

VERSION = 1
HERE = os.path.abspath(__file__)
PATIENCE = 10.0  # seconds for an answer


# --- what the worker must be able to do -------------------------------------------------------------------------------


def echo(relevant_info=None, **params):
    """Gives its input back."""
    return relevant_info


def settings(db_connectors=None, pipeline_name=None, relevant_info=None, **params):
    """Gives one record: the pipeline's name and the params."""
    return {"pipeline": pipeline_name, "params": params}


def count(until=0, **params):
    """Gives `until` outputs, one record each: {"n": 0}, {"n": 1}, …"""
    for n in range(until):
        yield {"n": n}


def fail(reason="", **params):
    """Fails, with `reason` in the message."""
    raise ValueError(reason)


def say(text="", **params):
    """Prints `text` as a line to its standard output, and lets a child process do so; gives nothing."""
    print(text)
    subprocess.check_call(["echo", text])


def load(storage="", db_connectors=None, **params):
    """Gives what `storage` holds."""
    return db_connectors[storage].load()


def save(storage="", relevant_info=None, db_connectors=None, **params):
    """Saves its input to `storage`, then gives {"saved": true}."""
    db_connectors[storage].save(relevant_info)
    return {"saved": True}


def nap(seconds=0, **params):
    """Does nothing for `seconds`; gives nothing."""
    time.sleep(seconds)


FUNCTIONS = (echo, settings, count, fail, say, load, save, nap)


# --- the host's side --------------------------------------------------------------------------------------------------

NUMBER, TEXT, ANY = (int,), (str,), (dict, list, str, int, float, bool, type(None))
USED = (dict,)  # {"wall", "cpu", "delay"} in nanoseconds
MEMBERS = {  # what a worker may send: type -> (required members, optional members)
    "hello": ({"version": NUMBER, "functions": (list,), "slots": NUMBER}, {}),
    "output": ({"id": NUMBER, "seq": NUMBER, "batch": (dict, type(None))}, {}),
    "done": ({"id": NUMBER}, {"used": USED}),
    "error": ({"kind": TEXT, "message": TEXT}, {"id": NUMBER, "trace": TEXT, "used": USED}),
    "load": ({"id": NUMBER, "storage": TEXT, "query": (dict,)}, {"call": NUMBER}),
    "save": ({"id": NUMBER, "storage": TEXT, "batch": (dict, type(None))}, {"call": NUMBER}),
    "log": ({"level": TEXT, "message": TEXT}, {"id": NUMBER}),
    "progress": ({"id": NUMBER, "note": TEXT}, {}),
    "heartbeat": ({}, {}),
}


class Broken(Exception):
    """A rule is not kept."""


class Host:
    """Starts the worker and speaks to it; every frame that comes back is looked at."""

    def __init__(self, command, start=True, **changes):
        self.errors = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, bufsize=0,
            start_new_session=True)
        self.logs = []
        self.beats = 0
        if start:
            self.send(**start_frame(**changes))
            self.hello = self.receive("hello")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.errors):
            pipe.close()

    def send(self, **frame):
        self.write(framed(json.dumps(frame).encode()))

    def write(self, data):
        while data:
            data = data[self.process.stdin.write(data):]

    def call(self, function, batch=None, number=1, credit=4, **params):
        self.send(**call_frame(function, batch, number, credit, params))

    def read(self, count, until):
        data = b""
        while len(data) < count:
            ready, _, _ = select.select([self.process.stdout], [], [], max(0.0, until - time.monotonic()))
            if not ready:
                return None
            part = os.read(self.process.stdout.fileno(), count - len(data))
            if not part:
                self.errors.seek(0)
                said = self.errors.read()[-2000:].decode("utf-8", "replace")
                raise EOFError("the worker ended; its stderr: %s" % said)
            data += part
        return data

    def next(self, patience=PATIENCE):
        """The next frame that is no log and no heartbeat; None when there is none in time."""
        until = time.monotonic() + patience
        while True:
            head = self.read(4, until)
            if head is None:
                return None
            frame = json.loads(self.read(int.from_bytes(head, "big"), until + PATIENCE).decode("utf-8"))
            check_members(frame)
            if frame["type"] == "log":
                self.logs.append(frame["message"])
            elif frame["type"] == "heartbeat":
                self.beats += 1
            elif frame["type"] != "progress":
                return frame

    def receive(self, kind, number=None):
        frame = self.next()
        expect(frame is not None, "no `%s` within %d s" % (kind, PATIENCE))
        expect(frame["type"] == kind, "expected `%s`, got %s" % (kind, short(frame)))
        if number is not None:
            expect(frame.get("id") == number, "expected id %d in %s" % (number, short(frame)))
        return frame

    def outputs(self, number=1):
        """The outputs of a call that must end well; takes more as they come."""
        batches = []
        while True:
            frame = self.next()
            expect(frame is not None, "no end of the call within %d s" % PATIENCE)
            expect(frame.get("id") == number, "expected id %d in %s" % (number, short(frame)))
            if frame["type"] == "done":
                return batches
            expect(frame["type"] == "output", "expected `output` or `done`, got %s" % short(frame))
            expect(frame["seq"] == len(batches), "seq must count from 0, got %s" % short(frame))
            batches.append(frame["batch"])
            self.send(type="more", id=number, count=1)

    def result(self, function, batch=None, number=1, **params):
        self.call(function, batch, number, **params)
        return self.outputs(number)

    def expect_end(self, patience):
        """The worker must end; it may say why in an `error` without an id."""
        until = time.monotonic() + patience
        try:
            while time.monotonic() < until:
                frame = self.next(max(0.0, until - time.monotonic()))
                if frame is not None:
                    goodbye = frame["type"] == "error" and frame.get("id") is None
                    expect(goodbye, "expected the end, got %s" % short(frame))
        except EOFError:
            pass
        try:
            self.process.wait(max(0.1, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise Broken("it did not end within %d s" % patience) from None

    def close_input(self):
        self.process.stdin.close()


def start_frame(**changes):
    functions = [
        {"name": f.__name__, "role": "core_logic", "source": "%s:%s" % (HERE, f.__name__), "pipeline": "the pipeline",
         "storages": ["numbers", "letters"]} for f in FUNCTIONS]
    frame = {"type": "start", "version": VERSION, "functions": functions, "folder": os.getcwd(), "limit": 64 << 20}
    frame.update(changes)
    return frame


def call_frame(function, batch, number, credit, params):
    return {"type": "call", "id": number, "attempt": 1, "epoch": 0, "function": function, "params": params,
            "batch": batch, "credit": credit}


def framed(body):
    return len(body).to_bytes(4, "big") + body


def check_members(frame):
    expect(isinstance(frame, dict) and frame.get("type") in MEMBERS, "a worker does not send %s" % short(frame))
    required, optional = MEMBERS[frame["type"]]
    for name, value in frame.items():
        expect(name == "type" or name in required or name in optional, "unknown `%s` in %s" % (name, short(frame)))
        right = name == "type" or isinstance(value, required.get(name, ())) or (
            name in optional and (value is None or isinstance(value, optional[name])))
        expect(right, "`%s` has the wrong type in %s" % (name, short(frame)))
    for name in required:
        expect(name in frame, "`%s` is missing in %s" % (name, short(frame)))
    if isinstance(frame.get("batch"), dict):
        expect(list(frame["batch"]) in (["one"], ["many"]), "a batch is null, one or many: %s" % short(frame))
    if frame["type"] == "error":
        expect(frame["kind"] in ("config", "data", "remote", "bug"), "unknown kind in %s" % short(frame))


def short(frame):
    text = json.dumps(frame)
    return text if len(text) < 300 else text[:300] + " …"


def expect(condition, message):
    if not condition:
        raise Broken(message)


def same(got, expected):
    expect(json.dumps(got) == json.dumps(expected), "expected %s, got %s" % (short(expected), short(got)))


# --- the rules --------------------------------------------------------------------------------------------------------


def start_is_answered_by_hello(command):
    with Host(command) as host:
        same(host.hello["version"], VERSION)
        same(sorted(host.hello["functions"]), sorted(f.__name__ for f in FUNCTIONS))
        expect(host.hello["slots"] >= 1, "slots must be 1 or more")


def another_version_is_refused_with_both_named(command):
    with Host(command, start=False) as host:
        host.send(**start_frame(version=999))
        error = host.receive("error")
        same((error["kind"], error.get("id")), ("config", None))
        expect("999" in error["message"] and str(VERSION) in error["message"], "both versions must be named")
        host.expect_end(5)


def a_function_that_is_not_there_is_refused_at_start(command):
    functions = [{"name": "no_such", "role": "core_logic", "source": HERE + ":no_such"}]
    with Host(command, start=False) as host:
        host.send(**start_frame(functions=functions))
        error = host.receive("error")
        same((error["kind"], error.get("id")), ("config", None))
        expect("no_such" in error["message"], "the message must name the function")
        host.expect_end(5)


def none_one_and_many_keep_their_shape(command):
    with Host(command) as host:
        for batch in (None, {"one": {"a": 1}}, {"many": [{"a": 1}]}, {"many": [{"a": 1}, {"a": 2}]}, {"many": []}):
            same(host.result("echo", batch), [batch])


def values_come_back_exactly(command):
    deep = 1
    for _ in range(100):
        deep = [deep]
    values = [
        0, 1, -1, 2 ** 63 - 1, -(2 ** 63), 2 ** 64 - 1, 0.1, -0.0, 1e300, 5e-324, 0.30000000000000004, True, False,
        None, "", "text", "ünï😀\u2028\u0000\u001f\"\\/", [], {}, {"": {"b": 1, "a": [None]}}, deep]
    with Host(command) as host:
        same(host.result("echo", {"many": [{"value": value} for value in values]}), [
            {"many": [{"value": value} for value in values]}])


def params_and_the_pipeline_reach_the_function(command):
    with Host(command) as host:
        same(host.result("settings", limit=5, name="ü"), [
            {"one": {"pipeline": "the pipeline", "params": {"limit": 5, "name": "ü"}}}])


def a_stream_is_numbered_and_ended(command):
    with Host(command) as host:
        same(host.result("count", until=50), [{"one": {"n": n}} for n in range(50)])
        same(host.result("count", until=0), [])


def no_more_outputs_than_the_host_takes(command):
    with Host(command) as host:
        host.call("count", credit=2, until=10)
        expected = 0
        for more in (0, 3, 1):
            if more:
                host.send(type="more", id=1, count=more)
            for _ in range(more or 2):
                same(host.receive("output", 1)["seq"], expected)
                expected += 1
            extra = host.next(0.3)
            expect(extra is None, "%d outputs were taken and one more came: %s" % (expected, short(extra)))


def a_cancelled_stream_ends_and_the_next_call_runs(command):
    with Host(command) as host:
        host.call("count", credit=2, until=10 ** 9)
        host.receive("output", 1)
        host.send(type="cancel", id=1)
        frame = host.next()
        while frame and frame["type"] == "output":
            frame = host.next()
        ended = frame and frame["type"] in ("done", "error") and frame["id"] == 1
        expect(ended, "expected the call's end, got %s" % short(frame))
        same(host.result("echo", {"one": 1}, number=2), [{"one": 1}])


def a_failure_has_its_reason_and_the_next_call_runs(command):
    with Host(command) as host:
        host.call("fail", reason="the glass is empty")
        error = host.receive("error", 1)
        same(error["kind"], "data")
        expect("the glass is empty" in error["message"], "the message must hold the reason, got %s" % short(error))
        host.call("no_such", number=2)
        expect("no_such" in host.receive("error", 2)["message"], "the message must name the function")
        same(host.result("echo", {"one": 1}, number=3), [{"one": 1}])


def a_storage_is_read_through_the_host(command):
    with Host(command) as host:
        for number, batch in enumerate((None, {"one": {"a": 1}}, {"many": [{"a": "1"}, {"a": "2"}]}), 1):
            host.call("load", number=number, storage="numbers")
            asked = host.receive("load")
            same((asked["storage"], asked["query"], asked.get("call")), ("numbers", {}, number))
            host.send(type="rows", id=asked["id"], batch=batch)
            same(host.outputs(number), [batch])


def a_storage_that_is_away_is_a_failure_of_its_kind(command):
    with Host(command) as host:
        for number, kind in enumerate(("remote", "config", "data"), 1):
            host.call("load", number=number, storage="letters")
            host.send(type="error", id=host.receive("load")["id"], kind=kind, message="`letters` is away")
            error = host.receive("error", number)
            same(error["kind"], kind)
            expect("`letters` is away" in error["message"], "the host's message must be kept")


def a_storage_is_written_through_the_host(command):
    with Host(command) as host:
        for number, batch in enumerate(({"one": {"a": 1}}, {"many": [{"a": 1}, {"a": 2}]}), 1):
            host.call("save", batch, number=number, storage="numbers")
            asked = host.receive("save")
            same((asked["storage"], asked["batch"], asked.get("call")), ("numbers", batch, number))
            expect(host.next(0.2) is None, "the call must wait for `saved`")
            host.send(type="saved", id=asked["id"])
            same(host.outputs(number), [{"one": {"saved": True}}])


def what_is_printed_does_not_touch_the_frames(command):
    with Host(command) as host:
        expect(host.result("say", text="\u00e4 printed line") in ([], [None]), "`say` gives nothing")
        host.errors.seek(0)
        said = "\n".join(host.logs) + host.errors.read().decode("utf-8", "replace")
        same(said.count("\u00e4 printed line"), 2)


def calls_may_be_sent_ahead(command):
    with Host(command) as host:
        frames = [call_frame("echo", {"one": n}, n, 4, {}) for n in range(1, 6)]
        host.write(b"".join(framed(json.dumps(frame).encode()) for frame in frames))
        got = sorted((frame["id"], frame["type"]) for frame in (host.next() or {} for _ in range(10)))
        same(got, sorted((n, kind) for n in range(1, 6) for kind in ("output", "done")))


def a_frame_may_arrive_in_pieces_and_its_members_in_any_order(command):
    with Host(command) as host:
        body = b'{ "batch" : {"one": "\\ud83d\\ude00"},\n "params":{},"function":"echo",'
        body += b'"epoch":0,"attempt":1,"credit":1,"id":1,"type":"call"}'
        for byte in framed(body):
            host.write(bytes([byte]))
        same(host.outputs(), [{"one": "😀"}])


def a_large_batch_comes_back(command):
    batch = {"many": [{"text": "x" * 1000, "n": n} for n in range(8000)]}
    with Host(command) as host:
        same(host.result("echo", batch), [batch])


def what_is_no_frame_ends_the_worker(command):
    for data in (b"\xff\xff\xff\xff", framed(b"{"), framed(b'{"type": "sing"}'), framed(b"[1]"), framed(b'"\xff"')):
        with Host(command) as host:
            host.write(data)
            host.expect_end(5)


def signs_of_life_come_also_while_a_function_runs(command):
    with Host(command, heartbeat=100) as host:
        host.result("nap", seconds=1)
        expect(host.beats >= 4, "%d heartbeats in 1 s, one each 100 ms was asked for" % host.beats)


def the_end_of_input_ends_the_worker_idle_or_not(command):
    with Host(command) as host:
        host.close_input()
        host.expect_end(3)
    with Host(command) as host:
        host.call("nap", seconds=60)
        expect(host.next(0.3) is None, "`nap` must not have ended")
        host.close_input()
        host.expect_end(3)


RULES = (
    start_is_answered_by_hello, another_version_is_refused_with_both_named,
    a_function_that_is_not_there_is_refused_at_start, none_one_and_many_keep_their_shape, values_come_back_exactly,
    params_and_the_pipeline_reach_the_function, a_stream_is_numbered_and_ended, no_more_outputs_than_the_host_takes,
    a_cancelled_stream_ends_and_the_next_call_runs, a_failure_has_its_reason_and_the_next_call_runs,
    a_storage_is_read_through_the_host, a_storage_that_is_away_is_a_failure_of_its_kind,
    a_storage_is_written_through_the_host, what_is_printed_does_not_touch_the_frames, calls_may_be_sent_ahead,
    a_frame_may_arrive_in_pieces_and_its_members_in_any_order, a_large_batch_comes_back,
    what_is_no_frame_ends_the_worker, signs_of_life_come_also_while_a_function_runs,
    the_end_of_input_ends_the_worker_idle_or_not)


def main(arguments):
    if "--" not in arguments or not arguments[arguments.index("--") + 1:]:
        print(__doc__)
        return 2
    options, command = arguments[:arguments.index("--")], arguments[arguments.index("--") + 1:]
    only = options[1] if options[:1] == ["--only"] and len(options) == 2 else ""
    failed = 0
    for rule in RULES:
        name = rule.__name__.replace("_", " ")
        if only in name:
            try:
                rule(command)
                print("ok    %s" % name)
            except (Broken, EOFError, OSError, ValueError, KeyError) as error:
                failed += 1
                print("FAIL  %s: %s" % (name, error or type(error).__name__))
            sys.stdout.flush()
    print("%d of the rules not kept" % failed if failed else "all rules kept")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
