"""The node of a Broadcaster, which the public interface hides."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from holdfast import Broadcaster
    from holdfast.runtime.node import Node


def node_of(broadcaster: Broadcaster) -> Node:
    """Return the node of the current run, or of the last one."""
    run = broadcaster._run
    assert run is not None
    return run.node
