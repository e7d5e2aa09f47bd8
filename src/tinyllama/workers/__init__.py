"""Child processes for work that may hang or crash.

child_process: starts a child process, asks it to run functions and says how it ended
worker_pool: distributes tasks over worker processes with Daft
worker_process: the child's end: runs the functions and sets time limits
"""
