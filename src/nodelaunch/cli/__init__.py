"""The command line: arguments, logging set-up, signals, exit codes; the only place that calls ``asyncio.run``.

Exit codes: 0 success, 1 failure, 2 wrong arguments or configuration, 130 interrupted, 143 terminated.
"""
