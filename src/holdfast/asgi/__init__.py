"""LiveApp: all endpoints as one ASGI application, to serve or to mount anywhere.

app           LiveApp: routes and lifespan
stream        GET /stream and /reconnect: the event streams
websocket     /websocket
long_poll     GET /poll
commands      subscribe, unsubscribe, acknowledge, test: a client's commands
reports       health, statistics and configuration
client_files  the JavaScript client
access        the application's hooks, the check of origins, the presented credentials
http          reads request bodies and writes answers
"""

from .app import LiveApp

__all__ = ["LiveApp"]
