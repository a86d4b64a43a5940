"""The works, done by greenlet and gevent; see bench/README.md."""

import gc
import os
import time
from functools import partial

import gevent
from gevent.event import Event
from gevent.lock import Semaphore
from gevent.pool import Pool
from gevent.queue import Queue
from greenlet import getcurrent, greenlet

from _rounds import (
    CHAIN,
    FEW,
    LONG,
    MANY,
    PERMITS,
    TIMEOUTS,
    WAITERS,
    WORKERS,
    check,
    serve_rounds,
    sleep_times,
    sum_below,
)


def switch_to(other, count):
    switch = other.switch
    for _ in range(count):
        switch()
    return count


def switching(count, clock):
    one = greenlet(lambda: switch_to(two, count // 2))
    two = greenlet(lambda: switch_to(one, count // 2))
    ones = one.switch()
    clock.stop()
    check(ones + two.switch(), count, "switches")


def link(following):
    value = getcurrent().parent.switch()
    following.switch(value + 1)


def chains(count, _clock):
    for _ in range(count // CHAIN):
        first = getcurrent()
        for _ in range(CHAIN):
            made = greenlet(link)
            made.switch(first)
            first = made
        check(first.switch(0), CHAIN, "the number at the end of the chain")


ran = 0


def nothing():
    global ran
    ran += 1


def check_ran(count):
    global ran
    found, ran = ran, 0
    check(found, count, "bodies that have run")


def create_run_and_die(count, _clock):
    for _ in range(count):
        greenlet(nothing).switch()
    check_ran(count)


def spawn_and_join(count, _clock):
    gevent.joinall([gevent.spawn(nothing) for _ in range(count)])
    check_ran(count)


def in_greenlets(number, body, *args):
    """Spawns greenlets that do the same, and adds up what they give."""
    greenlets = [gevent.spawn(body, *args) for _ in range(number)]
    gevent.joinall(greenlets)
    return sum(made.value for made in greenlets)


def sleeper(count):
    for _ in range(count):
        gevent.sleep(0)
    return count


def sleeping(number, count, _clock):
    check(in_greenlets(number, sleeper, count // number), count, "turns")


def put_all(queue, count):
    for i in range(count):
        queue.put(i)


def get_all(queue, count):
    total = 0
    for _ in range(count):
        total += queue.get()
    return total


def hand_off(count, _clock):
    queue = Queue(1)
    getter = gevent.spawn(get_all, queue, count)
    gevent.joinall([gevent.spawn(put_all, queue, count), getter])
    check(getter.value, sum_below(count), "the sum of the items")


def broadcast(count, clock):
    events = [Event() for _ in range(count // WAITERS)]
    woken = 0
    all_here = Event()

    def waiter():
        """Waits for one event after the other, and tells when it has come to the next."""
        nonlocal woken
        for event in events:
            woken += 1
            if woken % WAITERS == 0:
                all_here.set()
            event.wait()
        woken += 1
        if woken % WAITERS == 0:
            all_here.set()

    waiters = [gevent.spawn(waiter) for _ in range(WAITERS)]
    all_here.wait()
    clock.start()
    for event in events:
        all_here = Event()
        event.set()
        all_here.wait()
    clock.stop()
    gevent.joinall(waiters)
    check(woken, count + WAITERS, "how often somebody has arrived")


class Holders:
    """How many hold the semaphore, and the most that ever have."""

    now = 0
    most = 0


def holder(semaphore, holders, count):
    for _ in range(count):
        with semaphore:
            holders.now += 1
            if holders.now > holders.most:
                holders.most = holders.now
            gevent.sleep(0)
            holders.now -= 1
    return count


def contention(count, _clock):
    holders = Holders()
    in_greenlets(WORKERS, holder, Semaphore(PERMITS), holders, count // WORKERS)
    check(holders.most, PERMITS, "the most that have held the semaphore")


def same(item):
    return item


def same_later(item):
    gevent.sleep(0)
    return item


def map_by_pool(mapped, count, clock):
    results = Pool(WORKERS).map(mapped, range(count))
    clock.stop()
    check(sum(results), sum_below(count), "the sum of results")


def sleep_for(seconds):
    start = time.perf_counter()
    gevent.sleep(seconds)
    return time.perf_counter() - start


def sleeps(count, clock):
    times = sleep_times(count)
    clock.start()
    greenlets = [gevent.spawn(sleep_for, seconds) for seconds in times]
    gevent.joinall(greenlets)
    clock.stop()
    early = sum(made.value < ms - 0.001 for made, ms in zip(greenlets, times))
    check(early, 0, "early ones")


def timeouts(count, clock):
    running = [None] * TIMEOUTS
    for i in range(count):
        before = running[i % TIMEOUTS]
        if before is not None:
            before.close()
        running[i % TIMEOUTS] = gevent.Timeout.start_new(30 + i % 1_000 / 1_000)
    for timeout in running:
        timeout.close()
    clock.stop()
    check(any(timeout.pending for timeout in running), False, "whether one runs")


def limited():
    gevent.sleep(0)
    return 1


def caller(count):
    return sum(gevent.with_timeout(30, limited) for _ in range(count))


def limits(count, _clock):
    check(in_greenlets(WORKERS, caller, count // WORKERS), count, "calls")


asleep = 0


def sleep_long():
    global asleep
    asleep += 1
    try:
        gevent.sleep(LONG)
    finally:
        asleep -= 1


def sleepers(count):
    """Gives greenlets that are all asleep."""
    greenlets = [gevent.spawn(sleep_long) for _ in range(count)]
    gevent.sleep(0)
    check(asleep, count, "how many sleep")
    return greenlets


def kill_sleepers(count, clock):
    greenlets = sleepers(count)
    clock.start()
    gevent.killall(greenlets)
    clock.stop()
    check(asleep, 0, "how many still sleep")


def sleepers_lives(count, _clock, size):
    for _ in range(count // size):
        gevent.killall(sleepers(size))
    check(asleep, 0, "how many still sleep")


def resident_bytes():
    """How much memory the process has, without what is garbage."""
    gc.collect()
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


kept = []


def sleepers_memory(count, clock):
    sleepers_lives(100, clock, 100)  # Loads what is loaded at first use
    before = resident_bytes()
    kept.append(sleepers(count))
    return resident_bytes() - before


serve_rounds(
    {
        "switch": switching,
        "chain": chains,
        "create": create_run_and_die,
        "spawn": spawn_and_join,
        "sleep": partial(sleeping, FEW),
        "sleep-many": partial(sleeping, MANY),
        "queue": hand_off,
        "event": broadcast,
        "semaphore": contention,
        "map": partial(map_by_pool, same),
        "map-waiting": partial(map_by_pool, same_later),
        "sleeps": sleeps,
        "timeouts": timeouts,
        "limit": limits,
        "kill": kill_sleepers,
        "lives": sleepers_lives,
        "memory": sleepers_memory,
    }
)
