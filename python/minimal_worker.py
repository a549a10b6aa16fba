"""The whole worker protocol (docs/worker-protocol.md) in as few lines as it takes: a start for a worker in your language.

    python3 conformance.py -- python3 minimal_worker.py

It has one slot. Functions get `relevant_info`, `db_connectors`, `pipeline_name` and their params.
"""

import importlib.util, inspect, json, os, queue, struct, sys, threading, time, traceback  # noqa: E401

FRAMES = os.fdopen(os.dup(1), "wb")
os.dup2(2, 1)  # what functions print goes to standard error, whose lines are logged
LOCK, CALLS, ANSWERS, STATE = threading.Lock(), queue.Queue(), queue.Queue(), {"call": None, "credit": 0, "closed": set()}
CREDIT = threading.Condition()


def send(**frame):
    body = json.dumps(frame, allow_nan=False).encode()
    with LOCK:
        FRAMES.write(struct.pack(">I", len(body)) + body)
        FRAMES.flush()


def next_frame(limit):
    """The next one; none at the end of the stream, or where there is no frame."""
    size = int.from_bytes(sys.stdin.buffer.read(4), "big")
    return json.loads(sys.stdin.buffer.read(size)) if 0 < size <= limit else None


def read():
    """Takes frames until the host has gone; what is no frame ends this process, and so does the end."""
    try:
        while frame := next_frame(START["limit"]):
            kind = frame["type"]
            if kind == "call":
                CALLS.put(frame)
            elif kind in ("rows", "saved", "error"):
                ANSWERS.put(frame)
            elif kind in ("more", "cancel"):
                with CREDIT:
                    if kind == "cancel":
                        STATE["closed"].add(frame["id"])
                    elif frame["id"] == STATE["call"]:
                        STATE["credit"] += frame["count"]
                    CREDIT.notify()
            else:
                break
    finally:
        os._exit(0)


class Failed(Exception):
    """What the host has answered to a load or save: (kind, message)."""


class Storage:
    numbers = iter(range(1, 1 << 62))

    def __init__(self, name):
        self.name = name

    def ask(self, **question):
        send(id=next(self.numbers), storage=self.name, call=STATE["call"], **question)
        answer = ANSWERS.get()
        if answer["type"] == "error":
            raise Failed(answer["kind"], answer["message"])
        return answer.get("batch")

    def load(self, limit=None):
        batch = self.ask(type="load", query={} if limit is None else {"limit": limit})
        return batch and next(iter(batch.values()))

    def save(self, data):
        self.ask(type="save", batch=shaped(data))


def shaped(data):
    return None if data is None else {"many": data} if isinstance(data, list) else {"one": data}


def run(call):
    function = FUNCTIONS[call["function"]]
    batch = call["batch"] and next(iter(call["batch"].values()))
    storages = {name: Storage(name) for name in function["storages"]}
    made = function["code"](
        relevant_info=batch, db_connectors=storages, pipeline_name=function["pipeline"], **call["params"])
    outputs = made if inspect.isgenerator(made) else iter([made])
    for seq, output in enumerate(outputs):
        with CREDIT:
            CREDIT.wait_for(lambda: STATE["credit"] > 0 or call["id"] in STATE["closed"])
            STATE["credit"] -= 1
        if call["id"] in STATE["closed"]:
            break
        send(type="output", id=call["id"], seq=seq, batch=shaped(output))


def serve(call):
    with CREDIT:
        STATE.update(call=call["id"], credit=call["credit"])
    try:
        run(call)
        send(type="done", id=call["id"])
    except Failed as failed:
        send(type="error", id=call["id"], kind=failed.args[0], message=failed.args[1])
    except Exception as error:
        send(type="error", id=call["id"], kind="data", message=f"{type(error).__name__}: {error}", trace=traceback.format_exc())


def beat(milliseconds):
    while True:
        time.sleep(milliseconds / 1000)
        send(type="heartbeat")


def load(function):
    path, name = function["source"].rsplit(":", 1)
    spec = importlib.util.spec_from_file_location("functions", os.path.join(START.get("folder") or ".", path))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return {"code": getattr(module, name), "pipeline": function.get("pipeline"), "storages": function.get("storages") or []}


try:
    START = next_frame(1 << 20)
    if START["version"] != 1:
        raise ValueError(f"this worker speaks version 1 of the protocol, and not {START['version']}")
    FUNCTIONS = {function["name"]: load(function) for function in START["functions"]}
except Exception as error:
    send(type="error", kind="config", message=str(error))
    sys.exit(1)
if START.get("heartbeat"):
    threading.Thread(target=beat, args=[START["heartbeat"]], daemon=True).start()
threading.Thread(target=read, daemon=True).start()
send(type="hello", version=1, functions=list(FUNCTIONS), slots=1)
while True:
    serve(CALLS.get())
