"""The kill drill: kills a training run, resumes it and compares the bits.

drill_report: formats the result of a drill as JSON, a terminal table and Markdown
kill_drill: trains one run undisturbed and one with SIGKILLs and resumes, then compares them
kill_plan: schedules kills over steps, phases of a step and ranks
rank_processes: starts the ranks of a command as processes forked from a preloaded server
"""
