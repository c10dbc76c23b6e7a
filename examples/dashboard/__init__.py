"""A live dashboard of the host it runs on, and of holdfast itself.

Run it with ``python -m examples.dashboard``.
"""
