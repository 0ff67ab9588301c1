"""Measures the agent: tasks, running them through the production path, grading, reports, and the demo.

``suite`` has the tasks, ``runner`` sends them to a service over REST, ``grading`` decides with hidden tests in fresh
sandboxes, ``report`` counts, ``baseline`` is what a program without a model reaches. ``synthesis`` makes the tasks.
"""
