"""LiveApp: all endpoints as one ASGI application, to serve or to mount anywhere.

app        LiveApp: routes, lifespan
stream     GET /stream and /reconnect, the event streams
socket     /websocket
commands   subscribe, unsubscribe, ack, test: what a client may ask of its own connection
reports    health, statistics, configuration
access     who may, and with what: the hooks, origins, what is presented
http       reading requests and writing answers
shutdown   draining at the signal
"""

from .app import LiveApp

__all__ = ["LiveApp"]
