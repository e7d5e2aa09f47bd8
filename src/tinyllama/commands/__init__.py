"""The command line, one module for each group of commands.

app: the Typer application and most of its commands
content_commands: commands `train-safety`, `score-safety` and `explain`
drill_command: command `drill`: tests that a killed run resumes bit for bit
evaluate_commands: commands `evaluate` and `scorecard`
options: shared command-line options, argument parsing and output formatting
plan_command: command `plan`: estimates time, memory, disk and cost of a run
"""
