"""Standard tasks through lm-eval: data, answers, scores, comparison.

compare: whether two models differ: the same examples, answered by both, task by task
compiled_layers: A network whose layers are compiled when that pays, and that goes on without where it does not work
lm_model: our network as lm-eval wants it: how likely a text is after another, how likely a whole text is, what
load_task: A task of `tasks/` as an lm-eval task, with its examples from the data folder or the hub
references: published scores, each with where it stands, its setting and its metric, as shares of 1 unless the metric
run_tasks: tasks one after another: each one's results are written as it ends, and a killed evaluation goes on within
scorecard: the scores of models beside published ones of the same setting, and below them, apart, those of others
task_data: A task's examples from files of JSON Lines, each row held against what the task needs
task_functions: what the files in `tasks/` call: an example's answer, and its values from what the network answered
task_list: which tasks there are: their names, groups, and what their files in `tasks/` say
task_results: what evaluation leaves on disk: a folder with two files a task, and while a task is under way a third
task_scores: one score of all examples' values, with its standard error; and the difference of two models' scores
token_rows: sequences that begin alike, computed once: a row holds what they share, then each one's own tokens
training_tasks: A short list of tasks measured while a network is trained: `train.evaluate_tasks`
"""
