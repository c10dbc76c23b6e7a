"""Many nodes on one Redis: `RedisBroker`, with redis-py (`pip install holdfast[redis]`)."""

from .broker import RedisBroker

__all__ = ["RedisBroker"]
