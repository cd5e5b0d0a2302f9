"""How far a run is: a bar with the time left on a terminal, a line for each step elsewhere. All of it on standard error."""

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

REFRESH_S = 0.5


class Pace:
    """How much longer it takes, by how long the steps were thought to take and how long they took.

    Args:
        expected_s: roughly how long each step takes.
        begun_at: when the first one began, by the monotonic clock.
    """

    def __init__(self, expected_s: Sequence[float], begun_at: float) -> None:
        self._expected_s = list(expected_s)
        self._done = 0
        self._begun_at = begun_at

    def step_done(self) -> None:
        """One more step is over."""
        self._done += 1

    def left_s(self, into_step_s: float = 0.0, now: float | None = None) -> float:
        """Seconds left, the present step having taken so many by now."""
        done_s = sum(self._expected_s[: self._done])
        spent_s = (time.monotonic() if now is None else now) - self._begun_at - into_step_s
        factor = spent_s / done_s if done_s else 1.0
        return max(sum(self._expected_s[self._done :]) * factor - into_step_s, 0.0)


class Display:
    """What a person sees.

    Args:
        expected_s: roughly how long each step takes.
    """

    def __init__(self, expected_s: Sequence[float]) -> None:
        self._console = Console(stderr=True)
        self._pace = Pace(expected_s, time.monotonic())
        self._count, self._number = len(expected_s), 0
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(None), MofNCompleteColumn(), TextColumn("{task.fields[left]}"),
            console=self._console, transient=True, refresh_per_second=2, disable=not self._console.is_terminal,
        )  # fmt: skip
        self._task: TaskID = self._bar.add_task("", total=self._count, left="")
        self._last = ""

    @contextmanager
    def shown(self) -> Iterator["Display"]:
        """For as long as the run takes."""
        with self._bar:
            yield self

    @contextmanager
    def step(self, title: str) -> Iterator[list[str]]:
        """One step; what is added to the list it yields is said of it when it is over."""
        self._number += 1
        begun_at = time.monotonic()
        said: list[str] = []
        over = threading.Event()

        def show() -> None:
            while True:
                left = timedelta(seconds=int(self._pace.left_s(time.monotonic() - begun_at)))
                self._bar.update(self._task, description=f"{title}{self._last}", left=f"{left} left")
                if over.wait(REFRESH_S):
                    return

        thread = threading.Thread(target=show, daemon=True)
        thread.start()
        try:
            yield said
        finally:
            over.set()
            thread.join()
        self._pace.step_done()
        self._bar.update(self._task, completed=self._number)
        self._last = f"  [{said[0]} before]" if said else ""
        self.say(f"{self._number}/{self._count} {title}: {', '.join(said)}; {timedelta(seconds=int(self._pace.left_s()))} left")

    def say(self, text: str) -> None:
        """A line that stays."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def counting(of: int, what: str) -> Iterator[Callable[[int], None]]:
    """For what is counted and not timed, such as rows that are filled in. Yields what is to be told of each so many more."""
    counter = Counter(of, what)
    yield counter.add
    if of:
        counter.tell()
        sys.stderr.write("\n" if counter.in_place else "")


class Counter:
    """So many of so many, told in place on a terminal and now and then elsewhere."""

    TELL_S = (0.5, 10.0)

    def __init__(self, of: int, what: str) -> None:
        self._of, self._what, self._is = of, what, 0
        self._begun_at = self._told_at = time.monotonic()
        self.in_place = sys.stderr.isatty()
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        """So many more."""
        with self._lock:
            self._is += count
            if time.monotonic() - self._told_at >= self.TELL_S[0 if self.in_place else 1]:
                self.tell()

    def tell(self) -> None:
        """How many, how fast, how much longer."""
        self._told_at = time.monotonic()
        rate = self._is / max(self._told_at - self._begun_at, 0.001)
        left = timedelta(seconds=int((self._of - self._is) / rate)) if rate else "?"
        begin, end = ("\r\x1b[K", "") if self.in_place else ("", "\n")
        sys.stderr.write(f"{begin}{self._is:,} of {self._of:,} {self._what}, {rate:,.0f}/s, {left} left{end}")
        sys.stderr.flush()
