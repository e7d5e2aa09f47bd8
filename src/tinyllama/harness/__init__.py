"""Standard tasks through lm-eval: data, answers, scores, comparison.

compare: compares two models task by task on the same examples
compiled_layers: wraps a network in torch.compile, with eager execution as the fallback
lm_model: implements lm-eval's model interface for tinyllama networks
load_task: builds an lm-eval task with examples from the data folder or the Hugging Face Hub
references: published scores with their sources, settings and metrics
run_tasks: evaluates a model on tasks one after another; resumes an interrupted task
scorecard: table of model scores next to published ones in the same setting
task_data: reads and validates a task's examples from JSON Lines files
task_functions: prompt and metric functions that the files in `tasks/` refer to
task_list: list of tasks and groups, read from the files in `tasks/`
task_results: result files of an evaluation: scores, examples and the log of answers in progress
task_scores: aggregate metrics with standard errors, and differences between two models
token_rows: packs sequences with a common prefix into one row with a tree attention mask
training_tasks: evaluates a short list of tasks during training (`train.evaluate_tasks`)
"""
