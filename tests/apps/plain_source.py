"""An application with a periodic source that is a plain function, and no lifespan of its own."""

from __future__ import annotations

import time

from holdfast import Broadcaster, LiveApp, anonymous

broadcaster = Broadcaster()
app = LiveApp(broadcaster, authenticate=anonymous)
broadcaster.periodic("clock", time.time, interval=0.1)
