"""Supervised child processes for work that may hang or crash.

worker_pool: runs a step of cleaning: a list of tasks, each of which reads files and writes files of its own
worker_process: the process in which the tasks of cleaning run: requests on stdin, answers on stdout, a JSON object a
"""
