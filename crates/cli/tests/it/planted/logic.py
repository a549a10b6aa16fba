"""The functions of the planted flows: each costs what its params say, for each record."""
import time

began = time.monotonic()


def each(relevant_info):
    return relevant_info if isinstance(relevant_info, list) else [relevant_info]


def spin(seconds):
    """Uses so much CPU, however long that takes."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        sum(range(500))


def make(relevant_info=None, count=100000, pause=0, work=0, **_):
    for number in range(count):
        time.sleep(pause)
        spin(work)
        yield {"n": number}


def configure(count=100000, **_):
    for number in range(count):
        yield {"query": {"n": number}}


def wait(relevant_info=None, seconds=0, **_):
    for _one in each(relevant_info):
        time.sleep(seconds)
    return relevant_info


def burn(relevant_info=None, seconds=0, **_):
    for _one in each(relevant_info):
        spin(seconds)
    return relevant_info


def hang(relevant_info=None, after=0, **_):
    if time.monotonic() - began > after:
        time.sleep(12)
    return relevant_info


def change(relevant_info=None, at=0, before=0, then=0, **_):
    """Slow before that second or after it."""
    for _one in each(relevant_info):
        time.sleep(before if time.monotonic() - began < at else then)
    return relevant_info


def write(data, seconds=0, **_):
    time.sleep(seconds)


def tick(relevant_info=None, seconds=0, work=0, **_):
    time.sleep(seconds)
    spin(work)
    return {"n": 1}
