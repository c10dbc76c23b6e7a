"""DeliveredLog: the log of the broker, as far as this node has delivered it."""

from __future__ import annotations

from ..brokers.protocol import Broker
from ..core.cursor import Head


class DeliveredLog:
    """The position of a node in the log. The node moves it, and its connections read it.

    Attributes:
        broker: the log itself.
        epoch: the life of the log that this node delivers.
        delivered_offset: the offset up to which the live feed has been offered to connections.
    """

    __slots__ = ("broker", "delivered_offset", "epoch")

    def __init__(self, broker: Broker, head: Head) -> None:
        self.broker = broker
        self.epoch, self.delivered_offset = head.epoch, head.offset

    @property
    def head(self) -> Head:
        """The position as a `Head`, to follow the log from."""
        return Head(self.epoch, self.delivered_offset)

    def advance(self, head: Head) -> None:
        """Move to `head`, which may be in another epoch."""
        self.epoch, self.delivered_offset = head.epoch, head.offset

    @property
    def resumable_for(self) -> float:
        """Seconds for which a connection that is cut now can be resumed."""
        lifetime, age = self.broker.token_lifetime, self.broker.history_age
        return lifetime if age is None else min(lifetime, age)
