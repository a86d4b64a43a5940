"""The works, done by greenlet and gevent; see bench/README.md.

The protocol is that of _rounds.ts: `<work> <count>` as arguments, one round for every line
on standard input, its milliseconds on standard output.
"""

import sys
import time

import gevent
from greenlet import greenlet

SLEEPERS = 10


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


WORKS = {
    "switch": switching,
    "create": create_run_and_die,
    "spawn": spawn_and_join,
    "sleep": sleeping,
}


def main():
    work, count = WORKS[sys.argv[1]], int(sys.argv[2])
    for _ in sys.stdin:
        start = time.perf_counter()
        work(count)
        print((time.perf_counter() - start) * 1000, flush=True)


main()
