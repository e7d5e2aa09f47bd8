"""What public filters say of texts, for benchmarks/safety_quality.py; in an environment of its own, without tinyllama:

    python3 -m venv peers && peers/bin/pip install alt-profanity-check==1.9.1 better-profanity==0.7.0
    peers/bin/python benchmarks/safety_peers.py words > words.json
    peers/bin/python benchmarks/safety_peers.py score < texts.json > scores.json

`words`: the probability of each word of alt-profanity-check's vocabulary. `score`: a JSON list of texts in, a list of
numbers by filter out (`score-fast`: without better-profanity, which takes minutes).
"""

import json
import sys

from better_profanity import profanity
from profanity_check import predict_prob
from profanity_check.profanity_check import vectorizer

if __name__ == "__main__":
    if sys.argv[1:] == ["words"]:
        words = [str(word) for word in vectorizer.get_feature_names_out()]
        json.dump({word: round(float(p), 4) for word, p in zip(words, predict_prob(words), strict=True)}, sys.stdout)
    else:
        texts = json.load(sys.stdin)
        profanity.load_censor_words()
        scores = {"alt-profanity-check": [float(p) for p in predict_prob(texts)]}
        if sys.argv[1:] == ["score"]:
            scores["better-profanity"] = [float(profanity.contains_profanity(text)) for text in texts]
        json.dump(scores, sys.stdout)
