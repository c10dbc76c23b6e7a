"""The pure core: no async, no I/O, no clock, no randomness, no globals, no logging.

Time (seconds, as floats) and random tokens are passed in. Every method moves its object from one
consistent state to the next and returns what is left to do. `tests/test_rings.py` holds this.

    message     Message, Priority, Gap: the records
    buffer      PriorityBuffer: what waits for one connection, bounded, best lane first
    cursor      Cursor, EventId: where a client stands, and how that looks on the wire
    history     History: the log, kept per topic and lane
    topic_log   TopicLog: one topic's messages of one lane, within a history
    reading     PageRequest, Page, Survey: what is asked of the log, and what it answers
    delivery    Delivery: which lane of a connection is live and which is catching up
    tokens      TokenRegistry, Session: what a resume token restores
    topics      names, patterns, TopicIndex: who may have a message
    connection  Connection: its lifecycle table
    registry    ConnectionRegistry: connections by id, user and topic, within limits
"""
