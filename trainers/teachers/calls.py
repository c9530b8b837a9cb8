# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Calls of models that cost: what a failed one means, which are repeated and when, and how many there may be."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from retort.trainers.runtime.errors import TeacherError

logger = logging.getLogger(__name__)

LONGEST_WAIT = 60.0  # seconds between two tries, where the server does not say
LONGEST_PAUSE = 600.0  # seconds that a server may ask to wait
SECONDS_A_CALL = 0.5  # assumed in plans; of a model that writes, a second
CHARACTERS_A_TOKEN = 4  # of English, about
SECONDS_AN_ANSWER = 1.0
REFUSED = {400, 413, 414, 415, 422}  # HTTP statuses that may be about what a request holds
FAILED = 500  # repeated; but a text may be what a server fails on
PERMANENT = {401, 402, 403, 404, 405, 406, 407, 410, 501, 505}  # about all requests
NO_MONEY = {"insufficient_quota", "billing_hard_limit_reached"}  # OpenAI's codes, under a status of 429
# Without a status these are answers that cannot be read, or mistakes of a program: the next try gives the same.
_HOPELESS = (ValueError, TypeError, LookupError, AttributeError, ImportError, AssertionError, ArithmeticError)

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class CallLimitError(TeacherError):
    """All calls that were allowed are made."""


class StoppedError(CallLimitError):
    """Another call failed for good, or the user stopped it: this one is not repeated."""


@dataclass(frozen=True)
class Refusal:
    """
    An answer that did not come, though the server is there.

    :param cause:
        What the server said.
    :param doubtful:
        The server itself may be at fault: it fails, however often it is asked.
    """

    cause: str
    doubtful: bool = False


class CallLimit:
    """
    Counts calls, over all threads.

    :param most:
        How many there may be.
    :param name:
        What the limit is called in messages.
    """

    def __init__(self, most: int, name: str) -> None:
        self._most, self._left, self._name = most, most, name
        self._lock = threading.Lock()

    def take(self) -> None:
        """
        Count a call.

        :raises CallLimitError:
            If there may be no more.
        """
        with self._lock:
            if not self._left:
                msg = f"{self._name}: all {self._most} calls are made."
                raise CallLimitError(msg)
            self._left -= 1


@dataclass(eq=False)
class _Run:
    """The limits of a run: of all its calls, and of single teachers, which it may create more than once."""

    limit: CallLimit | None
    of_teachers: dict[str, CallLimit] = field(default_factory=dict)
    addresses: dict[str, str] = field(default_factory=dict)  # by the key of what answers there


_runs: list[_Run] = []  # of the whole process: teachers are created deep within a run


@contextmanager
def limited_calls(most: int | None) -> Iterator[None]:
    """
    Let remote teachers and generators make so many calls together; then they stop, and what came is kept.

    A teacher's own `max_calls` counts once as well, however often the teacher is created meanwhile.
    """
    if most is not None and most < 0:
        msg = f"max_calls: {most}; it must be 0 or more."
        raise TeacherError(msg)
    run = _Run(None if most is None else CallLimit(most, "max_calls"))
    _runs.append(run)
    try:
        yield
    finally:
        _runs.remove(run)


def first_address(key: str, address: str) -> str:
    """Return the address that this key had first within the run (see `limited_calls`); without a run, `address`."""
    return _runs[-1].addresses.setdefault(key, address) if _runs else address


class Caller:
    """
    Calls one item after the other, some at a time, and repeats what may still succeed.

    Failures are told apart by the HTTP status of the error, or of one that it was raised from. What a server refuses
    for its content (`REFUSED`) is not repeated, nor what all calls would be refused for (`PERMANENT`), nor answers that
    cannot be read. All else is, after the pause that the server asks for (`Retry-After`), which all threads keep, or
    after growing ones. What it fails on (`FAILED`), however often it is repeated, counts as refused.

    :param retries:
        How often a call is repeated.
    :param concurrency:
        Calls at a time.
    :param max_calls:
        How many calls there may be, repeated ones included; None: any number.
    :param name:
        Callers of the same name share their `max_calls` within a run (see `limited_calls`).
    :param paid:
        They count for `limited_calls`.
    :param shares:
        A caller whose `max_calls` counts these calls too, in place of a limit of their own.
    """

    def __init__(
        self,
        *,
        retries: int,
        concurrency: int = 1,
        max_calls: int | None = None,
        name: str = "",
        paid: bool = True,
        shares: Caller | None = None,
    ) -> None:
        self._retries, self._concurrency, self._paid = retries, concurrency, paid
        self._own: list[CallLimit] = [] if shares is None else shares._own
        if max_calls is not None and shares is None:
            limits = _runs[-1].of_teachers if _runs else {}
            self._own = [limits.setdefault(name, CallLimit(max_calls, "the teacher's max_calls"))]
        self._next = 0.0  # no call before this time

    def each(
        self,
        call: Callable[[Item], Answer | Refusal],
        items: Iterable[Item],
        *,
        probe: Item,
        probe_name: str = "a harmless text",
        divide: Callable[[Item], list[Item]] = lambda _: [],
    ) -> Iterator[tuple[Item, Answer | Refusal]]:
        """
        Call for each item.

        Answers come as they arrive. After a failure, or an interruption, no further call begins and none is repeated;
        answers of calls that had begun still come, as they are paid, and then it is raised.

        :param call:
            What is called.
        :param items:
            What for.
        :param probe:
            An item that nobody can refuse for its content. It is asked for after each refusal: where it is refused as
            well, no item is at fault.
        :param probe_name:
            What messages call it.
        :param divide:
            Cuts an item that was refused into smaller ones, to find what is at fault; none: it is small enough.
        :returns:
            Each item with its answer, or a `Refusal`; of an item that was divided, its parts.
        :raises TeacherError:
            If a call fails for good, or the probe is refused.
        """
        waiting: dict[Future[Answer | Refusal], Item] = {}  # in the order of their calls
        failure: BaseException | None = None
        todo, stop = deque(items), threading.Event()

        def one(item: Item) -> Answer | Refusal:
            try:
                return self._once(call, item, stop)
            except Exception:
                stop.set()
                raise

        with ThreadPoolExecutor(self._concurrency) if self._concurrency > 1 else _Here() as pool:
            try:
                while waiting or (todo and failure is None):
                    while todo and failure is None and len(waiting) < self._concurrency:
                        item = todo.popleft()
                        waiting[pool.submit(one, item)] = item
                    try:
                        wait(waiting, return_when=FIRST_COMPLETED)
                    except BaseException as error:  # an interruption: calls in work are paid, and a second one ends all
                        if failure is not None:
                            raise
                        failure = error
                        stop.set()
                        continue
                    future = next(future for future in waiting if future.done())
                    item = waiting.pop(future)
                    try:
                        answer = future.result()
                        if isinstance(answer, Refusal):
                            parts = divide(item)
                            if answer.doubtful or not parts:
                                self._confirm(call, probe, probe_name, stop)
                            if parts:
                                todo.extendleft(reversed(parts))
                                continue
                    except Exception as error:
                        failure = error if failure is None or isinstance(failure, StoppedError) else failure
                        continue
                    yield item, answer
            finally:
                stop.set()  # nobody waits for a pause that was asked for
                pool.shutdown(wait=False, cancel_futures=True)
        if failure is not None:
            raise failure

    def _confirm(self, call: Callable[[Item], Answer | Refusal], probe: Item, name: str, stop: threading.Event) -> None:
        answer = self._once(call, probe, stop)
        if isinstance(answer, Refusal):
            msg = f"all is refused, {name} as well: {answer.cause}"
            raise TeacherError(msg)

    def _once(self, call: Callable[[Item], Answer | Refusal], item: Item, stop: threading.Event) -> Answer | Refusal:
        """Call for one item, and repeat what may still succeed, until `stop`."""
        from tenacity import Retrying, before_sleep_log, retry_if_exception, stop_after_attempt
        from tenacity import wait_random_exponential as growing

        patience = growing(multiplier=1, max=LONGEST_WAIT)

        def pause(state: Any) -> float:
            asked = asked_pause(state.outcome.exception())
            if asked is None:
                return patience(state)
            self._next = max(self._next, time.monotonic() + asked)  # for all threads
            return 0.0

        again = Retrying(
            stop=stop_after_attempt(self._retries + 1),
            wait=pause,
            sleep=lambda seconds: _wait(seconds, stop),
            retry=retry_if_exception(may_pass),
            before_sleep=before_sleep_log(logger, logging.WARNING),
            reraise=True,
        )
        try:
            return again(self._call, call, item, stop)
        except Exception as error:
            if (status := status_of(error)) in REFUSED | {FAILED}:
                return Refusal(str(_root(error)), doubtful=status == FAILED)
            raise

    def _call(self, call: Callable[[Item], Answer | Refusal], item: Item, stop: threading.Event) -> Answer | Refusal:
        if (left := self._next - time.monotonic()) > 0:
            _wait(left, stop)
        if stop.is_set():
            msg = "stopped."
            raise StoppedError(msg)
        of_runs = [run.limit for run in _runs if run.limit is not None] if self._paid else []
        for limit in [*self._own, *of_runs]:
            limit.take()
        return call(item)


def _wait(seconds: float, stop: threading.Event) -> None:
    stop.wait(seconds)


def in_order(answers: Iterator[tuple[int, Answer]]) -> Iterator[Answer]:
    """Give answers as far as their numbers run from 0, whatever order they come in."""
    given, early = 0, {}
    for number, answer in answers:
        early[number] = answer
        while given in early:
            yield early.pop(given)
            given += 1


class _Here(Executor):
    """Runs calls in the thread that waits for them, one at a time: an interruption reaches them."""

    def submit(self, fn: Any, /, *arguments: Any, **options: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*arguments, **options))
        except Exception as error:
            future.set_exception(error)
        return future


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status that an error, or one that it was raised from, tells of; None without one."""
    for one in _chain(error):
        for holder in (one, getattr(one, "response", None)):
            for name in ("status_code", "status", "code"):
                status = getattr(holder, name, None)
                if isinstance(status, int) and 400 <= status < 600:  # noqa: PLR2004
                    return int(status)
    return None


def asked_pause(error: BaseException | None) -> float | None:
    """Return the seconds that a server asks to wait for (`Retry-After`); None where it does not."""
    for one in _chain(error):
        headers: Any = getattr(getattr(one, "response", None), "headers", None) or {}
        exact, said = headers.get("retry-after-ms"), headers.get("retry-after")
        try:
            if exact:
                return max(0.0, float(exact) / 1000)
            if said:
                date = said if ":" in said else None
                return max(0.0, parsedate_to_datetime(date).timestamp() - time.time() if date else float(said))
        except ValueError:  # neither a number nor a date
            return None
    return None


def may_pass(error: BaseException) -> bool:
    """Tell whether the same call may succeed later."""
    if isinstance(error, CallLimitError) or not isinstance(error, Exception):
        return False
    root = _root(error)
    status = status_of(error)
    if status is not None:
        out_of_money = any(getattr(one, "code", None) in NO_MONEY for one in _chain(error))
        return not (status in REFUSED | PERMANENT or out_of_money) and (asked_pause(error) or 0) <= LONGEST_PAUSE
    return isinstance(root, json.JSONDecodeError) or not isinstance(root, _HOPELESS)


def _root(error: BaseException) -> BaseException:
    """What a `TeacherError` was raised from; other errors are their own."""
    return error.__cause__ if isinstance(error, TeacherError) and error.__cause__ is not None else error


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
