"""Brokers: the log that nodes share.

protocol  Broker, TokenStore, PresenceStore: the interface that a node uses
memory    MemoryBroker: the default, for one process
redis     RedisBroker: many nodes on one Redis (extra `redis`)
feed      Feed: the newest messages of a log, and the tasks that wait for more
"""
