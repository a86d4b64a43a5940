"""The works, done by greenlet and gevent; see bench/README.md.

The protocol is that of _rounds.ts: `<work> <count>` as arguments, one round for every line
on standard input, its milliseconds on standard output, or what the work has measured itself.
"""

import gc
import os
import sys
import time

import gevent
from gevent.pool import Pool
from gevent.queue import Queue
from greenlet import greenlet

SLEEPERS = 10
WORKERS = 100
LONG = 86_400


def switch_to(other, count):
    switch = other.switch
    for _ in range(count):
        switch()


def switching(count):
    one = greenlet(lambda: switch_to(two, count // 2))
    two = greenlet(lambda: switch_to(one, count // 2))
    one.switch()


def nothing():
    pass


def create_run_and_die(count):
    for _ in range(count):
        greenlet(nothing).switch()


def spawn_and_join(count):
    gevent.joinall([gevent.spawn(nothing) for _ in range(count)])


def sleeper(count):
    for _ in range(count):
        gevent.sleep(0)


def sleeping(count):
    gevent.joinall([gevent.spawn(sleeper, count // SLEEPERS) for _ in range(SLEEPERS)])


def put_all(queue, count):
    for i in range(count):
        queue.put(i)


def get_all(queue, count):
    for _ in range(count):
        queue.get()


def hand_off(count):
    queue = Queue(1)
    gevent.joinall([gevent.spawn(put_all, queue, count), gevent.spawn(get_all, queue, count)])


def same(item):
    return item


def map_by_pool(count):
    Pool(WORKERS).map(same, range(count))


def sleep_long():
    gevent.sleep(LONG)


def sleepers(count):
    """Gives greenlets that are all asleep."""
    greenlets = [gevent.spawn(sleep_long) for _ in range(count)]
    gevent.sleep(0)
    return greenlets


def kill_sleepers(count):
    greenlets = sleepers(count)
    start = time.perf_counter()
    gevent.killall(greenlets)
    return (time.perf_counter() - start) * 1000


# Those of earlier rounds sleep on: memory that was given back would be used again.
asleep = []


def resident_bytes():
    """How much memory the process has, without what is garbage."""
    gc.collect()
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def sleepers_memory(count):
    before = resident_bytes()
    asleep.append(sleepers(count))
    return resident_bytes() - before


WORKS = {
    "switch": switching,
    "create": create_run_and_die,
    "spawn": spawn_and_join,
    "sleep": sleeping,
    "queue": hand_off,
    "map": map_by_pool,
    "kill": kill_sleepers,
    "memory": sleepers_memory,
}


def main():
    work, count = WORKS[sys.argv[1]], int(sys.argv[2])
    for _ in sys.stdin:
        start = time.perf_counter()
        measured = work(count)
        print((time.perf_counter() - start) * 1000 if measured is None else measured, flush=True)


main()
