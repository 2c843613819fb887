"""Fuzzers: files of every kind that is read, broken in many ways; each must be taken or refused in one line.

    python -m parity_tests.fuzz --minutes 30          all targets, in turn
    python -m parity_tests.fuzz --target lmdb --seed 3
    python -m parity_tests.fuzz --guided              by coverage; needs atheris

`edits` breaks files, `targets` says what is tried with them, `run` watches over it; `guided` breaks them by coverage.
"""
