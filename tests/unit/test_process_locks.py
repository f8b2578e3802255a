"""Locks between threads and forked processes."""

from __future__ import annotations

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

from perun_hpc.process import child
from perun_hpc.process.locks import Locks


def test_one_at_a_time_has_a_lock_and_another_one_is_anybodys() -> None:
    locks, has = Locks(2), threading.Event()

    def second() -> None:
        with locks.hold(1):
            has.set()

    with ThreadPoolExecutor(1) as pool:
        with locks.hold(1):
            waiting = pool.submit(second)
            with locks.hold(0):
                assert not has.wait(0.2)
        waiting.result(10)
    assert has.is_set()
    locks.close()


def test_a_process_that_is_killed_holds_none_any_more() -> None:
    locks, (reading, writing) = Locks(1), os.pipe()

    def hold() -> None:
        with locks.hold(0):
            os.write(writing, b"1")
            signal.pause()

    holder = child.start("holder", hold, (*locks.fds, writing))
    assert os.read(reading, 1) == b"1"
    has = threading.Event()

    def wait() -> None:
        with locks.hold(0):
            has.set()

    thread = threading.Thread(target=wait)
    thread.start()
    assert not has.wait(0.2)
    holder.kill()
    thread.join(10)
    assert has.is_set() and holder.wait() == -signal.SIGKILL
    for fd in (reading, writing):
        os.close(fd)
    locks.close()
