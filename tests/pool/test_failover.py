"""Which server is tried when: decided without a clock or a socket, so tested without them."""

from __future__ import annotations

import pytest

from smtpconn import (
    AuthError,
    ConnectionClosedError,
    Phase,
    ServerConfig,
    SmtpError,
    SmtpResponse,
    TransientError,
)
from smtpconn.pool.failover import FIRST_BACKOFF, LOGIN_BACKOFF, MAX_BACKOFF, ServerSelector

NOW = 1000.0

DOWN = ConnectionClosedError("gone", phase=Phase.CONNECT)
REFUSED = AuthError(SmtpResponse(535, ("5.7.8 no",)), phase=Phase.AUTH)
REFUSED_FOR_NOW = AuthError(SmtpResponse(454, ("4.7.0 later",)), phase=Phase.AUTH)
BUSY = TransientError(SmtpResponse(421, ("4.7.0 too many connections",)), phase=Phase.CONNECT)


def servers(count: int = 3) -> ServerSelector:
    """So many servers, named by number."""
    return ServerSelector(
        [ServerConfig.from_url(f"smtp://mx{n}.example.test") for n in range(count)]
    )


@pytest.mark.parametrize(
    ("failing", "order"),
    [
        ([], [0, 1, 2]),
        ([0], [1, 2, 0]),
        ([1], [0, 2, 1]),
        ([2], [0, 1, 2]),
        ([0, 1], [2, 0, 1]),
        ([1, 0], [2, 0, 1]),
        ([2, 0], [1, 0, 2]),
        ([0, 1, 2], [0, 1, 2]),
        ([2, 1, 0], [0, 1, 2]),
    ],
)
def test_the_rested_come_first_and_all_are_tried(failing: list[int], order: list[int]) -> None:
    """Healthy servers come first, resting ones behind them, each group in the order given."""
    group = servers()
    for index in failing:
        group.failed(index, DOWN, NOW)
    assert group.to_try(NOW) == order
    assert group.preferred(NOW) == order[0]
    # When the rests are over, everything is as it was.
    assert group.to_try(NOW + FIRST_BACKOFF) == [0, 1, 2]


def test_a_rest_ends_at_its_moment() -> None:
    """A server rests up to its moment, and not any more at it."""
    group = servers(2)
    group.failed(0, DOWN, NOW)
    assert group.to_try(NOW + FIRST_BACKOFF - 0.001) == [1, 0]
    assert group.to_try(NOW + FIRST_BACKOFF) == [0, 1]


def rest(group: ServerSelector, now: float) -> float:
    """How long the first server rests from ``now`` on, to a tenth of a second."""
    return next(t / 10 for t in range(10_000) if group.preferred(now + t / 10) == 0)


def test_rests_double_up_to_the_limit() -> None:
    """Each failure in a row doubles the rest, and none is longer than the limit."""
    group, now, rests = servers(2), NOW, []
    for _ in range(10):
        group.failed(0, DOWN, now)
        rests.append(rest(group, now))
        now += rests[-1]
    assert rests == [min(MAX_BACKOFF, FIRST_BACKOFF * 2**n) for n in range(10)]
    assert rests[:7] == [1, 2, 4, 8, 16, 32, 60]


def test_a_server_that_is_down_for_weeks_still_has_a_rest() -> None:
    """However often a server fails, its rest stays the longest one."""
    group = servers(2)
    now = NOW
    for _ in range(5000):
        now += MAX_BACKOFF
        group.failed(0, DOWN, now)
    assert rest(group, now) == MAX_BACKOFF


def test_failures_during_a_rest_do_not_lengthen_it() -> None:
    """Ten callers that meet one failure together are one failure to the server's rest."""
    group = servers(2)
    for _ in range(10):
        group.failed(0, DOWN, NOW)
    assert rest(group, NOW) == FIRST_BACKOFF
    assert group.stats()[0].failures == 10


def test_a_failure_that_says_little_costs_no_rest() -> None:
    """A failure that is not to count is in the figures, and the server is tried all the same."""
    group = servers(2)
    group.failed(0, DOWN, NOW, rests=False)
    assert group.preferred(NOW) == 0
    assert group.stats()[0].last_error is not None


def test_a_success_resets_everything() -> None:
    """After a success a server is healthy, and its next rest is a first one."""
    group = servers(2)
    for _ in range(5):
        group.failed(0, REFUSED, NOW)
    assert group.login_refusal(0, NOW) is not None
    group.succeeded(0)
    assert group.to_try(NOW) == [0, 1]
    assert group.login_refusal(0, NOW) is None
    assert group.last_error() is None
    assert group.stats() == servers(2).stats()
    group.failed(0, DOWN, NOW)
    assert rest(group, NOW) == FIRST_BACKOFF


@pytest.mark.parametrize(
    ("error", "rests"),
    [(REFUSED, True), (REFUSED_FOR_NOW, False), (DOWN, False), (BUSY, False)],
    ids=["535", "454", "closed", "421"],
)
def test_only_a_refused_login_is_not_tried_again(error: SmtpError, rests: bool) -> None:
    """A 5xx to AUTH is repeated to callers until the login's rest is over; nothing else is."""
    group = servers(2)
    group.failed(0, error, NOW)
    assert (group.login_refusal(0, NOW) is not None) == rests
    assert (group.login_refusal(0, NOW + LOGIN_BACKOFF - 0.001) is not None) == rests
    assert group.login_refusal(0, NOW + LOGIN_BACKOFF) is None
    assert group.login_refusal(1, NOW) is None


def test_each_caller_gets_a_refusal_of_its_own() -> None:
    """Refusals are copies: callers raise them in many threads, and no traceback is shared."""
    group = servers(1)
    try:
        raise REFUSED
    except AuthError as error:
        group.failed(0, error, NOW)
    first, second = group.login_refusal(0, NOW), group.login_refusal(0, NOW)
    assert isinstance(first, AuthError)
    assert isinstance(second, AuthError)
    assert first is not second
    assert first.response == second.response == REFUSED.response
    assert str(first) == str(REFUSED)
    assert first.__traceback__ is None


def test_the_figures_of_each_server() -> None:
    """The figures tell each server's failures in a row and what the last one was."""
    group = servers()
    group.failed(1, DOWN, NOW)
    group.failed(1, BUSY, NOW)
    group.failed(2, DOWN, NOW)
    group.succeeded(2)
    first, second, third = group.stats()
    assert [s.server for s in group.stats()] == [f"mx{n}.example.test:25" for n in range(3)]
    assert (first.is_healthy, first.failures, first.last_error) == (True, 0, None)
    assert (second.is_healthy, second.failures) == (False, 2)
    assert isinstance(second.last_error, TransientError)
    assert (third.is_healthy, third.failures, third.last_error) == (True, 0, None)


def test_the_last_error_is_the_most_preferred_servers() -> None:
    """The trouble that is told is that of the most preferred server that has any."""
    group = servers()
    assert group.last_error() is None
    group.failed(2, DOWN, NOW)
    assert isinstance(group.last_error(), ConnectionClosedError)
    group.failed(1, BUSY, NOW)
    assert isinstance(group.last_error(), TransientError)
    group.succeeded(1)
    assert isinstance(group.last_error(), ConnectionClosedError)


def test_the_servers_are_those_given() -> None:
    """The configurations are kept in the order given."""
    group = servers(2)
    assert len(group) == 2
    assert [group.config(n).host for n in range(2)] == ["mx0.example.test", "mx1.example.test"]
