"""The command line, one module for each group of commands.

app: the command line
content_commands: the commands about what a text holds: the safety model, and a document's fate in cleaning
drill_command: the command that proves on a recipe that its run cannot be lost
evaluate_commands: the commands that say how good a model is: `evaluate` and `scorecard`
options: what the commands share: their options and arguments, how words are read, how results are printed
plan_command: the command that says what a run will need
"""
