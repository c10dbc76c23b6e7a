"""Transports: how the frames of one connection reach the client.

sse        Server-Sent Events, `serve(connection, scope, receive, send)`
websocket  WebSocket, `serve(connection, receive, send, command)`
long_poll  the frames of one answer
duplex     both directions of a connection, ended together
"""
