"""Measures of a run: validation, last words, score of a text.

evaluate_config: configuration of evaluation
last_word: last-word prediction accuracy on held-out documents, after LAMBADA
run_evaluation: evaluates a finished run: validation loss and last-word accuracy
text_score: log-probability of each token of a text
validation: validation loss on held-out tokens, compared with a unigram model
"""
