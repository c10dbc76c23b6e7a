"""Run a soak from the command line.

    python -m tests.soak single-server --seconds 60
    python -m tests.soak redis --seconds 60

The seed decides which faults are injected; the machine decides when. The exit status is 1 if the
oracle counted a violation.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
from typing import get_args

from tests.support.processes import ServerKind

from . import redis_nodes, single_server


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.soak")
    scenarios = parser.add_subparsers(dest="scenario", required=True)
    single = scenarios.add_parser("single-server", help="one server, memory broker, all faults")
    redis = scenarios.add_parser("redis", help="nodes on one Redis that are ended one by one")
    for each, clients in ((single, 240), (redis, 60)):
        each.add_argument("--seconds", type=float, default=60.0)
        each.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
        each.add_argument("--clients", type=int, default=clients)
    single.add_argument("--cuts", type=int, help="at least (default: 20 per second)")
    single.add_argument("--deliveries", type=int, help="about (default: 2,000 per second)")
    single.add_argument("--server", choices=get_args(ServerKind), default="uvicorn")
    single.add_argument("--restarts", type=int, default=2)
    redis.add_argument("--nodes", type=int, default=3)
    redis.add_argument("--rate", type=float, default=25.0, help="messages per second and topic")
    redis.add_argument("--kill-interval", type=float, default=1.5, help="seconds")
    redis.add_argument("--redis", help="the URL of a Redis (default: a new one is started)")
    return parser.parse_args()


def main() -> int:
    """Run the soak and print its report."""
    options = vars(_parse())
    if options.pop("scenario") == "redis":
        report = asyncio.run(redis_nodes.soak(redis_nodes.Plan(**options)))
    else:
        options["cuts"] = options["cuts"] or int(options["seconds"] * 20)
        options["deliveries"] = options["deliveries"] or int(options["seconds"] * 2000)
        report = asyncio.run(single_server.soak(single_server.Plan(**options)))
    sys.stdout.write(report.table() + "\n")
    return 1 if report.results.total_violations else 0


if __name__ == "__main__":
    sys.exit(main())
