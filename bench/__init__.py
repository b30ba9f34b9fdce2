"""Benchmarks: ``python -m bench``. Programs, not library: they read clocks, start processes, write files and print."""
