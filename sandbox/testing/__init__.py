"""Doubles for tests and benchmarks: machines that exist in memory only, a clock that does not wait, and a
stand-in for a controller of somebody else's.

They keep to the same contracts as the real ones and are patched nowhere. Numbers taken with them speak of our own code
and of the latencies they were given, never of real machines.
"""
