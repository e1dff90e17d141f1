"""Batches of other people's images: who is answered with whom, in what order, and who is refused."""

import asyncio
import gc
import threading
import time
import weakref

import numpy as np
import pytest

from mlvlab_jax.config.serving import BatchingConfig
from mlvlab_jax.serving.batcher import Batcher
from mlvlab_jax.serving.errors import DeadlineError, InputError, OverloadedError, PredictionError
from mlvlab_jax.serving.predictor import Outputs

POISON, NOT_FINITE = 250, 251


class RecordingMetrics:
    def __init__(self):
        self.queue, self.batches, self.refusals, self.num_nonfinite = [], [], [], 0

    def set_queue(self, num_images):
        self.queue.append(num_images)

    def add_batch(self, num_images, *, seconds):
        assert seconds > 0
        self.batches.append(num_images)

    def add_refusal(self, reason):
        self.refusals.append(reason)

    def add_nonfinite(self, num_images):
        self.num_nonfinite += num_images


class Device:
    """Answers an image with the number written in all of it; waits for `gate`, and takes down what it computed."""

    def __init__(self, *, is_open=True):
        self.gate = threading.Event()
        self.busy = threading.Event()
        self.calls: list[list[int]] = []
        if is_open:
            self.gate.set()

    def __call__(self, images):
        numbers = images[:, 0, 0, 0]
        self.calls.append(numbers.tolist())
        self.busy.set()
        assert self.gate.wait(30)
        if POISON in numbers:
            raise RuntimeError("0xdeadbeef")
        value = numbers.astype(np.float32)[:, None]
        value[numbers == NOT_FINITE] = np.nan
        return Outputs(value + 1, np.repeat(value, 3, axis=1), value + 2)

    async def wait_until_busy(self):
        assert await asyncio.to_thread(self.busy.wait, 30)


def number(*values, side=4):
    return np.broadcast_to(np.array(values, np.uint8)[:, None, None, None], (len(values), side, side, 1))


async def ask(batcher, images, *, seconds=30.0):
    return await batcher.submit(images, deadline=asyncio.get_running_loop().time() + seconds)


def ask_later(batcher, images, **how):
    """The request as a task, submitted in the loop's next turn."""
    return asyncio.create_task(ask(batcher, images, **how))


def run(scenario, *, device=None, **config):
    """Runs `scenario(batcher, device)`; gives it, the device and what the metrics were told."""
    device, metrics = device or Device(), RecordingMetrics()

    async def main():
        batcher = Batcher(device, BatchingConfig(**config), metrics=metrics)
        try:
            return await scenario(batcher, device)
        finally:
            device.gate.set()
            await batcher.close(30)
            await asyncio.to_thread(batcher._thread.join, 30)
            assert not batcher._thread.is_alive()
            assert batcher.num_queued == 0

    return asyncio.run(main()), device, metrics


def test_each_request_gets_its_own_answers_whatever_the_batches():
    draw = np.random.default_rng(0)
    requests = [number(*draw.integers(0, 250, draw.integers(1, 14))) for _ in range(400)]

    async def scenario(batcher, device):
        async def client(mine):
            found = []
            for images in mine:
                await asyncio.sleep(draw.exponential(0.0005))
                found.append((images, await ask(batcher, images)))
            return found

        return await asyncio.gather(*(client(requests[at::20]) for at in range(20)))

    found, _, metrics = run(scenario, max_size=8, queue_size=400)
    answers = [pair for client in found for pair in client]
    assert len(answers) == 400
    for images, outputs in answers:
        expected = images[:, 0, 0, 0].astype(np.float32)
        np.testing.assert_array_equal(outputs.probabilities[:, 0], expected)
        np.testing.assert_array_equal(outputs.logits[:, 0], expected + 1)
        np.testing.assert_array_equal(outputs.embedding[:, 0], expected + 2)
    assert sum(metrics.batches) == sum(map(len, requests))
    assert max(metrics.batches) == 8
    assert metrics.queue[-1] == 0


def test_while_the_device_is_busy_the_next_batch_fills_up_in_the_order_of_arrival():
    async def scenario(batcher, device):
        tasks = [ask_later(batcher, number(0))]
        await device.wait_until_busy()
        tasks += [ask_later(batcher, number(*range(at, at + 3))) for at in range(1, 16, 3)]
        await asyncio.sleep(0)
        assert batcher.num_queued == 15
        device.gate.set()
        await asyncio.gather(*tasks)

    _, device, metrics = run(scenario, device=Device(is_open=False), max_size=8)
    assert device.calls == [[0], list(range(1, 9)), list(range(9, 16))]
    assert metrics.batches == [1, 8, 7]
    assert max(metrics.queue) == 15


def test_a_lone_request_is_not_held_back_for_others():
    async def scenario(batcher, device):
        return [await asyncio.wait_for(ask(batcher, number(at)), 20) for at in range(3)]

    _, _, metrics = run(scenario, max_wait_ms=60_000)
    assert metrics.batches == [1, 1, 1]


def test_a_request_waits_for_one_that_is_being_decoded():
    async def scenario(batcher, device):
        async def decode_and_ask(images, seconds):
            with batcher.arriving():
                await asyncio.sleep(seconds)
            return await ask(batcher, images)

        await asyncio.wait_for(asyncio.gather(decode_and_ask(number(1), 0), decode_and_ask(number(2), 0.1)), 20)

    _, device, _ = run(scenario, max_wait_ms=60_000)
    assert device.calls == [[1, 2]]


def test_one_that_was_decoded_joins_those_who_waited_for_it():
    async def scenario(batcher, device):
        async def decode_and_ask(images):
            with batcher.arriving():
                await asyncio.sleep(0.05)
            time.sleep(0.05)  # the batcher's thread has all the time to take what is there
            return await ask(batcher, images)

        with batcher.arriving():
            waiting = ask_later(batcher, number(1))
            coming = asyncio.create_task(decode_and_ask(number(2)))
            await asyncio.sleep(0)
        await asyncio.gather(waiting, coming)

    _, device, _ = run(scenario, max_wait_ms=60_000)
    assert device.calls == [[1, 2]]


def test_a_full_batch_waits_for_nobody():
    async def scenario(batcher, device):
        with batcher.arriving():
            await asyncio.wait_for(asyncio.gather(ask(batcher, number(1)), ask(batcher, number(2))), 20)

    _, device, _ = run(scenario, max_wait_ms=60_000, max_size=2)
    assert device.calls == [[1, 2]]


def test_what_is_being_decoded_is_waited_for_no_longer_than_told():
    async def scenario(batcher, device):
        with batcher.arriving():
            await asyncio.wait_for(ask(batcher, number(1)), 20)

    _, device, _ = run(scenario, max_wait_ms=20)
    assert device.calls == [[1]]


def test_images_of_two_shapes_never_share_a_batch():
    async def scenario(batcher, device):
        first = ask_later(batcher, number(0))
        await device.wait_until_busy()
        others = [ask_later(batcher, number(at, side=4 + at % 2)) for at in (2, 4, 1, 3, 6)]
        await asyncio.sleep(0)
        device.gate.set()
        return await asyncio.gather(first, *others)

    _, device, _ = run(scenario, device=Device(is_open=False))
    assert device.calls == [[0], [2, 4], [1, 3], [6]]


def test_a_full_queue_refuses_and_says_when_there_is_room():
    async def scenario(batcher, device):
        tasks = [ask_later(batcher, number(0))]
        await device.wait_until_busy()
        tasks += [ask_later(batcher, number(*range(4))) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError) as caught:
            await ask(batcher, number(9))
        batcher._seconds_an_image = 0.25
        with pytest.raises(OverloadedError) as later:
            await ask(batcher, number(9))
        device.gate.set()
        await asyncio.gather(*tasks)
        await ask(batcher, number(9))
        return caught.value, later.value

    (refused, later), device, metrics = run(scenario, device=Device(is_open=False), queue_size=8)
    assert metrics.refusals == ["queue_full", "queue_full"]
    assert refused.reason == "queue_full"
    assert refused.retry_after_s > 0
    assert later.retry_after_s == 8 * 0.25
    assert device.calls[-1] == [9]


def test_the_rate_that_tells_when_to_come_back_is_measured():
    async def scenario(batcher, device):
        for _ in range(60):
            await ask(batcher, number(1))
        return batcher._seconds_an_image

    seconds, _, _ = run(scenario)
    assert 0 < seconds < 0.05  # the first guess is a tenth


def test_a_request_whose_deadline_passes_in_the_queue_is_never_computed():
    async def scenario(batcher, device):
        first = ask_later(batcher, number(0))
        await device.wait_until_busy()
        late, in_time = ask_later(batcher, number(1, 2), seconds=0.05), ask_later(batcher, number(3))
        with pytest.raises(DeadlineError):
            await late
        assert batcher.num_queued == 1
        device.gate.set()
        await asyncio.gather(first, in_time)

    _, device, metrics = run(scenario, device=Device(is_open=False))
    assert device.calls == [[0], [3]]
    assert metrics.refusals == ["deadline"]


def test_a_deadline_in_the_past_is_never_computed():
    async def scenario(batcher, device):
        with pytest.raises(DeadlineError):
            await ask(batcher, number(1), seconds=-1)
        await ask(batcher, number(2))

    _, device, _ = run(scenario)
    assert device.calls == [[2]]


def test_a_deadline_ends_the_wait_for_a_device_that_is_stuck():
    async def scenario(batcher, device):
        with pytest.raises(DeadlineError):
            await ask(batcher, number(1, 2, 3), seconds=0.05)
        device.gate.set()
        await ask(batcher, number(4))

    _, device, metrics = run(scenario, device=Device(is_open=False), max_size=2)
    assert device.calls == [[1, 2], [4]]  # the third image was still in the queue
    assert metrics.refusals == ["deadline"]


def test_a_request_whose_client_is_gone_is_never_computed():
    async def scenario(batcher, device):
        first = ask_later(batcher, number(0))
        await device.wait_until_busy()
        gone, stays = ask_later(batcher, number(1, 2)), ask_later(batcher, number(3))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.wait([gone])
        assert batcher.num_queued == 1
        device.gate.set()
        await asyncio.gather(first, stays)
        assert gone.cancelled()

    _, device, metrics = run(scenario, device=Device(is_open=False))
    assert device.calls == [[0], [3]]
    assert metrics.refusals == ["client_gone"]


def test_what_is_over_is_not_computed_while_the_event_loop_is_held_up():
    async def scenario(batcher, device):
        first = ask_later(batcher, number(0))
        await device.wait_until_busy()
        late, gone = ask_later(batcher, number(1), seconds=0.05), ask_later(batcher, number(2))
        await asyncio.sleep(0)
        gone.cancel()
        time.sleep(0.1)
        device.gate.set()
        time.sleep(0.1)
        found = await asyncio.gather(first, late, gone, return_exceptions=True)
        assert [type(one) for one in found] == [Outputs, DeadlineError, asyncio.CancelledError]

    _, device, metrics = run(scenario, device=Device(is_open=False))
    assert device.calls == [[0]]
    assert sorted(metrics.refusals) == ["client_gone", "deadline"]


def test_an_answer_is_not_kept_until_its_deadline():
    async def scenario(batcher, device):
        answer = weakref.ref((await ask(batcher, number(1), seconds=1000)).logits)
        await ask(batcher, number(2))
        gc.collect()
        assert answer() is None

    run(scenario)


def test_an_image_the_model_fails_on_harms_none_of_its_31_neighbours():
    async def scenario(batcher, device):
        first = ask_later(batcher, number(0))
        await device.wait_until_busy()
        tasks = [ask_later(batcher, number(POISON if at == 19 else at)) for at in range(32)]
        await asyncio.sleep(0)
        device.gate.set()
        await first
        return await asyncio.gather(*tasks, return_exceptions=True)

    found, device, metrics = run(scenario, device=Device(is_open=False), max_size=32)
    assert isinstance(found[19], PredictionError)
    assert "deadbeef" not in str(found[19])
    assert [outputs.probabilities[0, 0] for at, outputs in enumerate(found) if at != 19] == [
        *range(19),
        *range(20, 32),
    ]
    assert len(device.calls) == 2 + 2 * 5  # halved five times
    assert metrics.num_nonfinite == 0


def test_an_answer_that_is_not_finite_fails_its_own_request_alone():
    async def scenario(batcher, device):
        return await asyncio.gather(
            ask(batcher, number(1, 2)),
            ask(batcher, number(3, 4, NOT_FINITE)),
            ask(batcher, number(5)),
            return_exceptions=True,
        )

    (before, guilty, after), _, metrics = run(scenario)
    assert isinstance(guilty, PredictionError)
    assert guilty.index == 2
    np.testing.assert_array_equal(before.probabilities[:, 0], [1, 2])
    np.testing.assert_array_equal(after.probabilities[:, 0], [5])
    assert metrics.num_nonfinite == 1


def test_the_guilty_image_is_named_in_a_request_of_several_batches():
    async def scenario(batcher, device):
        with pytest.raises(PredictionError) as caught:
            await ask(batcher, number(*range(9), POISON, *range(10, 14)))
        return caught.value.index

    index, _, _ = run(scenario, max_size=4)
    assert index == 9


def test_a_model_that_always_fails_fails_each_request_and_the_thread_lives():
    async def scenario(batcher, device):
        found = await asyncio.gather(
            *(ask(batcher, number(POISON)) for _ in range(8)), ask(batcher, number(POISON, 1)), return_exceptions=True
        )
        assert {type(error) for error in found} == {PredictionError}
        return await ask(batcher, number(7))

    outputs, _, _ = run(scenario)
    assert outputs.probabilities[0, 0] == 7


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((0, 4, 4, 1), np.uint8),
        np.zeros((4, 4, 1), np.uint8),
        np.full((1, 4, 4, 1), np.nan, np.float32),
        np.zeros((17, 4, 4, 1), np.uint8),
    ],
    ids=["none", "dims", "dtype", "too many"],
)
def test_what_is_no_request_is_refused_before_it_waits(images):
    async def scenario(batcher, device):
        with pytest.raises(InputError, match="expected uint8 \\(n, h, w, c\\), n from 1 to 16"):
            await ask(batcher, images)

    _, device, _ = run(scenario, max_size=2)
    assert device.calls == []


def test_closing_answers_what_was_accepted_and_refuses_what_comes_later():
    async def scenario(batcher, device):
        tasks = [ask_later(batcher, number(0))]
        await device.wait_until_busy()
        tasks += [ask_later(batcher, number(at)) for at in range(1, 6)]
        await asyncio.sleep(0)
        closing = asyncio.create_task(batcher.close(600))
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError) as caught:
            await ask(batcher, number(9))
        device.gate.set()
        await asyncio.wait_for(closing, 20)
        return caught.value.reason, [(await task).probabilities[0, 0] for task in tasks]

    (reason, answers), _, metrics = run(scenario, device=Device(is_open=False))
    assert reason == "draining"
    assert answers == [0, 1, 2, 3, 4, 5]
    assert metrics.refusals == ["draining"]


def test_closing_waits_no_longer_than_told():
    async def scenario(batcher, device):
        tasks = [ask_later(batcher, number(0))]
        await device.wait_until_busy()
        tasks.append(ask_later(batcher, number(1)))
        await asyncio.sleep(0)
        await asyncio.wait_for(batcher.close(0.05), 20)
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert [error.reason for error in found] == ["draining", "draining"]

    _, device, metrics = run(scenario, device=Device(is_open=False))
    assert device.calls == [[0]]
    assert metrics.refusals == ["draining", "draining"]


def test_a_storm_of_impatient_clients_leaves_nothing_behind():
    draw = np.random.default_rng(1)

    async def scenario(batcher, device):
        async def client(at):
            task = ask_later(batcher, number(*[at % 250] * int(draw.integers(1, 6))), seconds=draw.uniform(0, 0.02))
            if draw.random() < 0.3:
                await asyncio.sleep(draw.uniform(0, 0.01))
                task.cancel()
            (found,) = await asyncio.gather(task, return_exceptions=True)
            if isinstance(found, Outputs):
                assert set(found.probabilities[:, 0]) == {at % 250}
            return type(found)

        kinds = []
        for at in range(0, 1500, 100):
            kinds += await asyncio.gather(*map(client, range(at, at + 100)))
        assert batcher.num_queued == 0
        assert not batcher._requests
        return set(kinds)

    def slow_device(images):
        threading.Event().wait(0.001)
        return answer(images)

    answer = Device()
    slow_device.gate = answer.gate
    kinds, _, metrics = run(scenario, device=slow_device, max_size=4, queue_size=64)
    assert kinds == {Outputs, DeadlineError, OverloadedError, asyncio.CancelledError}
    assert set(metrics.refusals) == {"deadline", "queue_full", "client_gone"}
