"""Many runs of one program: bounded in flight, results in order, no thread per program.

A *feeder* thread runs the programs' code one after the other. Code that never waits for a value returns at
once, and its program finishes by events alone. When a feeder is about to wait for a value, it first lets
another feeder go on (up to a limit), so that dynamic programs overlap too.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from sgl_lang.errors import InvalidRequest, ProgramError
from sgl_lang.state import ProgramState

if TYPE_CHECKING:
    from sgl_lang.program import Call


class BatchError(ProgramError):
    """Some programs of a batch failed. `results` has a state or an exception for every item, in order."""

    code = "batch_error"

    def __init__(self, results: list[Any]) -> None:
        self.results = results
        self.failures = [(at, item) for at, item in enumerate(results) if isinstance(item, BaseException)]
        first = self.failures[0]
        super().__init__(
            f"{len(self.failures)} of {len(results)} programs failed; the first, item {first[0]}: {first[1]}",
            hint="`return_exceptions=True` gives exceptions in place of results",
        )


class BatchRunner:
    """Runs the calls of a batch. Fields after `_cond` are guarded by it."""

    def __init__(
        self,
        start: Callable[[Any], Call],
        items: Sequence[Any],
        *,
        max_in_flight: int,
        num_threads: int,
        progress_bar: bool = False,
    ) -> None:
        if max_in_flight < 1 or num_threads < 1:
            raise InvalidRequest("must be at least 1", place="max_in_flight, num_threads")
        self._start = start
        self._items = items
        self._limit = max_in_flight
        self._threads = num_threads
        self._progress = Progress(len(items)) if progress_bar else None
        self._cond = threading.Condition()
        self._next = 0
        self._in_flight = 0
        self._feeders = 0
        self._feeding = 0
        self._results: dict[int, Any] = {}
        self._open: dict[int, ProgramState] = {}
        self._stopped = False
        self._wanted = -1
        self._feeder_waits = False

    def results(self) -> Iterator[Any]:
        """A state or an exception per item, in order. Leaving early (Ctrl-C) cancels the rest."""
        try:
            with self._cond:
                self._ensure_feeder()
            for at in range(len(self._items)):
                yield self._take(at)
        finally:
            self._stop()

    def all(self) -> list[Any]:
        """All results, in order, once the last is there."""
        try:
            with self._cond:
                self._ensure_feeder()
                while len(self._results) < len(self._items):
                    self._cond.wait(3600)
            return [_validated(self._results[at]) for at in range(len(self._items))]
        finally:
            self._stop()

    def _take(self, at: int) -> Any:
        with self._cond:
            self._wanted = at
            while at not in self._results:
                self._cond.wait(3600)
            result = self._results.pop(at)
        return _validated(result)

    def _stop(self) -> None:
        with self._cond:
            self._stopped = True
            rest = list(self._open.values())
            self._cond.notify_all()
        for state in rest:
            state.execution.cancel()

    # ------------------------------------------------------------------------------------------ feeders

    def _ensure_feeder(self) -> None:
        """Start a feeder if none is feeding, items are left and the limit allows it (`_cond` is held)."""
        if self._feeding == 0 and self._next < len(self._items) and self._feeders < self._threads:
            self._feeders += 1
            self._feeding += 1
            threading.Thread(target=self._feed, name="sgl batch", daemon=True).start()

    def _feed(self) -> None:
        while (at := self._claim()) is not None:
            self._run(at)
        with self._cond:
            self._feeders -= 1
            self._ensure_feeder()

    def _claim(self) -> int | None:
        """The next item, when one more may be in flight; None when this feeder is not needed any more."""
        with self._cond:
            while not self._stopped and self._next < len(self._items) and self._feeding == 1:
                if self._in_flight < self._limit:
                    self._next += 1
                    self._in_flight += 1
                    return self._next - 1
                self._feeder_waits = True
                self._cond.wait(3600)
                self._feeder_waits = False
            self._feeding -= 1
            return None

    def _run(self, at: int) -> None:
        waited = False

        def before_wait() -> None:
            nonlocal waited
            if not waited and threading.current_thread() is feeder:
                waited = True
                with self._cond:
                    self._feeding -= 1
                    self._ensure_feeder()

        feeder = threading.current_thread()
        try:
            call = self._start(self._items[at])
            execution = call.state.execution
            with self._cond:
                self._open[at] = call.state
                stopped = self._stopped
            if stopped:
                execution.cancel()
            execution.before_wait = before_wait
            call.trace()
            execution.before_wait = None
            self._when_done(at, call.state)
        except BaseException as error:
            self._settle(at, error)
        if waited:
            with self._cond:
                self._feeding += 1

    def _when_done(self, at: int, state: ProgramState) -> None:
        """Settle now or after a later event."""
        if state.execution.done:
            state.execution.close()
            self._settle(at, state)
        else:
            state.execution.once_changed(lambda: self._when_done(at, state))

    def _settle(self, at: int, result: Any) -> None:
        with self._cond:
            self._results[at] = result
            self._open.pop(at, None)
            self._in_flight -= 1
            if at == self._wanted or self._feeder_waits or len(self._results) == len(self._items):
                self._cond.notify_all()  # nobody else has a reason to wake up
        if self._progress is not None:
            self._progress.step()


def _validated(result: Any) -> Any:
    """A state, or what went wrong in it; asked on the caller's thread, as typed values are decoded here."""
    if isinstance(result, BaseException):
        return result
    error = result.execution.first_error()
    return result if error is None else error


class Progress:
    """A progress line on stderr."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0
        self._lock = threading.Lock()

    def step(self) -> None:
        with self._lock:
            self._done += 1
            filled = 30 * self._done // max(self._total, 1)
            if self._done == self._total or self._done % max(1, self._total // 200) == 0:
                bar = "█" * filled + "·" * (30 - filled)
                sys.stderr.write(f"\r{bar} {self._done}/{self._total}")
                sys.stderr.write("\n" if self._done == self._total else "")
                sys.stderr.flush()


def checked(found: list[Any], return_exceptions: bool) -> list[Any]:
    """`found`; raises `BatchError` if any failed, unless `return_exceptions`."""
    if not return_exceptions and any(isinstance(item, BaseException) for item in found):
        raise BatchError(found)
    return found


def raising(results: Iterator[Any], return_exceptions: bool) -> Iterator[Any]:
    """Results as they come; an exception is raised in its place, unless `return_exceptions`."""
    for result in results:
        if isinstance(result, BaseException) and not return_exceptions:
            raise result
        yield result


async def as_completed_bounded(
    calls: Sequence[Callable[[], Awaitable[Any]]], limit: int
) -> AsyncIterator[tuple[int, Any]]:
    """(index, result or exception) of async calls as they end, at most `limit` at a time."""
    pending: dict[asyncio.Future[Any], int] = {}
    waiting = iter(enumerate(calls))
    try:
        while True:
            while len(pending) < limit and (pair := next(waiting, None)) is not None:
                pending[asyncio.ensure_future(pair[1]())] = pair[0]
            if not pending:
                return
            done, _ = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                error = task.exception()
                yield pending.pop(task), error if error is not None else task.result()
    finally:
        for task in pending:
            task.cancel()


async def gather_bounded(
    calls: Sequence[Callable[[], Awaitable[Any]]], limit: int, progress_bar: bool
) -> list[Any]:
    """Results or exceptions of async calls, in order."""
    progress = Progress(len(calls)) if progress_bar else None
    results: list[Any] = [None] * len(calls)
    async for at, result in as_completed_bounded(calls, limit):
        results[at] = result
        if progress is not None:
            progress.step()
    return results
