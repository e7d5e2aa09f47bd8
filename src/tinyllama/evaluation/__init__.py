"""Measures of a run: validation loss and last-word accuracy.

evaluate_config: configuration of evaluation
last_word: last-word prediction accuracy on held-out documents, after LAMBADA
run_evaluation: evaluates a finished run: validation loss and last-word accuracy
validation: validation loss on held-out tokens, compared with a unigram model
"""
