"""Makes the packaged safety model, and every figure about it that docs/safety.md has. Only weights are shipped.

    .venv/bin/python benchmarks/safety_default.py --data ../shared --words words.json --out build/safety [--seed 0]

--data has safety/*.jsonl.gz and corpus/*.jsonl.zst (see their manifests). --words, made by
`benchmarks/safety_peers.py words` in an environment of its own, has the probability that alt-profanity-check (MIT) gives to
each word of its vocabulary: weak labels for single words, because the labelled sets are tweets and one forum. Without it
the model is trained on the labelled sets alone. --no-blinding trains the same without blindness to group names and
without the neutral sentences about groups: the "before" of the bias table.

Test sets that are never trained on: the test parts (20% by hash of seed and text or thread) of Davidson and Stormfront,
HateCheck, the Wikipedia toxicity test, the madlibs, and 20% of the documents of ordinary text.
"""

import argparse
import gzip
import hashlib
import html
import io
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import zstandard

from tinyllama.cleaning import safety_features
from tinyllama.cleaning.safety_features import SLOTS
from tinyllama.cleaning.safety_train import train_safety, write_model
from tinyllama.document_files import paragraphs_in

CORPORA = ("wikipedia_squad_train", "debian_docs", "openstax_ccby", "classic_books.0", "classic_books.1")
CORPUS_LICENCES = {
    "wikipedia_squad_train": "CC BY-SA 4.0", "debian_docs": "mixed free", "openstax_ccby": "CC BY 4.0",
    "classic_books.0": "public domain", "classic_books.1": "public domain",
}  # fmt: skip
TEST_SHARE = 0.2
# Total weight of each class in training: the forum's notion of hate is the most remote from everyday offence.
DAVIDSON_WEIGHT, STORMFRONT_WEIGHT, WORD_WEIGHT = 5000, 1500, 3.0
# Neutral and friendly sentences about a group; it stands for every group, because the model is blind to which one.
NEUTRAL = """i am a {} person|my friend is {}|she is a {} writer|he grew up in a {} family|they are {} and live next door|
many {} people live here|the {} community met on sunday|a {} teacher spoke to us|i have {} friends|we are proud to be {}|
as a {} person i agree|the history of {} people|the rights of {} people|{} people are people like us|being {} is fine|
our neighbours are {}|you are {} and that is good|the club is open to {} people|a young {} doctor|the {} family next door|
some {} people came to the meeting|is he {}|is she {} too|i did not know that you are {}|the {} vote|{} culture and food|
an article about {} people|this film has a {} cast|the {} population grew|he married a {} woman|respect {} people|
do not insult {} people|nobody should hate {} people|it is wrong to hate {} people|we must protect {} people|
{} people deserve respect|i love my {} parents|what a lovely {} person|a kind {} neighbour|a great {} leader|
a smart {} student|an honest {} worker|the best {} player|a brave {} soldier|a {} couple|a {} church|a {} school|
the {} language|a {} wedding|a {} singer and a {} actor""".replace("\n", "").split("|")
# Beginnings by which terms of the list count as sexual: the list mixes them with insults. Weak labels, not a verdict.
SEXUAL = """anal anus bdsm blow bond boner boob breast bust butt camel cam clit cock creampie cum cunnilingus deep dick
dild dog dominat ejacul erot fell femdom fetish fing fist foot futanari g-spot gang genit girl group hand hard hent
homoerotic horn incest intercourse jack jerk jizz kama kink lingerie lolita love make masturb menage milf mission mound
muff naked neon nipple nud nymph oct oral orgasm orgy panties pant peg penis phone piss playboy ponyplay porn pubes puss
reverse rim sadism schlong sciss semen sex shaved shib shota skeet smut snowball sodomize splooge spread strap strip
swing taste tea thong three throat tied tight tit topless tub upskirt ureth vagina vibr voyeur vulva wank wet wrapp xx
yiff zoo"""
# Terms with a clinical or everyday sense: alone they are no label of either kind.
CLINICAL = re.compile(
    r"\b(sex|sexual|sexuality|sexually|breasts?|penis|vagina|nude|nudity|naked|genitals|pornograph\w+|dick|cocks?|tits?"
    r"|bondage|domination|intercourse|incest|orgasm|playboy|strip|voyeur|threesome|oral|anal|butt|tongue)\b"
)


def rows_of(data: Path, name: str) -> list[dict[str, Any]]:
    with gzip.open(data / "safety" / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def unit(seed: int, key: str) -> float:
    """A number in [0, 1) that depends on seed and key alone."""
    return int.from_bytes(hashlib.sha256(f"{seed}\0{key}".encode()).digest()[:8], "big") / 2**64


def tidy_tweet(text: str) -> str:
    """A tweet without its medium: entities, addresses, names of accounts, the mark of a retweet."""
    text = html.unescape(html.unescape(text))
    return re.sub(r"\bRT\b", " ", re.sub(r"https?://\S+|@\w+", " ", text))


def corpus_documents(data: Path) -> Iterator[tuple[str, str, str]]:
    """(corpus, id, text) of ordinary text."""
    for name in CORPORA:
        with (data / "corpus" / f"{name}.jsonl.zst").open("rb") as file:
            for line in io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(file), encoding="utf-8"):
                row = json.loads(line)
                yield name, row["id"], row["text"]


def ordinary_passages(data: Path, seed: int, held_out: bool) -> list[dict[str, Any]]:
    """Paragraphs of ordinary text, at most 40 a document, as rows; of the held-out documents or of the others."""
    rng, rows = random.Random(seed), []
    for corpus, name, text in corpus_documents(data):
        if (unit(seed, name) < TEST_SHARE) != held_out:
            continue
        found = [part for part in paragraphs_in(text[:200_000]) if len(part.split()) >= 5]
        rng.shuffle(found)
        rows += [
            {"text": part, "label": "none", "source": f"ordinary: {corpus}", "licence": CORPUS_LICENCES[corpus]}
            for part in found[: 20 if corpus == "debian_docs" else 40]
        ]
    rng.shuffle(rows)
    return rows


def hate_rows(data: Path, words: dict[str, float], seed: int, blind: bool) -> list[dict[str, Any]]:
    """Labels of the hate head."""
    rows = []
    for name, licence, label, group, total in (
        ("davidson_hate_offensive", "MIT", lambda row: row["label"] < 2, lambda row: row["text"], DAVIDSON_WEIGHT),
        ("stormfront_hate", "CC BY-SA 3.0", lambda row: row["label"] == "hate", lambda row: row["file_id"].split("_")[0],
         STORMFRONT_WEIGHT),
    ):  # fmt: skip
        found = [row for row in rows_of(data, name) if row["label"] not in ("relation", "idk/skip")]
        positives = sum(map(label, found))
        for row in found:
            count = positives if label(row) else len(found) - positives
            rows.append({
                "text": tidy_tweet(row["text"]), "label": "hate" if label(row) else "none", "source": name,
                "licence": licence, "group": group(row), "weight": total / 0.7 / count,
            })  # fmt: skip
    ordinary = ordinary_passages(data, seed, held_out=False)
    named = [row for row in ordinary if set(row["text"].lower().encode().split()) & safety_features.GROUP_NAMES]
    rng = random.Random(seed)
    short = [{**row, "text": cut_out(row["text"], rng)} for row in ordinary[20_000:30_000]]
    # Clinical and plain words that other labelled sets know as abuse only.
    other_sense = [row for row in ordinary if CLINICAL.search(row["text"])]
    for chosen, weight in ((ordinary[:20_000], 0.25), (named[:10_000], 0.5), (short, 0.25), (other_sense, 2.0)):
        rows += [{**row, "weight": weight, "group": f"{row['source']} {row['text']}"} for row in chosen]
    rows += [{**row, "part": "test", "weight": 0.5} for row in ordinary_passages(data, seed, held_out=True)]
    given = {"part": "train"}
    if blind:
        neutral = {"source": "neutral sentences about groups", "licence": "Apache-2.0", "weight": 10.0, **given}
        rows += [{"text": text.format("woman", "woman"), "label": "none", **neutral} for text in NEUTRAL]
    known = {"source": "single words by alt-profanity-check", "licence": "MIT", **given}
    for word, probability in words.items():
        if blind and word.encode() in safety_features.GROUP_NAMES:
            continue
        for label, share in (("hate", probability), ("none", 1 - probability)):
            if share > 0.02:
                rows.append({"text": word, "label": label, "weight": WORD_WEIGHT * share, **known})
    listed = {"source": "LDNOOBW terms", "licence": "CC BY 4.0", "weight": 0.3, **given}
    rows += [{"text": term, "label": "hate", **listed} for term in english_terms(data)]
    return [row for row in rows if row["text"].strip()]


def cut_out(text: str, rng: random.Random) -> str:
    """Four to twenty words from the midst of a text: ordinary text as short as a message is."""
    words = text.split()
    start = rng.randrange(max(1, len(words) - 5))
    return " ".join(words[start : start + rng.randrange(4, 20)])


def english_terms(data: Path) -> list[str]:
    return [row["term"] for row in rows_of(data, "ldnoobw_words") if row["lang"] == "en"]


def sexual_terms(data: Path) -> list[str]:
    beginnings = tuple(SEXUAL.split())
    return [term for term in english_terms(data) if any(word.startswith(beginnings) for word in term.split())]


def sexual_rows(data: Path, words: dict[str, float], seed: int, unseen_share: float) -> list[dict[str, Any]]:
    """Weak labels of the sexual head: what has terms of the list is sexual, all else is not.

    `unseen_share` of the terms is kept out of training: passages with those alone, in ordinary text, are the source
    `unseen terms`, measured only.
    """
    rng = random.Random(seed)
    terms = sexual_terms(data)
    unseen = {term for term in terms if unit(seed, term) < unseen_share}
    known = [term for term in terms if term not in unseen and not CLINICAL.fullmatch(term)]
    pattern = re.compile(r"\b(?:" + "|".join(map(re.escape, sorted(terms, key=len, reverse=True))) + r")\b", re.I)
    rows = []
    for name in ("davidson_hate_offensive", "stormfront_hate"):
        for row in rows_of(data, name):
            text = tidy_tweet(row["text"])
            found = {term.lower() for term in pattern.findall(text)}
            licence = "MIT" if name.startswith("davidson") else "CC BY-SA 3.0"
            if not text.strip() or found & unseen:
                continue
            hard = {term for term in found if not CLINICAL.fullmatch(term)}
            if bool(hard) == bool(found):
                label = "sexual" if hard else "none"
                rows.append({"text": text, "label": label, "source": f"{name}, by terms", "licence": licence})
    ordinary = ordinary_passages(data, seed, held_out=False)
    other_sense = [row for row in ordinary if CLINICAL.search(row["text"]) or pattern.search(row["text"])]
    for chosen, weight in ((ordinary[:20_000], 0.25), (other_sense, 1.0)):
        rows += [{**row, "weight": weight, "group": f"{row['source']} {row['text']}"} for row in chosen]
    made = {"label": "sexual", "source": "ordinary text with terms put in", "licence": "CC BY 4.0 (terms)"}
    rows += [{"text": inserted(row["text"], known, rng), "weight": 0.5, **made} for row in ordinary[20_000:26_000]]
    rows += [{"text": term, "part": "train", "weight": 2.0, **made} for term in known]
    listed = {"label": "none", "source": "single words by alt-profanity-check", "licence": "MIT", "part": "train"}
    rows += [{"text": word, "weight": 0.3, **listed} for word in words if not pattern.search(word)]
    held_out = ordinary_passages(data, seed, held_out=True)
    rows += [{**row, "part": "test", "weight": 0.5} for row in held_out]
    for source, chosen in (("seen terms", known), ("unseen terms", sorted(unseen - {"sex"}))):
        for row in held_out[:1000] if chosen else ():
            rows.append({**row, "source": source, "part": "test"})
            rows.append(
                {**row, "text": inserted(row["text"], chosen, rng), "label": "sexual", "source": source, "part": "test"}
            )
    return rows


def inserted(text: str, terms: list[str], rng: random.Random) -> str:
    """A text of at most 60 words with two to four terms put between its words."""
    words = text.split()[:60]
    for term in rng.choices(terms, k=rng.randrange(2, 5)):
        words.insert(rng.randrange(len(words) + 1), term)
    return " ".join(words)


HATE_NOTES = (
    "Hate and offence are one head; the labelled sets are American tweets of 2017 and one white-supremacist forum.",
    "The single words are weak labels by a model that was trained on Wikipedia talk comments and on all of Davidson: "
    "figures on those two sets are a little better than on text never seen. docs/safety.md has them without.",
    "Dialect: words of African American English occur among the offensive tweets (Sap et al. 2019).",
)
SEXUAL_NOTES = (
    "Weak supervision: the labels are terms of a word list, found or put in, not people's judgement. The figures say how "
    "well the head finds such terms and their like, not how well it knows pornography. Give your own labels.",
    "Passages of ordinary text that have such terms (Dick, a name; clinical words) are labelled none.",
)


def make(data: Path, words: dict[str, float], out: Path, seed: int, blind: bool, unseen_share: float) -> dict[str, Any]:
    """Train both heads; returns the figures of `train_safety` by head."""
    if not blind:
        safety_features._group_hashes = np.zeros(1, np.uint64)  # no word has an even hash: nothing is blinded
    out.mkdir(parents=True, exist_ok=True)
    zero = {"hate": np.zeros(SLOTS, np.float16), "sexual": np.zeros(SLOTS, np.float16)}
    write_model(out / "none", zero, {"hate": 0.0, "sexual": 0.0}, {})
    found = {}
    for head, rows, notes, base in (
        ("hate", hate_rows(data, words, seed, blind), HATE_NOTES, out / "none"),
        ("sexual", sexual_rows(data, words, seed, unseen_share), SEXUAL_NOTES, out / "hate"),
    ):
        labels = out / f"{head}.jsonl"
        labels.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        found[head] = train_safety([labels], out / head, seed=seed, base=base, notes=notes)[head]
        labels.unlink()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--words", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="the model is in OUT/sexual (both heads)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-blinding", action="store_true")
    parser.add_argument("--unseen-share", type=float, default=0.0, help="share of sexual terms kept for testing")
    given = parser.parse_args()
    words = json.loads(given.words.read_text()) if given.words else {}
    found = make(given.data, words, given.out, given.seed, not given.no_blinding, given.unseen_share)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
