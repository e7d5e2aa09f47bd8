"""The kill drill: kills a training run, resumes it and compares the bits.

drill_report: what a drill found: one object, a table for people, a page of Markdown
kill_drill: trains one run undisturbed, and the same again under SIGKILLs, each time taken up from its files
kill_plan: which kills a drill makes: spread over the run's steps, over the parts of a step's work, and over the ranks
rank_processes: command lines of this program as processes, one or several ranks, that start in a moment
"""
