"""Transports: send the frames of one connection to its client, for endpoints of your own.

sse        Server-Sent Events: `serve(connection, scope, receive, send)`
websocket  WebSocket: `serve(connection, receive, send, command)`
long_poll  long polling: `gather(connection, wait, into)` collects the frames of one answer
duplex     DuplexScope: both directions of a connection, which end together
"""
