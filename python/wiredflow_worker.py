"""Wiredflow's Python worker: calls a user's functions for a host, by the worker protocol on fd 0 and fd 1.

Wiredflow starts it by itself; by hand: `python3 wiredflow_worker.py`, then frames (docs/worker-protocol.md).
Python 3.8 or newer, standard library only. `Worker` takes calls, `Function` knows how each role is called,
then come values to JSON, frames, and what keeps the process in good order.
"""

import atexit
import collections
import contextlib
import faulthandler
import importlib.util
import inspect
import io
import itertools
import json
import logging
import math
import os
import select
import signal
import sys
import threading
import time
import traceback
import types

from wiredflow_machine import Clock, end_process, end_with_host

VERSION = 1
FRAME_LIMIT = 64 << 20  # bytes of a frame from the host
TEXT_LIMIT = 16 << 10  # characters of a printed line or of a message, the rest is cut
TRACE_LIMIT = 64 << 10  # characters of a traceback
SHIM = (lambda: None).__code__.co_filename  # how this file is named in tracebacks
MODULES = {}  # the user's files that are imported, by path
PARAMETER = inspect.Parameter
DATA = frozenset([type(None), bool, int, float, str, list, tuple, dict])  # what most functions return


class Plain(Exception):
    """An error whose message says it all: neither its type nor a traceback would help."""


class StorageError(Exception):
    """A storage could not be read or written."""

    kind = "data"


class Ended(BaseException):
    """The host has gone, or has said what the protocol does not allow."""


class Worker:
    """Makes the functions ready, then takes one call after the other."""

    def __init__(self, channel):
        self.channel = channel
        self.functions = {}
        self.current = None  # the call that runs
        self.calls = collections.deque()  # the calls that wait
        self.replies = {}  # answers to loads and saves, by id
        self.numbers = itertools.count(1)  # of loads and saves
        self.waiting = 0  # threads in `wait`
        self.reading = threading.Lock()
        self.loop = None  # for async functions, made with the first
        self.lines = Lines(self)
        self.clock = Clock()

    def serve(self):
        start = self.channel.receive()
        if start["type"] != "start":
            raise Ended("the first frame must be `start`, not `%s`" % start["type"])
        if start["version"] != VERSION:
            message = "the host speaks version %s of the worker protocol, the worker version %s; use one release for both"
            self.channel.send(failure(None, "config", message % (start["version"], VERSION)))
            return
        self.channel.limit = start["limit"]
        try:
            if start.get("folder"):
                os.chdir(start["folder"])
            for declared in start["functions"]:
                self.functions[declared["name"]] = Function(self, declared)
        except BaseException as error:
            self.channel.send(failure(None, "config", describe(error), trace_of(error)))
            return
        self.channel.send(encoded(type="hello", version=VERSION, functions=list(self.functions), slots=1))
        threading.Thread(target=self.watch, args=(start.get("heartbeat"),), daemon=True).start()
        while True:
            self.wait(self.calls.__len__)
            self.run(self.calls.popleft())

    def run(self, call):
        self.current = call
        self.clock.reset()
        try:
            ending = self.answer(call)
        except Ended:
            raise
        except BaseException as error:
            self.clock.end()
            kind = error.kind if isinstance(error, StorageError) else "data"
            ending = failure(call.id, kind, describe(error), trace_of(error), self.clock)
        if self.lines.part:
            self.lines.write(b"\n")
        self.current = None
        self.channel.send(ending)

    def answer(self, call):
        """Calls the function and sends what it yields; returns the frames that end the call."""
        function = self.functions.get(call.function)
        if function is None:
            known = ", ".join("`%s`" % name for name in self.functions)
            return failure(call.id, "config", "there is no function `%s` here; there is: %s" % (call.function, known))
        call.clock = clock = self.clock
        clock.begin()
        result = function(call.params, call.batch)
        if type(result) not in DATA:
            result = self.complete(result) if inspect.iscoroutine(result) else result
            result = self.items_of(result) if inspect.isasyncgen(result) else result
            if inspect.isgenerator(result):
                with contextlib.closing(result):
                    self.stream(call, function, result)
                return done(call)
        clock.end()
        return self.output(call, result) + done(call) if function.gives else done(call)

    def stream(self, call, function, items):
        """Sends each item as soon as it is there, but no more of them than the host takes."""
        clock = call.clock
        for item in items:
            clock.end()
            if function.gives:
                self.wait(lambda: call.credit > 0 or call.cancelled)
            with self.reading:
                while self.channel.has_input():
                    self.handle(self.channel.receive())
            if call.cancelled:
                return
            if function.gives:
                self.channel.send(self.output(call, item))
            clock.begin()
        clock.end()

    def output(self, call, value):
        frame = encoded_output(call.id, call.seq, value)
        if len(frame) - 4 > self.channel.limit:
            message = "the output is %d bytes as JSON, over the limit of %d; give it in parts with `yield`"
            raise Plain(message % (len(frame) - 4, self.channel.limit))
        call.seq += 1
        call.credit -= 1
        return frame

    def complete(self, awaitable):
        import asyncio

        if self.loop is None:  # one loop for all calls, so that what belongs to it may outlive a call
            self.loop = asyncio.new_event_loop()
            asyncio.set_event_loop(self.loop)
        return self.loop.run_until_complete(awaitable)

    def items_of(self, generator):
        try:
            while True:
                yield self.complete(generator.__anext__())
        except StopAsyncIteration:
            return
        finally:
            self.complete(generator.aclose())

    def ask(self, kind, **fields):
        """One load or save: sends the request, returns the host's answer."""
        if self.channel.forked:
            raise StorageError("a storage is reached from the worker's own process only, not from a fork of it")
        number, call = next(self.numbers), self.current
        self.channel.send(encoded(type=kind, id=number, call=call and call.id, **fields))
        self.wait(lambda: number in self.replies)
        reply = self.replies.pop(number)
        if reply["type"] == "error":
            error = StorageError(reply["message"])
            error.kind = reply["kind"]
            raise error
        return reply

    def wait(self, ready):
        """Handles the host's frames until `ready()`; any thread may do it for all."""
        while not ready():
            self.waiting += 1
            with self.reading:
                if not ready():
                    self.handle(self.channel.receive())
            self.waiting -= 1
            if self.waiting:
                time.sleep(0.001)  # lets the other thread look whether the frame was its answer

    def handle(self, frame):
        kind = frame["type"]
        if kind == "call":
            self.calls.append(types.SimpleNamespace(seq=0, cancelled=False, **frame))
        elif kind in ("rows", "saved", "error"):
            self.replies[frame["id"]] = frame
        elif kind in ("more", "cancel"):
            for call in (self.current, *self.calls):
                if call and call.id == frame["id"]:
                    call.credit += frame.get("count", 0)
                    call.cancelled |= kind == "cancel"
        elif kind != "heartbeat":
            raise Ended("a frame of type `%s` is not known here" % kind)

    def watch(self, heartbeat):
        """Ends the process when the host has gone, also while a function runs; gives signs of life if asked to."""
        end_of_input = select.poll()
        end_of_input.register(self.channel.input, getattr(select, "POLLRDHUP", 0))  # frames do not wake it
        while not end_of_input.poll(heartbeat):
            self.channel.send(encoded(type="heartbeat"))
        if self.current is None:
            time.sleep(1)  # the main thread has seen it too, and ends in good order
        end_process()


class Function:
    """A user's function, and the way in which its role wants it to be called."""

    def __init__(self, worker, declared):
        role = declared["role"]
        self.call = load_function(declared["source"])
        self.gives = role not in ("store", "send")
        self.needs_data = role in ("store", "send", "preprocess")
        storages = {name: Storage(worker, name) for name in declared.get("storages", ())}
        known = {"pipeline_name": declared.get("pipeline", ""), "db_connectors": Storages(storages)}
        if role == "configuration":
            known = dict(storages, **known)
        # `**params` takes them where upstream gave them; elsewhere the function must name them.
        by_rest = role in ("core_logic", "configuration")
        self.always = {name: value for name, value in known.items() if self.takes(name, by_rest)}
        self.data_by_name = role == "core_logic" and self.takes("relevant_info", True)
        self.data_place = self.place_of_data() if role == "core_logic" and not self.data_by_name else None

    def __call__(self, params, batch):
        if batch is None and self.needs_data:
            return None
        named = dict(self.always, **params)
        if self.data_by_name:
            named["relevant_info"] = records(batch)
        if self.needs_data or (self.data_place and self.data_place not in named):
            return self.call(records(batch), **named)
        return self.call(**named)

    def takes(self, name, by_rest):
        kinds = {parameter.name: parameter.kind for parameter in self.parameters()}
        if by_rest and PARAMETER.VAR_KEYWORD in kinds.values():
            return True
        return kinds.get(name) in (PARAMETER.POSITIONAL_OR_KEYWORD, PARAMETER.KEYWORD_ONLY)

    def place_of_data(self):
        """The first parameter of a core logic without `relevant_info`, where nothing else would fill it."""
        first = next(iter(self.parameters()), None)
        places = (PARAMETER.POSITIONAL_ONLY, PARAMETER.POSITIONAL_OR_KEYWORD)
        return first.name if first and first.kind in places and first.default is first.empty else None

    def parameters(self):
        with contextlib.suppress(TypeError, ValueError):  # some functions written in C do not tell
            return list(inspect.signature(self.call).parameters.values())
        return []


class Storages(dict):
    """The flow's storages by name, as `db_connectors`."""

    def __missing__(self, name):
        raise KeyError("no storage `%s`; there is: %s" % (name, ", ".join(sorted(self)) or "none"))


class Storage:
    """One storage, which its owner reads and writes for us."""

    def __init__(self, worker, name):
        self.worker, self.name = worker, name

    def load(self, limit=None):
        """A list of dicts, oldest first; one dict for `mapping: update`; None when nothing is stored."""
        query = {} if limit is None else {"limit": limit}
        return records(self.worker.ask("load", storage=self.name, query=query)["batch"])

    def save(self, data):
        """Stores a dict or a list of dicts; they are safe when it returns."""
        if data is not None:
            self.worker.ask("save", storage=self.name, batch=dict([shaped(data)]))


def load_function(source):
    """Imports FILE of `FILE:NAME`, with its folder on sys.path, and returns the function NAME of it."""
    file, _, name = source.rpartition(":")
    path = os.path.abspath(file)
    if not os.path.isfile(path) or not path.endswith(".py"):
        raise Plain("there is no Python file `%s` in `%s`" % (file, os.getcwd()))
    if path not in MODULES:
        folder, module_name = os.path.dirname(path), os.path.basename(path)[:-3]
        if folder not in sys.path:
            sys.path.insert(0, folder)
        if module_name in sys.modules:  # a file called `json.py` must not take the place of Python's own
            module_name = "wiredflow_user_" + module_name
        spec = importlib.util.spec_from_file_location(module_name, path)
        sys.modules[module_name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        MODULES[path] = module
    found = MODULES[path]
    for part in name.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        import difflib

        names = [other for other, value in vars(MODULES[path]).items() if inspect.isfunction(value)]
        near = difflib.get_close_matches(name, names, 1)
        hint = "did you mean `%s`?" % near[0] if near else "it has: %s" % (", ".join(names) or "none")
        raise Plain("`%s` has no function `%s`; %s" % (file, name, hint))
    return found


def records(batch):
    """What a function sees of a batch: None, one record, or a list."""
    if batch is None:
        return None
    return batch["many"] if "many" in batch else batch["one"]


def shaped(value):
    """A function's output as a batch: `many` and the list, or `one` and the record."""
    if type(value) not in DATA and (isinstance(value, (set, frozenset)) or hasattr(value, "tolist")):
        value = plain(value)
    return ("many" if isinstance(value, (list, tuple)) else "one"), value


def plain(value):
    """What stands in JSON for a value that JSON does not have."""
    if isinstance(value, (set, frozenset)):
        return list(value)
    if hasattr(value, "isoformat"):  # dates and times
        return value.isoformat()
    if hasattr(value, "tolist"):  # numpy's arrays and numbers
        return value.tolist()
    if type(value).__module__ in ("decimal", "uuid") or isinstance(value, os.PathLike):
        return str(value)
    if isinstance(value, collections.abc.Mapping):
        return dict(value)
    raise TypeError("a `%s` cannot become JSON" % type(value).__name__)


from_json = json.JSONDecoder().decode
to_json = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, check_circular=False, separators=(",", ":"), default=plain).encode


def encoded(**frame):
    return with_length(to_json(frame))


def with_length(text):
    body = text.encode("utf-8")
    return len(body).to_bytes(4, "big") + body


def encoded_output(call, seq, value):
    try:
        batch = "null"
        if value is not None:
            shape, value = shaped(value)
            batch = '{"%s":%s}' % (shape, to_json(value))
        return with_length('{"type":"output","id":%d,"seq":%d,"batch":%s}' % (call, seq, batch))
    except (TypeError, ValueError, RecursionError) as error:
        raise Plain(problem(value) or "the output cannot become JSON: %s" % error) from None


def problem(value, path="", depth=0):
    """Says where an output has what JSON cannot hold; slow, for errors only."""
    if depth > 120:
        return "the output is nested deeper than 120 levels, or holds itself"
    trouble, inside = None, ()
    if isinstance(value, float) and not math.isfinite(value):
        trouble = "is %r, which JSON does not have; give None or leave it out" % value
    elif isinstance(value, str):
        if any("\ud800" <= character <= "\udfff" for character in value):
            trouble = "has half a surrogate pair, which is no text; decode with errors='replace'"
    elif isinstance(value, dict):
        for key in value:
            if not isinstance(key, (str, int, float, type(None))):
                trouble = "has a key of type `%s`; keys must be text" % type(key).__name__
        inside = [("%s.%s" % (path, key), item) for key, item in value.items()]
        inside += [(path + " key", key) for key in value]
    elif isinstance(value, (list, tuple)):
        inside = [("%s[%d]" % (path, index), item) for index, item in enumerate(value)]
    elif not isinstance(value, (int, float, type(None))):
        try:
            inside = [(path, plain(value))]
        except Exception:
            trouble = "is a `%s`; give dicts, lists, text, numbers, True, False or None" % type(value).__name__
    if trouble:
        return "the output%s %s" % (" at `%s`" % path.lstrip(".") if path else "", trouble)
    return next(filter(None, (problem(item, where, depth + 1) for where, item in inside)), None)


def done(call):
    clock = call.clock
    used = (call.id, clock.wall, clock.cpu, clock.delay)
    return with_length('{"type":"done","id":%d,"used":{"wall":%d,"cpu":%d,"delay":%d}}' % used)


def failure(number, kind, message, trace=None, clock=None):
    frame = {"type": "error", "id": number, "kind": kind, "message": sendable(message, TEXT_LIMIT), "trace": trace}
    if clock:
        frame["used"] = {"wall": clock.wall, "cpu": clock.cpu, "delay": clock.delay}
    return with_length(to_json(frame))


def sendable(text, limit):
    """Cut in the middle when it is too long, and without what is no text."""
    if len(text) > limit:
        text = "%s … (%d characters cut) … %s" % (text[:limit // 2], len(text) - limit, text[-limit // 2:])
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def describe(error):
    if isinstance(error, (Plain, StorageError)):
        return str(error)
    if isinstance(error, SystemExit):
        return "the function called sys.exit(%s); let it return or raise instead" % (error.code or "")
    return traceback.format_exception_only(type(error), error)[-1].strip()


def trace_of(error):
    """The traceback with the user's frames only."""
    if isinstance(error, Plain):
        return None
    summary = traceback.TracebackException(type(error), error, error.__traceback__)
    parts = [summary]
    while parts:
        part = parts.pop()
        part.stack[:] = [frame for frame in part.stack if not frame.filename.startswith((SHIM, "<frozen "))]
        parts += filter(None, [part.__cause__, part.__context__, *(getattr(part, "exceptions", None) or ())])
    return sendable("".join(summary.format()).rstrip("\n"), TRACE_LIMIT)


class Channel:
    """The frames, on file descriptors that no print and no child process can reach."""

    def __init__(self):
        self.input, self.output = os.dup(0), os.dup(1)  # not inheritable
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
        os.dup2(2, 1)
        self.rest = b""  # what was read beyond a frame
        self.limit = FRAME_LIMIT
        self.forked = False
        self.lock = threading.RLock()
        self.queue = collections.deque()
        self.writing = False
        os.register_at_fork(after_in_child=self.leave)

    def leave(self):
        """In a fork of the process: the protocol is not for it, and what it prints goes to stderr."""
        self.forked = True
        self.lock = threading.RLock()
        faulthandler.unregister(signal.SIGTERM)
        os.close(self.input)
        os.close(self.output)

    def receive(self):
        body = self.read_body()
        try:
            frame = from_json(body.decode("utf-8"))
            return frame if "type" in frame else {"type": None}
        except (ValueError, TypeError, RecursionError) as error:
            raise Ended("a frame cannot be read: %s" % error) from None

    def read_body(self):
        data, end = self.rest, 0
        while True:
            if not end and len(data) >= 4:
                end = 4 + int.from_bytes(data[:4], "big")
                if end > 4 + FRAME_LIMIT:
                    raise Ended("a frame of %d bytes is over the limit of %d bytes" % (end - 4, FRAME_LIMIT))
            if end and len(data) >= end:
                self.rest = bytes(data[end:])
                return data[4:end]
            self.check_fork()
            more = os.read(self.input, 1 << 16)
            if not more:
                raise Ended
            data = bytearray(data) if data and isinstance(data, bytes) else data  # grows without copies
            data += more

    def has_input(self):
        return self.rest or select.select([self.input], [], [], 0)[0]

    def send(self, frames):
        self.check_fork()
        with self.lock:
            self.queue.append(frames)
            if self.writing:
                return  # a signal handler or a __del__ that prints in the middle of a write
            self.writing = True
            try:
                while self.queue:
                    frames = self.queue.popleft()
                    written = os.write(self.output, frames)
                    while written < len(frames):
                        written += os.write(self.output, memoryview(frames)[written:])
            except BrokenPipeError:
                raise Ended from None
            finally:
                self.writing = False

    def check_fork(self):
        if self.forked:
            os._exit(1)  # a fork that came back from the user's function has nothing more to do


class Lines(io.RawIOBase):
    """Under sys.stdout: each line that is printed becomes a line of the log."""

    def __init__(self, worker):
        super().__init__()
        self.worker = worker
        self.part = b""
        self.lock = threading.RLock()

    def writable(self):
        return True

    def fileno(self):
        return 1

    def write(self, data):
        with self.lock:
            lines = (self.part + bytes(data)).split(b"\n")
            self.part = lines.pop()[:4 * TEXT_LIMIT]
        for line in lines:
            self.log("info", line.decode("utf-8", "backslashreplace"))
        return len(data)

    def log(self, level, text):
        text = sendable(text, TEXT_LIMIT)
        if self.worker.channel.forked:
            os.write(2, text.encode("utf-8") + b"\n")
            return
        call = self.worker.current
        self.worker.channel.send(encoded(type="log", level=level, message=text, id=call and call.id))


def take_over_logging(lines):
    """What Python's logging would write to stdout or stderr becomes lines of the log, the levels kept."""
    original = logging.StreamHandler.emit

    def emit(handler, record):
        if handler.stream not in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
            return original(handler, record)
        try:
            words = ((logging.ERROR, "error"), (logging.WARNING, "warn"), (logging.INFO, "info"), (0, "debug"))
            lines.log(next(word for level, word in words if record.levelno >= level), handler.format(record))
        except Exception:
            handler.handleError(record)

    logging.StreamHandler.emit = emit


def main():
    end_with_host()
    faulthandler.enable(2)
    # A function that hangs is told SIGTERM: where it hangs goes to stderr, and the process ends.
    faulthandler.register(signal.SIGTERM, 2, all_threads=False, chain=True)
    channel = Channel()
    worker = Worker(channel)
    sys.stdout = io.TextIOWrapper(worker.lines, "utf-8", "backslashreplace", line_buffering=True, write_through=True)
    take_over_logging(worker.lines)
    atexit.register(end_process)  # registered first, so it runs last
    try:
        worker.serve()
    except Ended as end:
        if end.args:
            channel.send(failure(None, "bug", "the host broke the worker protocol: %s" % end))


if __name__ == "__main__":
    main()
