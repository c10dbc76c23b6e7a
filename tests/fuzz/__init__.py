"""Fuzzing of everything that reads what a client sends, against references written on their own.

`python -m tests.fuzz <target> --seconds 120` lets coverage guide the search (atheris); the tests
here draw structured inputs (hypothesis) and give each target a few seconds.
"""
