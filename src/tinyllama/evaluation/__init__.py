"""Measures of a run: validation, last words, score of a text.

evaluate_config: settings of evaluation
last_word: last-word accuracy on held-out documents: does the network know how a sentence ends?
run_evaluation: what a finished run is measured by: all of its validation tokens, and the last words of its held-out
text_score: how likely a network finds a text, token by token
validation: validation figures on held-out tokens, and the unigram model that they are compared with
"""
