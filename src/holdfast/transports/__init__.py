"""Transports: the frames of one connection over Server-Sent Events or WebSocket."""
