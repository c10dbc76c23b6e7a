"""Fuzz every parser of client input against references that are written independently.

`python -m tests.fuzz <target> --seconds 120` searches by coverage (atheris). The tests in this
folder draw structured inputs (hypothesis) and run each target for some seconds.
"""
