"""The pure core: no async, no I/O, no clock, no randomness, no globals, no logging.

Time (seconds, as floats) and random tokens are arguments. Every method moves its object from one
consistent state to the next and returns the work that is left, such as connections to close.
tests/test_rings.py enforces this.

    message     Message, Draft, Priority, Gap: the records
    log         History: the messages by topic, user and lane; pages of it; retention
    delivery    PriorityBuffer, Delivery, Window: the pending messages of one connection
    cursor      Cursor, EventId: a position in the log, and its form on the wire
    topics      names, patterns, TopicIndex: the subscribers of a topic
    tokens      TokenRegistry, Session: the state that a reconnect token restores
    resume      ResumePoint: where a connection continues, decided from what the client presents
    lifecycle   ConnectionState, ConnectionEvent: the states and transitions of a connection
    registry    ConnectionRegistry: connections by id, user and topic, within limits
    presence    LocalPresence, PresenceTable: the users on a topic, per node and over all nodes
    publishing  make_draft: checks and encodes the arguments of `publish`
    frames      Frame: the JSON frames of the wire
    validation  checks of numbers, types and the names of options
"""
