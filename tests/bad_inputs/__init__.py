"""Every kind of hostile input at every entry point, and the one rule that holds for all of them.

No unhandled exception, the documented answer, nothing raw in a log, memory bounded, nobody else
disturbed. `inputs` has the values, `entries` the doors.
"""
