"""A client of an engine that runs in its own process, and the supervisor that starts it again when it dies."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import msgspec
import zmq

from sgl_lang.errors import EngineFailure, Overloaded, SglError, from_code
from sgl_lang.tree import ErrorInfo, Event, Failed, Finished, Operation, ProgramOptions
from sgl_runtime.config import EngineConfig
from sgl_runtime.engine.wire import (
    AskStats,
    CancelProgram,
    Command,
    Events,
    FlushCache,
    Hello,
    OpenProgram,
    Refused,
    Report,
    SendOperations,
    Stats,
    Stop,
    decode_report,
    encode,
)
from sgl_runtime.model.info import ModelInfo

__all__ = ["ProcessClient"]

log = logging.getLogger(__name__)
Listener = Callable[[Event], None]

_LOOK_EVERY_MS = 200
_STATS_TIMEOUT_S = 10.0


class _Incarnation:
    """One life of the engine's process: its folder, sockets and process."""

    def __init__(self, context: zmq.Context[Any], options: dict[str, Any]) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="sgl-"))  # mode 0700
        self.commands = context.socket(zmq.PUSH)
        self.reports = context.socket(zmq.PULL)
        for socket, name in ((self.commands, "commands"), (self.reports, "reports")):
            socket.set_hwm(0)
            socket.setsockopt(zmq.LINGER, 0)
            socket.bind(f"ipc://{self.folder / name}")
        command = [sys.executable, "-m", "sgl_runtime.engine.worker", str(self.folder)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE)
        assert self.process.stdin is not None
        self.process.stdin.write(msgspec.json.encode(options))
        self.process.stdin.close()

    def close(self, timeout_s: float = 5.0) -> None:
        """End the process, kindly first."""
        if self.process.poll() is None:
            try:
                self.process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.commands.close()
        self.reports.close()
        shutil.rmtree(self.folder, ignore_errors=True)


class ProcessClient:
    """An engine in a process of its own, behind the same interface as one in this process.

    When that process dies, every open program gets a `Failed` event and the process is started again, up to
    `max_restarts` times within `restart_window_s`; until it is ready, `open` raises `EngineFailure`
    (retryable) and `healthy` is False.
    """

    def __init__(
        self,
        config: EngineConfig,
        *,
        tokenizer: Any = None,
        template: Any = None,
        start_timeout_s: float = 300.0,
        max_restarts: int = 5,
        restart_window_s: float = 120.0,
    ) -> None:
        self.config = config
        self.tokenizer = tokenizer
        self.template = template
        self._options = _options_of(config)
        self._max_restarts = max_restarts
        self._window = restart_window_s
        self._context: zmq.Context[Any] = zmq.Context()
        self._listeners: dict[str, Listener] = {}
        self._asked: dict[int, Future[dict[str, Any]]] = {}
        self._tickets = itertools.count()
        self._lock = threading.Lock()
        self._ready: Future[ModelInfo] = Future()
        self._info: ModelInfo | None = None
        self._alive = False
        self._closing = False
        self._failure: str | None = None
        self._starts: list[float] = []
        self.restarts = 0
        self._life = self._start()
        self._thread = threading.Thread(target=self._receive, name="sgl-engine-client", daemon=True)
        self._thread.start()
        try:
            self._ready.result(start_timeout_s)
        except BaseException:
            self.close()
            raise

    # --------------------------------------------------------------------------------- the client's interface

    def open(self, options: ProgramOptions, listener: Listener) -> str:
        with self._lock:
            if not self._alive:
                raise EngineFailure(
                    self._failure or "the engine is being started again", hint="try again later"
                )
            if len(self._listeners) >= self.config.max_queue:
                raise Overloaded(f"{len(self._listeners)} programs are open", hint="try again later")
            program = secrets.token_hex(16)
            self._listeners[program] = listener
            self._send(OpenProgram(program, options))
        return program

    def send(self, program_id: str, operations: Sequence[Operation]) -> None:
        self._tell(SendOperations(program_id, tuple(operations)))

    def cancel(self, program_id: str) -> None:
        self._tell(CancelProgram(program_id))

    def info(self) -> ModelInfo:
        assert self._info is not None
        return self._info

    def stats(self) -> dict[str, Any]:
        """Raises `EngineFailure` if the engine does not answer in time."""
        ticket, future = next(self._tickets), Future[dict[str, Any]]()
        self._asked[ticket] = future
        self._tell(AskStats(ticket))
        try:
            values = future.result(_STATS_TIMEOUT_S)
        except TimeoutError:
            raise EngineFailure("the engine does not answer") from None
        finally:
            self._asked.pop(ticket, None)
        return {**values, "engine_restarts": self.restarts}

    def flush_cache(self) -> None:
        self._tell(FlushCache())

    def healthy(self) -> bool:
        return self._alive

    def close(self) -> None:
        """Stop the engine's process. Open programs fail."""
        with self._lock:
            if self._closing:
                return
            self._closing = True
            if self._alive:
                self._send(Stop())
            self._alive, self._failure = False, "the engine has been shut down"
        if threading.current_thread() is not self._thread:
            self._thread.join()
        self._life.close()
        self._fail_all("the engine has been shut down")
        self._context.destroy(linger=0)

    def __enter__(self) -> ProcessClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --------------------------------------------------------------------------------------------- the socket

    def _tell(self, command: Command) -> None:
        """Send a command; to a dead engine there is nothing to say, its programs have been told."""
        with self._lock:
            if self._alive:
                self._send(command)

    def _send(self, command: Command) -> None:
        self._life.commands.send(encode(command))

    def _receive(self) -> None:
        while not self._closing:
            if self._life.reports.poll(_LOOK_EVERY_MS):
                self._hear(decode_report(self._life.reports.recv()))
            elif self._life.process.poll() is not None:
                self._died()
                if self._failure is not None:
                    return

    def _hear(self, report: Report) -> None:
        if isinstance(report, Events):
            for program, event in report.events:
                self._hand_out(program, event)
        elif isinstance(report, Stats):
            future = self._asked.get(report.ticket)
            if future is not None and not future.done():
                future.set_result(report.values)
        elif isinstance(report, Hello):
            self._info = report.info
            with self._lock:
                self._alive = True
            if not self._ready.done():
                self._ready.set_result(report.info)
        elif not self._ready.done():
            self._ready.set_exception(_error_of(report))

    def _hand_out(self, program: str, event: Event) -> None:
        over = isinstance(event, Finished) or (isinstance(event, Failed) and event.branch is None)
        listener = self._listeners.pop(program, None) if over else self._listeners.get(program)
        if listener is None:
            return
        try:
            listener(event)
        except Exception:
            log.exception("a listener failed; its program is dropped")
            self._listeners.pop(program, None)
            self.cancel(program)

    # ----------------------------------------------------------------------------------------- the supervisor

    def _start(self) -> _Incarnation:
        self._starts.append(time.monotonic())
        return _Incarnation(self._context, self._options)

    def _died(self) -> None:
        """The engine's process is gone: tell everybody, and start another one unless it keeps dying."""
        status = self._life.process.returncode
        message = f"the engine's process died (exit status {status})"
        log.error(message)
        with self._lock:
            self._alive = False
        self._fail_all(message)
        self._life.close()
        now = time.monotonic()
        recent = [start for start in self._starts if now - start < self._window]
        if not self._ready.done():
            self._failure = message
            self._ready.set_exception(EngineFailure(message))
        elif len(recent) > self._max_restarts:
            self._failure = f"{message}; it died {len(recent)} times within {self._window:g} s and stays down"
        else:
            self.restarts += 1
            self._life = self._start()

    def _fail_all(self, message: str) -> None:
        with self._lock:
            listeners, self._listeners = self._listeners, {}
        for listener in listeners.values():
            try:
                listener(Failed(error=ErrorInfo.of(EngineFailure(message, hint="try again"))))
            except Exception:
                log.exception("a listener failed")
        for future in list(self._asked.values()):
            if not future.done():
                future.set_exception(EngineFailure(message))


def _options_of(config: EngineConfig) -> dict[str, Any]:
    options = {item.name: getattr(config, item.name) for item in dataclasses.fields(config)}
    return {**options, "limits": dataclasses.asdict(config.limits)}


def _error_of(report: Refused) -> SglError:
    return from_code(report.code, report.message, place=report.place, hint=report.hint)
