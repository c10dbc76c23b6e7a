"""Many nodes on one Redis, with redis-py (`pip install holdfast[redis]`).

`RedisBroker` is for processes that serve clients, `Publisher` and `SyncPublisher` for those that
only publish. docs/scaling.md says what one Redis carries.
"""

from .broker import RedisBroker
from .publisher import Publisher, SyncPublisher

__all__ = ["Publisher", "RedisBroker", "SyncPublisher"]
