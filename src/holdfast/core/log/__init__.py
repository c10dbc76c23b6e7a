"""The log: messages by topic, user and lane, and the pages that are read from it."""
