"""Delivery to one connection: the buffer, the four lanes, the cursor and the window."""
