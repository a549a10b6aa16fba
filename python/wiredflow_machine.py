"""What the worker has to do with the machine: what a call uses of it, and how its process ends."""

import contextlib
import os
import signal
import sys
import time

PROCESS = os.getpid()


class Clock:
    """What a call uses, in nanoseconds: time, CPU of all threads, and time in which it was ready and had no core."""

    LONG = 1000000  # the run delay is read around what takes longer: it costs some microseconds

    def __init__(self):
        self.file = None
        with contextlib.suppress(OSError):
            self.file = os.open("/proc/self/schedstat", os.O_RDONLY | os.O_CLOEXEC)
        self.known = self.run_delay()
        self.running = self.was_long = False
        self.wall = self.cpu = self.delay = 0

    def reset(self):
        self.running = False
        self.wall = self.cpu = self.delay = 0

    def begin(self):
        if self.was_long:
            self.known = self.run_delay()
        self.running = True
        self.since, self.cpu_since = time.perf_counter_ns(), time.process_time_ns()

    def end(self):
        if not self.running:
            return
        self.running = False
        wall = time.perf_counter_ns() - self.since
        self.wall += wall
        self.cpu += time.process_time_ns() - self.cpu_since
        self.was_long = wall > self.LONG
        if self.was_long:
            now = self.run_delay()
            self.delay += max(now - self.known, 0)
            self.known = now

    def run_delay(self):
        with contextlib.suppress(OSError, TypeError, ValueError, IndexError):
            return int(os.pread(self.file, 96, 0).split()[1])
        return 0


def end_with_host():
    """Ends the process soon after the host's, though a function written in C never lets Python's threads run again.

    The kernel sends SIGHUP when the host dies, and the handler is alarm(), given the signal's number: one second for
    `Worker.watch` to end the whole process group, then SIGALRM ends at least this process.
    """
    try:
        import ctypes

        libc = ctypes.CDLL(None)
        libc.signal.argtypes, libc.signal.restype = [ctypes.c_int, ctypes.c_void_p], ctypes.c_void_p
        libc.signal(int(signal.SIGHUP), ctypes.cast(libc.alarm, ctypes.c_void_p))
        libc.prctl(1, int(signal.SIGHUP), 0, 0, 0)  # PR_SET_PDEATHSIG
    except (ImportError, OSError, AttributeError):
        pass  # not Linux: the end of the input has to do


def end_process():
    """Ends this process and, where it leads its process group, all that the user's functions have started."""
    if os.getpid() != PROCESS:
        return  # a fork that ends
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        if os.getpgrp() == PROCESS:
            os.killpg(PROCESS, signal.SIGKILL)
        os._exit(0)
