"""Sockets are waited for where there is no epoll, too."""

from __future__ import annotations

import select
import socket

from billhook.outlets.webhooks.client import _Poll


def test_what_happens_on_a_socket_is_told_while_it_is_watched() -> None:
    poll = _Poll()
    here, there = socket.socketpair()
    with here, there:
        poll.register(here.fileno(), select.POLLIN)
        assert poll.poll(0) == []
        there.send(b"x")
        assert poll.poll(None) == [(here.fileno(), select.POLLIN)]
        poll.modify(here.fileno(), select.POLLIN | select.POLLOUT)
        assert poll.poll(0.5) == [(here.fileno(), select.POLLIN | select.POLLOUT)]
        poll.unregister(here.fileno())
        assert poll.poll(0) == []
    poll.close()
