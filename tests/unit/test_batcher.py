import asyncio
from collections.abc import Sequence

import pytest

from service.batcher import Asker, Batcher
from service.errors import Overloaded
from tests.waiting import until


def nobody_fails(batch: list[int], error: Exception) -> None:
    raise AssertionError(f"{batch} failed: {error!r}")


async def test_what_gathers_while_a_batch_is_under_way_is_the_next_batch() -> None:
    """A lone item goes at once; the five that come meanwhile go together, up to the bound."""
    batches: list[list[int]] = []
    gate = asyncio.Event()

    async def work(batch: list[int]) -> None:
        batches.append(batch)
        await gate.wait()

    batcher = Batcher[int](work, nobody_fails, at_once=1, batch_max=4, queue_max=10)

    batcher.put(0)
    await asyncio.sleep(0)
    for item in range(1, 6):
        batcher.put(item)
    await asyncio.sleep(0)
    gate.set()
    await until(lambda: len(batches) >= 3, what="all are worked on")

    assert [[0], [1, 2, 3, 4], [5]] == batches


async def test_items_of_one_turn_of_the_loop_go_together() -> None:
    """Nobody waits for a timer, and yet the first of a crowd does not go alone."""
    batches: list[list[int]] = []

    async def work(batch: list[int]) -> None:
        batches.append(batch)

    batcher = Batcher[int](work, nobody_fails, at_once=2, batch_max=100, queue_max=100)

    for item in range(3):
        batcher.put(item)
    await until(lambda: sum(map(len, batches)) >= 3, what="all are worked on")

    assert [[0, 1, 2]] == batches


async def test_no_more_batches_side_by_side_than_allowed() -> None:
    """Two writers, five batches: never three at once."""
    running = 0
    most = 0

    async def work(_batch: list[int]) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.005)
        running -= 1

    batcher = Batcher[int](work, nobody_fails, at_once=2, batch_max=1, queue_max=10)

    for item in range(5):
        batcher.put(item)
    await until(lambda: len(batcher) == 0 and running == 0, what="all are worked on")

    assert most == 2


async def test_nothing_is_begun_beside_a_batch_that_gets_on() -> None:
    """With patience, what comes meanwhile is the next batch, though two were allowed side by side."""
    running = most = 0
    batches: list[list[int]] = []

    async def work(batch: list[int]) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        batches.append(batch)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        running -= 1

    batcher = Batcher[int](work, nobody_fails, at_once=2, batch_max=100, queue_max=100, patience_s=60.0)

    for item in range(20):
        batcher.put(item)
        await asyncio.sleep(0)
    await until(lambda: not batcher.busy, what="all are worked on")

    assert list(range(20)) == [item for batch in batches for item in batch]
    assert most == 1


async def test_a_batch_that_is_stuck_is_passed() -> None:
    """Another lane is opened beside it when patience ends, and serves all that comes; afterwards one lane is enough again."""
    gate, stuck = asyncio.Event(), [0]
    done: list[int] = []
    running = most = 0

    async def work(batch: list[int]) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        if batch == stuck:
            await gate.wait()
        await asyncio.sleep(0)
        done.extend(batch)
        running -= 1

    batcher = Batcher[int](work, nobody_fails, at_once=2, batch_max=50, queue_max=100, patience_s=0.05)

    batcher.put(0)
    await asyncio.sleep(0)
    for item in range(1, 10):
        batcher.put(item)
    await until(lambda: len(done) == 9, what="the others are worked on")
    assert (list(range(1, 10)), 2) == (done, most)

    most = 0
    gate.set()
    await until(lambda: len(done) == 10 and not batcher.busy, what="the one that was stuck is worked on")
    for item in range(10, 20):
        batcher.put(item)
        await asyncio.sleep(0)
    await until(lambda: not batcher.busy, what="all are worked on")
    assert (20, 1) == (len(done), most)


async def test_every_lane_is_opened_when_all_are_stuck() -> None:
    """One after the other, also when nothing more is put."""
    gate = asyncio.Event()
    begun: list[list[int]] = []

    async def work(batch: list[int]) -> None:
        begun.append(batch)
        await gate.wait()

    batcher = Batcher[int](work, nobody_fails, at_once=3, batch_max=2, queue_max=100, patience_s=0.02)

    batcher.put(0)
    await asyncio.sleep(0)
    batcher.put(1)
    await until(lambda: len(begun) == 2, what="the second lane is opened by time")
    for item in (2, 3, 4):
        batcher.put(item)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert [[0], [1], [2, 3]] == begun, "a whole batch does not wait"
    gate.set()
    await until(lambda: not batcher.busy, what="all are worked on")
    assert [4] == begun[-1]


async def test_three_lanes_are_opened_without_another_item() -> None:
    """Whoever waits behind two that are stuck gets the third."""
    gate = asyncio.Event()
    begun: list[list[int]] = []

    async def work(batch: list[int]) -> None:
        begun.append(batch)
        await gate.wait()

    batcher = Batcher[int](work, nobody_fails, at_once=3, batch_max=1, queue_max=100, patience_s=0.02)
    for item in range(3):
        batcher.put(item)
    await until(lambda: len(begun) == 3, what="all three are under way")
    gate.set()
    await until(lambda: not batcher.busy, what="all are worked on")


async def test_a_lane_that_is_cancelled_leaves_no_item_waiting() -> None:
    """Its own batch fails, and what waits is begun by another lane."""
    failed: list[list[int]] = []
    done: list[int] = []
    lanes: list[asyncio.Task[None] | None] = []

    async def work(batch: list[int]) -> None:
        lanes.append(asyncio.current_task())
        await asyncio.sleep(0.02 if batch == [0] else 0)
        done.extend(batch)

    batcher = Batcher[int](work, lambda batch, _: failed.append(batch), at_once=2, batch_max=9, queue_max=9, patience_s=0.01)
    batcher.put(0)
    await asyncio.sleep(0)
    batcher.put(1)
    assert lanes[0] is not None
    lanes[0].cancel()
    await until(lambda: not batcher.busy, what="nothing is under way")
    assert ([[0]], [1]) == (failed, done)


async def test_a_full_queue_refuses_at_once() -> None:
    """The bound holds for what waits; what is being worked on has left the queue."""
    gate = asyncio.Event()

    async def work(_batch: list[int]) -> None:
        await gate.wait()

    batcher = Batcher[int](work, nobody_fails, at_once=1, batch_max=1, queue_max=2)
    batcher.put(0)
    await asyncio.sleep(0)
    batcher.put(1)
    batcher.put(2)

    with pytest.raises(Overloaded):
        batcher.put(3)
    gate.set()


async def test_a_defect_in_one_batch_is_told_and_the_next_batch_goes_on() -> None:
    """An item never waits for ever, and a worker survives."""
    failed: list[tuple[list[int], str]] = []
    done: list[int] = []

    async def work(batch: list[int]) -> None:
        if 1 in batch:
            raise ZeroDivisionError("one")
        done.extend(batch)

    batcher = Batcher[int](work, lambda batch, error: failed.append((batch, str(error))), at_once=1, batch_max=1, queue_max=9)

    for item in range(3):
        batcher.put(item)
    await until(lambda: 2 in done, what="the last is worked on")

    assert [([1], "one")] == failed
    assert [0, 2] == done


async def test_each_question_gets_its_own_answer_and_an_error_reaches_all_of_its_batch() -> None:
    """An Asker maps a batch of questions to as many answers."""

    async def double(questions: object) -> list[int]:
        assert isinstance(questions, list)
        if 13 in questions:
            raise ValueError("unlucky")
        return [2 * question for question in questions]

    asker = Asker[int, int](double, at_once=1, batch_max=10, queue_max=10)

    assert [2, 4, 6] == await asyncio.gather(*(asker.ask(question) for question in (1, 2, 3)))
    answers = await asyncio.gather(asker.ask(13), asker.ask(14), return_exceptions=True)
    assert ["unlucky", "unlucky"] == [str(answer) for answer in answers]


async def test_an_item_put_as_the_worker_ends_is_worked_on() -> None:
    """The answer to the last item of a batch may be what puts the next item."""
    done: list[int] = []
    answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def work(batch: list[int]) -> None:
        done.extend(batch)
        if not answered.done():
            answered.set_result(None)

    batcher = Batcher[int](work, nobody_fails, at_once=1, batch_max=1, queue_max=9)

    batcher.put(0)
    await answered
    batcher.put(1)
    await until(lambda: 1 in done, what="the second is worked on")

    assert [0, 1] == done


@pytest.mark.parametrize(("heard_only", "asked"), [(True, [[1], [3]]), (False, [[1], [2, 3]])])
async def test_a_question_that_nobody_waits_for_is_dropped_only_if_it_may_be(heard_only: bool, asked: list[list[int]]) -> None:
    """A look-up for a client long answered is waste; a release is not."""
    batches: list[list[int]] = []
    gate = asyncio.Event()

    async def answer(questions: Sequence[int]) -> Sequence[int]:
        batches.append(list(questions))
        await gate.wait()
        return questions

    asker = Asker[int, int](answer, at_once=1, batch_max=10, queue_max=10, heard_only=heard_only)
    first = asyncio.create_task(asker.ask(1))
    await until(lambda: batches == [[1]], what="the first is asked")
    second, third = asyncio.create_task(asker.ask(2)), asyncio.create_task(asker.ask(3))
    await asyncio.sleep(0.01)
    second.cancel()
    await asyncio.sleep(0)
    gate.set()

    assert (1, 3) == (await first, await third)
    assert asked == batches
    await asyncio.sleep(0)
    assert not asker.busy


async def test_a_cancelled_worker_leaves_nobody_waiting_and_the_queue_alive() -> None:
    """Whatever ends a worker in the middle of a batch, that batch is told and the next one is worked on."""
    failed: list[list[int]] = []
    done: list[int] = []

    async def work(batch: list[int]) -> None:
        if 0 in batch:
            raise asyncio.CancelledError
        done.extend(batch)

    batcher = Batcher[int](work, lambda batch, _: failed.append(batch), at_once=1, batch_max=1, queue_max=9)

    batcher.put(0)
    batcher.put(1)
    await until(lambda: 1 in done, what="the next one is worked on")
    batcher.put(2)
    await until(lambda: 2 in done, what="and those after it")

    assert [[0]] == failed
    assert [1, 2] == done
