"""Which server is tried when; without a clock or a socket."""

from __future__ import annotations

import pytest

from smtpconn import (
    AuthError,
    ConnectionClosedError,
    Phase,
    ServerConfig,
    SmtpError,
    SmtpResponse,
    SmtpTimeoutError,
    TransientError,
)
from smtpconn.pool.failover import (
    FIRST_BACKOFF,
    LOGIN_BACKOFF,
    MAX_BACKOFF,
    SERVER_LIMIT_DURATION,
    TRIAL_TIMEOUT,
    ServerSelector,
)

NOW = 1000.0

DOWN = ConnectionClosedError("gone", phase=Phase.CONNECT)
REFUSED = AuthError(SmtpResponse(535, ("5.7.8 no",)), phase=Phase.AUTH)
REFUSED_FOR_NOW = AuthError(SmtpResponse(454, ("4.7.0 later",)), phase=Phase.AUTH)
HURRIED = SmtpTimeoutError("no time", phase=Phase.CONNECT)
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
    assert group.to_try(NOW)[0] == order[0]
    # After the backoff, everything is as it was.
    assert group.to_try(NOW + FIRST_BACKOFF) == [0, 1, 2]


def test_a_backoff_ends_at_its_time() -> None:
    """The backoff ends exactly at its time."""
    group = servers(2)
    group.failed(0, DOWN, NOW)
    assert group.to_try(NOW + FIRST_BACKOFF - 0.001) == [1, 0]
    assert group.to_try(NOW + FIRST_BACKOFF) == [0, 1]


def backoff(group: ServerSelector, now: float) -> float:
    """The backoff of the first server from ``now`` on, to a tenth of a second."""
    return next(t / 10 for t in range(10_000) if group.to_try(now + t / 10)[0] == 0)


def test_backoffs_double_up_to_the_limit() -> None:
    """Each consecutive failure doubles the backoff, up to the limit."""
    group, now, backoffs = servers(2), NOW, []
    for _ in range(10):
        group.failed(0, DOWN, now)
        backoffs.append(backoff(group, now))
        now += backoffs[-1]
    assert backoffs == [min(MAX_BACKOFF, FIRST_BACKOFF * 2**n) for n in range(10)]
    assert backoffs[:7] == [1, 2, 4, 8, 16, 32, 60]


def test_a_server_that_is_down_for_weeks_still_has_a_backoff() -> None:
    """However often a server fails, its rest stays the longest one."""
    group = servers(2)
    now = NOW
    for _ in range(5000):
        now += MAX_BACKOFF
        group.failed(0, DOWN, now)
    assert backoff(group, now) == MAX_BACKOFF


def test_failures_during_a_backoff_do_not_lengthen_it() -> None:
    """Ten callers that meet one failure together are one failure to the server's rest."""
    group = servers(2)
    for _ in range(10):
        group.failed(0, DOWN, NOW)
    assert backoff(group, NOW) == FIRST_BACKOFF
    assert group.stats()[0].failures == 10


def test_twelve_failures_in_a_row_cost_a_server_its_place() -> None:
    """One failure costs a second; twelve consecutive ones cost a minute."""
    group, now = servers(2), NOW
    group.failed(0, HURRIED, now)
    assert backoff(group, now) == FIRST_BACKOFF
    for _ in range(11):
        now += backoff(group, now)
        group.failed(0, HURRIED, now)
    assert backoff(group, now) == MAX_BACKOFF
    group.succeeded(0, now)
    assert group.to_try(now)[0] == 0


# Asking whether a server is back


def begin(group: ServerSelector, now: float) -> list[int]:
    """What a caller who needs a connection does: the order, and its trials begun."""
    order = group.to_try(now)
    group.begin_trials(order, now)
    return order


def test_one_caller_asks_whether_a_server_is_back() -> None:
    """After the backoff the first caller tries; for the others the server comes last until then."""
    group = servers(2)
    group.failed(0, DOWN, NOW)
    now = NOW + FIRST_BACKOFF
    assert [begin(group, now) for _ in range(3)] == [[0, 1], [1, 0], [1, 0]]
    group.failed(0, DOWN, now)
    assert begin(group, now) == [1, 0]
    now += 2 * FIRST_BACKOFF
    assert [begin(group, now) for _ in range(2)] == [[0, 1], [1, 0]]
    group.succeeded(0, now)
    assert [begin(group, now) for _ in range(2)] == [[0, 1], [0, 1]]


def test_a_trial_that_is_cut_off_ends_by_itself() -> None:
    """The caller that tries may never report; after a while the next caller tries."""
    group = servers(2)
    group.failed(0, DOWN, NOW)
    now = NOW + FIRST_BACKOFF
    assert begin(group, now) == [0, 1]
    assert begin(group, now + TRIAL_TIMEOUT - 0.001) == [1, 0]
    assert begin(group, now + TRIAL_TIMEOUT) == [0, 1]


def test_healthy_servers_are_for_all_callers() -> None:
    """No trial is begun at a server that never failed, nor behind one."""
    group = servers(3)
    group.failed(1, DOWN, NOW)
    now = NOW + FIRST_BACKOFF
    assert [begin(group, now) for _ in range(3)] == [[0, 1, 2]] * 3
    group.failed(0, DOWN, now)
    assert [begin(group, now) for _ in range(2)] == [[1, 2, 0], [2, 0, 1]]


def test_the_only_server_is_for_all_callers() -> None:
    """There is no other caller to wait for."""
    group = servers(1)
    group.failed(0, DOWN, NOW)
    now = NOW + FIRST_BACKOFF
    assert [begin(group, now) for _ in range(3)] == [[0]] * 3


def test_when_all_have_failed_all_are_tried() -> None:
    """A trial does not exclude callers from the only server that may work."""
    group = servers(2)
    for index in (0, 1):
        group.failed(index, DOWN, NOW)
    assert begin(group, NOW) == [0, 1]
    now = NOW + FIRST_BACKOFF
    assert [begin(group, now) for _ in range(2)] == [[0, 1], [1, 0]]


def test_a_connection_to_a_backup_is_kept_until_a_better_server_is_back() -> None:
    """A better server has to be asked after its rest; only once it answered is it better."""
    group = servers(3)
    for index in (0, 1):
        group.failed(index, DOWN, NOW)
    assert group.better_to_try(2, NOW) is None
    assert not group.has_better(2)
    now = NOW + FIRST_BACKOFF
    assert group.better_to_try(2, now) == 0
    assert group.better_to_try(1, now) == 0
    assert group.better_to_try(0, now) is None
    assert not group.has_better(2)
    group.begin_trial(0, now)
    assert group.better_to_try(2, now) == 1  # another caller may ask the other one
    group.succeeded(1, now)
    assert group.has_better(2)
    assert not group.has_better(1)
    group.succeeded(0, now)
    assert group.has_better(1)


# Servers that take no more connections


class Pool:
    """How many connections there are to each server."""

    def __init__(self, *counts: int) -> None:
        self.counts = list(counts)
        configs = [ServerConfig.from_url(f"smtp://mx{n}.example.test") for n in range(len(counts))]
        self.servers = ServerSelector(configs, self.counts.__getitem__)

    def refuse(self, index: int, now: float) -> None:
        """Have a server say "too many connections"."""
        self.servers.failed(index, BUSY, now)
        self.servers.met_limit(index, now)


def test_a_full_server_gets_no_more_and_the_others_do() -> None:
    """For a minute it has as many as it took; the order of the others stays."""
    pool = Pool(3, 0)
    pool.refuse(0, NOW)
    group = pool.servers
    assert group.to_try(NOW) == [1]
    assert group.to_try(NOW + SERVER_LIMIT_DURATION - 0.001) == [1]
    assert group.to_try(NOW + SERVER_LIMIT_DURATION) == [0, 1]
    # One was given up, so that there is room for one: its rest is over by then.
    pool.counts[0] = 2
    assert group.to_try(NOW + FIRST_BACKOFF) == [0, 1]


def test_a_server_that_refuses_the_first_connection_has_no_limit() -> None:
    """With none to it, "too many" says nothing of how many there may be; it gets a backoff."""
    pool = Pool(0, 4)
    pool.refuse(0, NOW)
    assert pool.servers.to_try(NOW) == [1, 0]
    assert pool.servers.to_try(NOW + FIRST_BACKOFF) == [0, 1]


def test_a_limit_that_was_met_has_to_be_asked_for_again() -> None:
    """Connections to the backup are kept after the minute, until one caller got one more."""
    pool = Pool(3, 5)
    group = pool.servers
    pool.refuse(0, NOW)
    pool.counts[0] = 2
    now = NOW + FIRST_BACKOFF
    assert group.better_to_try(1, now) == 0
    group.succeeded(0, now)
    assert group.has_better(1)  # there is room for one
    pool.counts[0] = 3
    assert not group.has_better(1)
    assert group.better_to_try(1, now) is None
    now = NOW + SERVER_LIMIT_DURATION
    assert not group.has_better(1)
    assert group.better_to_try(1, now) == 0
    assert [begin(group, now) for _ in range(2)] == [[0, 1], [1, 0]]
    assert group.better_to_try(1, now) is None
    group.succeeded(0, now)
    assert group.has_better(1)


def test_when_to_try_again() -> None:
    """When the first of them has rested and has room."""
    pool = Pool(3, 2)
    group = pool.servers
    pool.refuse(0, NOW)
    assert group.retry_at(NOW) == NOW  # the other one can be had
    pool.refuse(1, NOW + 10)
    assert group.retry_at(NOW + 10) == NOW + SERVER_LIMIT_DURATION
    assert group.to_try(NOW + 10) == []
    pool.counts[1] = 1
    assert group.retry_at(NOW + 10) == NOW + 10 + FIRST_BACKOFF
    only = Pool(1)
    only.refuse(0, NOW)
    assert only.servers.retry_at(NOW) == NOW + SERVER_LIMIT_DURATION


def test_a_login_in_backoff_repeats_its_own_refusal() -> None:
    """Other errors of the server during that time are not reported instead."""
    group = servers(1)
    group.failed(0, REFUSED, NOW)
    group.failed(0, DOWN, NOW + 1)
    assert isinstance(group.login_refusal(0, NOW + 1), AuthError)
    assert isinstance(group.last_error(), ConnectionClosedError)


def test_a_success_resets_everything() -> None:
    """After a success a server is healthy, and its next rest is a first one."""
    group = servers(2)
    for _ in range(5):
        group.failed(0, REFUSED, NOW)
    assert group.login_refusal(0, NOW) is not None
    group.succeeded(0, NOW)
    assert group.to_try(NOW) == [0, 1]
    assert group.login_refusal(0, NOW) is None
    assert group.last_error() is None
    assert group.stats() == servers(2).stats()
    group.failed(0, DOWN, NOW)
    assert backoff(group, NOW) == FIRST_BACKOFF


@pytest.mark.parametrize(
    ("error", "backoffs"),
    [(REFUSED, True), (REFUSED_FOR_NOW, False), (DOWN, False), (BUSY, False)],
    ids=["535", "454", "closed", "421"],
)
def test_only_a_refused_login_is_not_tried_again(error: SmtpError, backoffs: bool) -> None:
    """A 5xx to AUTH is repeated to callers until the login's rest is over; nothing else is."""
    group = servers(2)
    group.failed(0, error, NOW)
    assert (group.login_refusal(0, NOW) is not None) == backoffs
    assert (group.login_refusal(0, NOW + LOGIN_BACKOFF - 0.001) is not None) == backoffs
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
    group.succeeded(2, NOW)
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
    group.succeeded(1, NOW)
    assert isinstance(group.last_error(), ConnectionClosedError)


def test_the_servers_are_those_given() -> None:
    """The configurations are kept in the order given."""
    group = servers(2)
    assert len(group) == 2
    assert [group.config(n).host for n in range(2)] == ["mx0.example.test", "mx1.example.test"]


@pytest.mark.parametrize("later", [DOWN, BUSY, REFUSED_FOR_NOW], ids=["closed", "421", "454"])
def test_a_login_in_backoff_repeats_its_own_error(later: SmtpError) -> None:
    """Connects that were in flight when the login was refused may fail otherwise; no matter."""
    group = servers(1)
    group.failed(0, REFUSED, NOW)
    group.failed(0, later, NOW + 1)
    refusal = group.login_refusal(0, NOW + 2)
    assert isinstance(refusal, AuthError)
    assert refusal.response == REFUSED.response
    # What is shown of the server is what went wrong last.
    last = group.last_error()
    assert str(last) == str(later)
