"""The load client: it asks a server over HTTP on a schedule, and keeps the time of every event.

`reply` reads bytes, `dialects` know what servers are asked and answer, `driving` keeps the schedule, `summary` makes figures of answers.
"""
