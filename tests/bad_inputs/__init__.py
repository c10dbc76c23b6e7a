"""Every kind of hostile input at every entry point, and the rule that holds for all of them.

No exception is unhandled, the answer is the documented one, no raw input is logged, memory is
bounded, and no other client is disturbed. `inputs` has the values, `entries` the entry points.
"""
