"""A log in Redis, shared by many nodes, with redis-py (`pip install holdfast[redis]`).

`RedisBroker` is for processes that serve clients; `Publisher` and `SyncPublisher` are for processes
that only publish. docs/scaling.md has what one Redis carries.
"""

from .broker import RedisBroker
from .publisher import Publisher, SyncPublisher

__all__ = ["Publisher", "RedisBroker", "SyncPublisher"]
