"""run_batch and async programs."""

import asyncio
import datetime
import threading
import time

import pytest

import sgl_lang as sgl
from sgl_lang.testing import PENDING, FakeBackend


@sgl.function
def static(s, q):
    s += f"Q{q}:" + sgl.gen("x")


@sgl.function
def dynamic(s, q):
    s += f"Q{q}:" + sgl.gen("x")
    s += str(s["x"]) + sgl.gen("y")


def echo():
    return FakeBackend(lambda want: f"<{want.text}>")


def test_results_come_in_order():
    states = static.run_batch([{"q": at} for at in range(50)], backend=echo())
    assert [str(state["x"]) for state in states] == [f"<Q{at}:>" for at in range(50)]
    states = dynamic.run_batch([(at,) for at in range(50)], backend=echo())
    assert [str(state["x"]) for state in states] == [f"<Q{at}:>" for at in range(50)]


def test_one_failure_does_not_lose_the_others():
    def answer(want):
        return sgl.EngineFailure("no") if want.text == "Q3:" else "ok"

    items = [{"q": at} for at in range(6)]
    with pytest.raises(sgl.BatchError, match="1 of 6 programs failed; the first, item 3: no") as caught:
        static.run_batch(items, backend=FakeBackend(answer))
    assert [type(item).__name__ for item in caught.value.results].count("ProgramState") == 5
    results = static.run_batch(items, backend=FakeBackend(answer), return_exceptions=True)
    assert isinstance(results[3], sgl.EngineFailure)
    assert str(results[5]["x"]) == "ok"


def test_a_wrong_item_is_one_failure():
    results = static.run_batch([{"q": 1}, {"wrong": 1}, 5], backend=echo(), return_exceptions=True)
    assert [type(result).__name__ for result in results] == ["ProgramState", "TypeError", "InvalidRequest"]


def test_static_programs_need_one_thread():
    seen = set()

    @sgl.function
    def program(s, q):
        seen.add(threading.current_thread())
        s += sgl.gen("x")

    program.run_batch([{"q": at} for at in range(200)], backend=echo())
    assert len(seen) == 1


def test_dynamic_programs_overlap_and_are_bounded():
    gate = threading.Event()
    waiting = []

    class Slow(FakeBackend):
        def answer(self, session, want):
            waiting.append(want)
            threading.Thread(target=lambda: (gate.wait(5), session.deliver(want, _ready(want)))).start()
            if len(waiting) >= 4:
                gate.set()

    from sgl_lang.testing import _ready as ready

    def _ready(want):
        return ready(want, "v")

    states = dynamic.run_batch([{"q": at} for at in range(12)], backend=Slow(), num_threads=4)
    assert len(states) == 12


def test_in_flight_is_bounded():
    backend = FakeBackend({"x": PENDING})
    done = []
    runner = threading.Thread(
        target=lambda: done.append(
            static.run_batch([{"q": at} for at in range(5)], backend=backend, max_in_flight=2)
        )
    )
    runner.start()
    for _ in range(5):
        while runner.is_alive() and not backend._pending:
            time.sleep(0.001)
        time.sleep(0.005)
        assert len(backend.sessions) - sum(session._over for session in backend.sessions) <= 2
        if backend._pending:
            backend.release("x", "v")
    runner.join(5)
    assert len(done[0]) == 5


def test_leaving_a_batch_early_cancels_the_rest():
    backend = FakeBackend(lambda want: "v" if want.text == "Q0:" else PENDING)
    results = static.run_batch([{"q": at} for at in range(4)], backend=backend, generator_style=True)
    assert str(next(results)["x"]) == "v"
    while len(backend.sessions) < 4:
        time.sleep(0.001)
    results.close()
    assert all(session.cancelled.is_set() for session in backend.sessions[1:])


def test_generator_style_and_progress(capsys):
    results = static.run_batch([{"q": 1}, {"q": 2}], backend=echo(), generator_style=True, progress_bar=True)
    assert [str(state["x"]) for state in results] == ["<Q1:>", "<Q2:>"]
    assert "2/2" in capsys.readouterr().err


@sgl.function
async def asynchronous(s, q):
    s += f"Q{q}:" + sgl.gen("x")
    text = await s["x"]
    number = sgl.gen("n", int)
    s += number
    return text, await s.value(number)


def test_async_programs():
    backend = FakeBackend({"x": "a", "n": 5})
    state = asyncio.run(asynchronous.run(1, backend=backend))
    assert state.ret_value == ("a", 5)
    states = asyncio.run(
        asynchronous.run_batch([{"q": at} for at in range(20)], backend=backend, max_in_flight=3)
    )
    assert [state.text() for state in states] == [f"Q{at}:a5" for at in range(20)]


def test_async_results_as_they_come():
    async def main():
        return [at async for at, _ in asynchronous.iterate_batch([{"q": 0}, {"q": 1}], backend=FakeBackend())]

    assert sorted(asyncio.run(main())) == [0, 1]


def test_blocking_in_an_async_program_is_an_error():
    @sgl.function
    async def program(s):
        s += sgl.gen("x")
        return str(s["x"])

    with pytest.raises(sgl.ProgramError, match="await"):
        asyncio.run(program.run(backend=FakeBackend({"x": PENDING})))


def test_async_deadline_and_cancel():
    @sgl.function
    async def program(s):
        s += sgl.gen("x")
        with pytest.raises(sgl.DeadlineExceeded):
            await s.value("x", timeout=0.01)
        await s["x"]

    backend = FakeBackend({"x": PENDING})

    async def main():
        task = asyncio.ensure_future(program.run(backend=backend))
        await asyncio.sleep(0.05)
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(main())
    assert backend.sessions[0].cancelled.is_set()


def test_async_compile_and_streaming():
    @sgl.function
    async def program(s):
        s += "a" + sgl.gen("x")
        return "done"

    async def main():
        state = static.stream(1, backend=echo())
        kinds = [type(event).__name__ async for event in state.async_events()]
        assert kinds[-2:] == ["BranchDone", "Finished"]
        return "".join([piece async for piece in state.text_async_iter()])

    assert len(list(program.compile().nodes())) == 2
    assert asyncio.run(main()) == "Q1:<Q1:>"
    with pytest.raises(sgl.NotStatic):
        asynchronous.compile(1)


def test_what_waits_inside_runs_on_a_thread_in_async_programs():
    @sgl.function
    async def program(s):
        forks = s.fork(2)
        forks += sgl.gen("x")
        winners = await asyncio.to_thread(forks.first, 1)
        await asyncio.to_thread(s.append, sgl.gen("day", datetime.date, retry=1))
        return len(winners), await s.value("day")

    backend = FakeBackend({"day": ["2024-02-30", "2024-02-28"]})
    assert asyncio.run(program.run(backend=backend)).ret_value == (1, datetime.date(2024, 2, 28))
