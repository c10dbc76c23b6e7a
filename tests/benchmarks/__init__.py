"""The cost of a delivery, beside hand-written servers and other libraries (see README.md)."""
