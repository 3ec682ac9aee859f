"""What the language itself costs: client time of a program, and a batch of 10,000 without a thread per program.

    python benchmarks/language.py [--repeats 5] [--batch 10000] [--engine] [--kv-mb 128]

`submit_ms_100_nodes`: from the call of `run` until all operations of a program of 100 nodes were given to a backend
that only counts them (median of the repeats; spread printed). `batch_10000_mb`: growth of the resident memory of this
process over a batch of that many static programs, whose results are all kept. `batch_10000_threads`: most threads seen
at once, the caller's included. With ``--engine`` the batch runs on the embedded model, else on the fake backend, which
answers at once. The engine's KV memory is reserved when it starts but becomes resident page by page as a batch first
fills it (64 KiB for a page of 16 tokens), which would count as growth; so ``--kv-mb`` makes the pool small, all of it
is still counted, and the result names its size. The last line is one JSON object.
"""

import argparse
import gc
import json
import platform
import statistics
import threading
import time

import psutil

import sgl_lang as sgl
from sgl_lang.backends.base import Backend, Capabilities, Session
from sgl_lang.testing import FakeBackend
from sgl_lang.tree import End, Finished


class CountingBackend(Backend):
    """Takes operations and answers with the end of the program, so that only the client's work is measured."""

    def __init__(self):
        self.capabilities = Capabilities("counting")
        self.sent_at = 0.0
        self.nodes = 0

    def open(self, options, listener):
        return CountingSession(self, listener)

    def info(self):
        return {}


class CountingSession(Session):
    def __init__(self, backend, listener):
        self._backend, self._listener = backend, listener

    def send(self, operations):
        self._backend.sent_at = time.perf_counter()
        self._backend.nodes = sum(len(getattr(operation, "nodes", ())) for operation in operations)
        if End() in operations:
            self._listener(Finished())

    def cancel(self):
        pass


@sgl.function(temperature=0, max_tokens=4)
def hundred_nodes(s):
    for at in range(20):
        s += sgl.user(f"Question {at}?")
        s += sgl.gen(f"answer_{at}")
        s += f"So {at}."


@sgl.function(temperature=0, max_tokens=4)
def item(s, number):
    s += sgl.system("Answer with the number only.")
    s += sgl.user(f"What is {number} + 1?")
    s += sgl.assistant(sgl.gen("answer", regex="[0-9]{1,6}"))


def submit_times(repeats):
    backend = CountingBackend()
    times = []
    for _ in range(repeats * 20):
        start = time.perf_counter()
        hundred_nodes.run(backend=backend)
        times.append((backend.sent_at - start) * 1000)
    assert backend.nodes == 100, backend.nodes
    return times[len(times) // 5 :]  # after warming up


def batch(size, backend):
    gc.collect()
    process = psutil.Process()
    before = process.memory_info().rss
    most_threads, stop = [threading.active_count()], threading.Event()

    def watch():
        while not stop.wait(0.002):
            most_threads.append(threading.active_count() - 1)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    start = time.perf_counter()
    states = item.run_batch([{"number": at} for at in range(size)], backend=backend)
    seconds = time.perf_counter() - start
    stop.set()
    watcher.join()
    assert len(states) == size
    assert all(state["answer"] for state in states)
    return (process.memory_info().rss - before) / 2**20, max(most_threads), seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch", type=int, default=10_000)
    parser.add_argument("--engine", action="store_true")
    parser.add_argument("--kv-mb", type=int, default=128)
    options = parser.parse_args()
    times = submit_times(options.repeats)
    low, high = statistics.quantiles(times, n=10)[0], statistics.quantiles(times, n=10)[-1]
    print(f"100 nodes: {statistics.median(times):.3f} ms (10% {low:.3f}, 90% {high:.3f}, {len(times)} runs)")
    backend = (
        sgl.Engine(kv_memory_bytes=options.kv_mb << 20) if options.engine else FakeBackend({"answer": "7"})
    )
    megabytes, threads, seconds = batch(options.batch, backend)
    print(f"{options.batch} programs: {seconds:.2f} s, {megabytes:.0f} MB, {threads} threads")
    backend.close()
    result = {
        "submit_ms_100_nodes": round(statistics.median(times), 4),
        "batch_10000_mb": round(megabytes, 1),
        "batch_10000_threads": threads,
        "batch": options.batch,
        "engine_kv_mb": options.kv_mb if options.engine else 0,
        "batch_s": round(seconds, 2),
        "backend": backend.capabilities.name,
        "python": platform.python_version(),
        "machine": platform.machine(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
