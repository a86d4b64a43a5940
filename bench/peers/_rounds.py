"""What the peers in Python share: the protocol with bench/run.ts; see _rounds.ts."""

import json
import sys
import time

FEW = 10
MANY = 1_000
WORKERS = 100
PERMITS = 10
CHAIN = 1_000
WAITERS = 10_000
TIMEOUTS = 1_000
LONG = 86_400
LONGEST_SLEEP = 1_000


class Clock:
    """Takes the time of a round, from its beginning to its end unless told otherwise."""

    def __init__(self):
        self.measured = None

    def start(self):
        self.cpu = time.process_time()
        self.wall = time.perf_counter()

    def stop(self):
        if self.measured is None:
            ms = (time.perf_counter() - self.wall) * 1000
            self.measured = {"ms": ms, "cpu": (time.process_time() - self.cpu) * 1000}


def check(found, expected, what):
    """Throws if a result is not what it has to be."""
    if found != expected:
        raise ValueError(f"wrong result: {what}: {found} instead of {expected}")


def sum_below(count):
    return count * (count - 1) // 2


def sleep_times(count):
    """How many seconds each sleeper sleeps: as if by chance, and the same everywhere."""
    return [
        (1 + (i * 2654435761 & 0xFFFFFFFF) % LONGEST_SLEEP) / 1000 for i in range(count)
    ]


def answer_lines(answer):
    """Prints an answer to every line on standard input."""
    for _ in sys.stdin:
        try:
            measured = answer()
        except Exception as error:
            measured = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(measured), flush=True)


def serve_rounds(works):
    """Does the work that the arguments name, `<work> <count> [size]`, for every line."""
    work, numbers = works[sys.argv[1]], [int(arg) for arg in sys.argv[2:]]

    def answer():
        clock = Clock()
        clock.start()
        bytes_added = work(numbers[0], clock, *numbers[1:])
        clock.stop()
        if bytes_added is not None:
            clock.measured["bytes"] = bytes_added
        return clock.measured

    answer_lines(answer)
