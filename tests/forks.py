"""Tests in several processes that one collection serves: ``--forks N``.

The process that collects the tests forks N workers, which find modules imported and tests collected, and
sends them nothing: what is to be run lies in a pipe that all read, in pieces that get smaller. Each worker
sends reports back, which the first process shows as if it had run the tests. Distributing tests to processes
that each collect them cost a third of the time of ``make check``.
"""

import mmap
import os
import struct
import sys
import traceback
from collections.abc import Iterator
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any, Final

import pytest

_PIECE: Final = struct.Struct(">II")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("forks").addoption(
        "--forks", type=int, default=0, metavar="N", help="run the tests in N processes"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    forks: int = session.config.getoption("forks")
    if not forks or session.config.getoption("collectonly") or session.testsfailed or not session.items:
        return None
    _Run(session, forks).run()
    return True


def pieces(count: int, workers: int) -> Iterator[tuple[int, int]]:
    """Yield ranges of ``count`` tests: long ones of neighbours, which share fixtures, and short ones last."""
    start = 0
    while start < count:
        stop = start + max(1, (count - start) // (4 * workers))
        yield start, stop
        start = stop


class _Run:
    """The first process: starts workers, shows their reports, and notices a worker that is lost."""

    def __init__(self, session: pytest.Session, forks: int) -> None:
        self._session = session
        self._forks = forks
        self._left = dict(enumerate(session.items))
        self._stop = mmap.mmap(-1, 1)  # memory that all share; not zero: workers end

    def run(self) -> None:
        capture = self._session.config.pluginmanager.getplugin("capturemanager")
        capture.stop_global_capturing()  # else all would write to one file
        workers = self._start()
        capture.start_global_capturing()
        capture.suspend_global_capture()
        try:
            self._receive(workers)
        except BaseException:
            self._stop[0] = 1
            raise
        finally:
            statuses = [os.waitpid(pid, 0)[1] for pid in workers.values()]
        if self._session.shouldfail:
            raise self._session.Failed(self._session.shouldfail)
        if self._session.shouldstop:
            raise self._session.Interrupted(self._session.shouldstop)
        if any(statuses):  # it has shown why, or its test is reported as failed
            raise self._session.Failed(f"the processes of the tests ended with {statuses}")

    def _start(self) -> dict[Connection, int]:
        read, write = os.pipe()
        for piece in pieces(len(self._left), self._forks):
            os.write(write, _PIECE.pack(*piece))
        os.close(write)
        workers = {}
        for _ in range(self._forks):
            ours, theirs = Pipe(duplex=False)
            if (pid := os.fork()) == 0:
                ours.close()
                _Worker(self._session, read, theirs, self._stop).run()
            theirs.close()
            workers[ours] = pid
        os.close(read)
        return workers

    def _receive(self, workers: dict[Connection, int]) -> None:
        running: dict[Connection, int | None] = dict.fromkeys(workers)
        while running:
            for worker in wait(list(running)):
                assert isinstance(worker, Connection)
                try:
                    ended, reports, running[worker] = worker.recv()
                except EOFError:
                    if (lost := running.pop(worker)) is not None:
                        self._report(lost, [self._failure(lost, "its process was killed or crashed")])
                else:
                    if ended is not None:
                        self._report(ended, reports)
        if not self._session.shouldfail:
            for number in list(self._left):
                self._report(number, [self._failure(number, "it was not run: its process was lost")])

    def _report(self, number: int, reports: list[dict[str, Any]]) -> None:
        item, config = self._left.pop(number), self._session.config
        config.hook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for data in reports:
            report = config.hook.pytest_report_from_serializable(config=config, data=data)
            config.hook.pytest_runtest_logreport(report=report)
        config.hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        if self._session.shouldfail:
            self._stop[0] = 1

    def _failure(self, number: int, why: str) -> dict[str, Any]:
        item, config = self._session.items[number], self._session.config
        report = pytest.TestReport(item.nodeid, item.location, {}, "failed", why, "call")
        data: dict[str, Any] = config.hook.pytest_report_to_serializable(config=config, report=report)
        return data


class _Worker:
    """A forked process: runs tests and sends a message before the first and after each."""

    def __init__(self, session: pytest.Session, read: int, out: Connection, stop: mmap.mmap) -> None:
        self._session = session
        self._read = read
        self._out = out
        self._stop = stop
        self._reports: list[dict[str, Any]] = []

    def run(self) -> None:
        """Run tests until none is left, and end the process."""
        status = 1
        try:
            self._run_tests()
            self._session.config._ensure_unconfigure()  # raises what destructors of the last tests raised
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)

    def _run_tests(self) -> None:
        plugins = self._session.config.pluginmanager
        plugins.getplugin("capturemanager").start_global_capturing()
        plugins.getplugin("capturemanager").suspend_global_capture()
        terminal = plugins.unregister(name="terminalreporter")  # the first process shows what we report
        plugins.register(_Terminal(terminal), "terminalreporter")
        plugins.register(self, "forked")
        numbers = self._numbers()
        number = next(numbers, None)
        self._out.send((None, [], number))
        try:
            while number is not None:
                following = None if self._stop[0] else next(numbers, None)
                item = self._session.items[number]
                item.config.hook.pytest_runtest_protocol(
                    item=item, nextitem=None if following is None else self._session.items[following]
                )
                self._out.send((number, self._reports, following))
                self._reports = []
                number = following
        finally:
            self._session._setupstate.teardown_exact(None)  # nothing is left, unless we are interrupted

    def _numbers(self) -> Iterator[int]:
        while piece := os.read(self._read, _PIECE.size):
            yield from range(*_PIECE.unpack(piece))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        config = self._session.config
        self._reports.append(config.hook.pytest_report_to_serializable(config=config, report=report))


class _Terminal:
    """The terminal of a worker: a way to write there, for the traces of a test that hangs."""

    def __init__(self, terminal: Any) -> None:
        self._tw = terminal._tw
