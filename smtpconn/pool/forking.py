"""What happens in a forked child: everything that holds connections forgets them.

A child has the parent's sockets, and its locks as they were at that moment, but not the threads
that would release them. So whoever holds connections registers here and is told to begin anew. The
parent notices nothing: the child closes descriptors and says nothing on them, no QUIT and no TLS
shutdown, which would end the parent's session.
"""

from __future__ import annotations

import os
import weakref
from typing import Protocol

from smtpconn.pool import maintenance


class Forgetful(Protocol):
    """Something that can begin anew in a child."""

    def forget(self) -> None:
        """Drop what belongs to the parent; called in the child, where no other thread exists."""


# A dict and not a WeakSet: a fork may come while another thread is half-way through a change.
_holders: dict[int, weakref.ref[Forgetful]] = {}


def forget_in_child(holder: Forgetful) -> None:
    """See to it that ``holder.forget()`` is called in every child forked from now on."""
    key = id(holder)

    def gone(reference: weakref.ref[Forgetful]) -> None:
        if _holders.get(key) is reference:
            del _holders[key]

    _holders[key] = weakref.ref(holder, gone)


def _after_fork_in_child() -> None:
    maintenance.start_anew()
    for reference in list(_holders.values()):
        holder = reference()
        if holder is not None:
            holder.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
