"""Access to the parts of a Broadcaster that its users never see."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from holdfast import Broadcaster
    from holdfast.runtime.lifecycle import BroadcasterRun
    from holdfast.runtime.node import Node


def run_of(broadcaster: Broadcaster) -> BroadcasterRun:
    """Return the current run of a Broadcaster, or its last one."""
    run = broadcaster._run
    assert run is not None
    return run


def node_of(broadcaster: Broadcaster) -> Node:
    """Return the node of the current run, or of the last one."""
    return run_of(broadcaster).node
