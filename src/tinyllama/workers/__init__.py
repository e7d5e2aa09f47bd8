"""Supervised child processes for work that may hang or crash.

worker_pool: distributes cleaning tasks over supervised worker processes with Daft
worker_process: worker process that executes cleaning tasks, with JSON messages on stdin and stdout
"""
