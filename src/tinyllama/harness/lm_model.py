"""lm-eval's interface for our networks: log-probability of a text given a context, or of a whole text, and generation.

A text begins with one BOS if the vocabulary has a BOS and the tokenizer's configuration does not turn it off
(`OpenedModel.with_bos`, as in `score`). If the first scored token has no context (a whole text, an empty context) and that
rule adds no BOS, one token is put before it: BOS, or EOS if there is no BOS.

Texts longer than the network's context lose tokens on the left, counted in `n_truncated`.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from torch import Tensor

from tinyllama import log
from tinyllama.errors import InputError
from tinyllama.exchange.open_model import OpenedModel
from tinyllama.generate.decode import generate_ids
from tinyllama.generate.decoder import Decoder
from tinyllama.generate.generate_config import GenerateConfig
from tinyllama.harness.compiled_layers import CompiledLayers
from tinyllama.harness.token_rows import (
    Row,
    RowBatch,
    ScoredTokens,
    as_tensors,
    batches_by_length,
    make_rows,
    tree_mask,
)

TOKENS_PER_BATCH = {"cpu": 2048, "cuda": 65_536}
TEXTS_PER_BATCH = {"cpu": 8, "cuda": 64}  # of generation
LOGITS_CHUNK_TOKENS = 4096
DEFAULT_NEW_TOKENS = 256  # if a task does not say
LENGTH_STEP = 32  # on a GPU, row lengths are multiples of it, which is faster

Answer = Any  # (log-probability, is_greedy), a log-probability, or a text
OnAnswers = Callable[[list[tuple[int, Answer]]], None]  # (number of the request, its answer)


class HarnessModel(LM):
    """An opened model with lm-eval's three methods. `tokens_per_batch`: including padding; default by device.

    `max_tokens`: the context; default and maximum: the network's. `compiled`: use torch.compile for the layers, which
    takes half a minute; None: on a GPU, once so much was computed that it is worth it. If compiling fails the layers run
    uncompiled; if a batch does not fit into memory, batches become smaller. `on_answers` is called with the answers of
    each batch, `on_progress` before each batch.
    """

    def __init__(
        self,
        opened: OpenedModel,
        *,
        tokens_per_batch: int | None = None,
        max_tokens: int | None = None,
        compiled: bool | None = False,
    ) -> None:
        super().__init__()
        self._opened = opened
        kind = opened.device.type
        self._tokens_per_batch = tokens_per_batch or TOKENS_PER_BATCH.get(kind, TOKENS_PER_BATCH["cpu"])
        self._texts_per_batch = TEXTS_PER_BATCH.get(kind, TEXTS_PER_BATCH["cpu"])
        self.max_tokens = min(max_tokens or opened.config.seq_len, opened.config.seq_len)
        self._network = CompiledLayers(opened.model, compiled)
        self._decoder = Decoder(opened.model, opened.tokenizer.vocab_size)
        self.n_truncated = 0
        self.on_answers: OnAnswers = lambda answers: None
        self.on_progress: Callable[[], None] = lambda: None

    @property
    def prefix_id(self) -> int:
        """The token before a text without context. Raises InputError if there is neither BOS nor EOS."""
        tokenizer = self._opened.tokenizer
        found = tokenizer.eos_id if tokenizer.bos_id is None else tokenizer.bos_id
        if found is None:
            raise InputError(f"{self._opened.origin}: its vocabulary has neither BOS nor EOS to put before a text")
        return found

    # -- log-probabilities ---------------------------------------------------------------------------------------------

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """For each (context, text): the log-probability (natural) of the text, and whether greedy decoding gives it.

        Spaces at the end of a context are scored with the text, because tokens begin with a space.
        """
        sequences = self._encode_pairs([_texts(request) for request in requests])
        numbered = zip(requests, sequences, strict=True)
        groups = [[s for _, s in group] for _, group in groupby(numbered, lambda pair: _example_of(pair[0]))]
        answers: dict[int, tuple[float, bool]] = {}
        for found in self._score_groups(groups):
            self.on_answers(list(found.items()))
            answers |= found
        return [answers[number] for number in range(len(requests))]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = True) -> list[float]:
        """The log-probability (natural) of whole texts, of long ones in windows whose scored tokens do not overlap.

        Each token is scored once; the first of a window sees one token before it.
        """
        totals: list[float] = []
        for number, request in enumerate(requests):
            ids = self._opened.tokenizer.encode(request.args[0])
            windows = map(make_disjoint_window, get_rolling_token_windows(ids, self.prefix_id, self.max_tokens, 1))
            groups = [[ScoredTokens(n, [*before, *scored], len(scored))] for n, (before, scored) in enumerate(windows)]
            found = [logprob for batch in self._score_groups(groups) for logprob, _ in batch.values()]
            totals.append(float(np.sum(found)))
            self.on_answers([(number, totals[-1])])
        return totals

    def _encode_pairs(self, pairs: Sequence[tuple[str, str]]) -> list[ScoredTokens]:
        """Tokens of context and text together; scored are those behind as many as the context alone has."""
        encode, n_texts = self._opened.tokenizer.encode_batch, len(pairs)
        contexts = [context.rstrip() for context, _ in pairs]
        unique = list(dict.fromkeys([*contexts, *(context + text for context, text in pairs)]))
        ids_of = {text: ids.tolist() for text, ids in zip(unique, encode(unique), strict=True)}
        found: list[ScoredTokens] = []
        for number in range(n_texts):
            context, text = pairs[number]
            before, whole = (
                self._opened.with_bos(ids_of[contexts[number]]),
                self._opened.with_bos(ids_of[context + text]),
            )
            if not contexts[number]:
                before, whole = [self.prefix_id], [self.prefix_id, *ids_of[context + text]]
            found.append(self._fit(number, [*before, *whole[len(before) :]], len(whole) - len(before)))
        return found

    def _fit(self, number: int, ids: list[int], n_scored: int) -> ScoredTokens:
        most = self.max_tokens + 1  # the last token is never an input
        if not 0 < n_scored <= self.max_tokens:
            raise InputError(
                f"a text to score has {n_scored} tokens; 1 to {self.max_tokens} (the context) are possible: "
                f"{self._opened.tokenizer.decode(ids)[-60:]!r}"
            )
        self.n_truncated += len(ids) > most
        return ScoredTokens(number, ids[-most:], n_scored)

    @torch.inference_mode()
    def _score_groups(self, groups: Sequence[Sequence[ScoredTokens]]) -> Iterator[dict[int, tuple[float, bool]]]:
        """Yield log-probability and is_greedy by number, per batch. The host prepares a batch while the GPU computes."""
        pending: tuple[list[Row], Tensor, Tensor] | None = None
        waiting = list(batches_by_length(make_rows(groups, self.max_tokens), self._tokens_per_batch))
        while waiting:
            rows = waiting[0]
            self.on_progress()
            try:
                scored = (rows, *self._score_rows(rows))
            except torch.OutOfMemoryError:
                if len(rows) == 1:
                    raise
                scored = None
            if scored is None:
                self._tokens_per_batch = len(rows[0].tokens) * len(rows) // 2
                self._free_memory(f"batches of {self._tokens_per_batch:,} tokens")
                waiting = list(batches_by_length([row for batch in waiting for row in batch], self._tokens_per_batch))
                continue
            del waiting[0]
            if pending is not None:
                yield _by_number(*pending)
            pending = scored
        if pending is not None:
            yield _by_number(*pending)

    def _score_rows(self, rows: list[Row]) -> tuple[Tensor, Tensor]:
        """Log-probability (fp32) of each scored token of the rows, and whether it has the highest: (N,) each."""
        opened = self._opened
        is_cuda = opened.device.type == "cuda"
        batch: RowBatch = as_tensors(rows, LENGTH_STEP if is_cuda else 1).to(opened.device)
        mask = None if batch.branches is None else tree_mask(batch.branches)
        hidden = self._network.hidden(batch.tokens, batch.positions, mask)  # (B, T, E)
        hidden = hidden[batch.outputs[0], batch.outputs[1]]  # (N, E)
        logprobs, greedy = [], []
        for chunk, wanted in zip(
            hidden.split(LOGITS_CHUNK_TOKENS), batch.targets.split(LOGITS_CHUNK_TOKENS), strict=True
        ):
            logits = opened.model.logits(chunk).float()  # (n, V)
            logprobs.append(logits.gather(1, wanted[:, None])[:, 0] - logits.logsumexp(dim=-1))
            greedy.append(logits.argmax(dim=-1) == wanted)
        return torch.cat(logprobs), torch.cat(greedy)

    # -- generation ----------------------------------------------------------------------------------------------------

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """Greedy continuation of each context, up to a stop string, EOS or the request's maximum of new tokens."""
        answers: dict[int, str] = {}
        for config, numbers in self._by_settings(requests):
            room = self.max_tokens - config.max_new_tokens
            if room < 1:
                raise InputError(
                    f"{config.max_new_tokens} new tokens leave no room for a prompt in a context of {self.max_tokens}"
                )
            ids = {number: self._prompt(requests[number].args[0], room) for number in numbers}
            by_length = sorted(numbers, key=lambda number: -len(ids[number]))
            while by_length:
                chosen = by_length[: self._texts_per_batch]
                texts = self._generate([ids[number] for number in chosen], config)
                if texts is None:
                    continue
                del by_length[: len(chosen)]
                found = dict(zip(chosen, texts, strict=True))
                self.on_answers(list(found.items()))
                answers |= found
        return [answers[number] for number in range(len(requests))]

    def _generate(self, prompts: list[list[int]], config: GenerateConfig) -> list[str] | None:
        """The continuations; None, and smaller batches from now on, if memory was not sufficient."""
        self.on_progress()
        try:
            made = generate_ids(self._opened, prompts, config, decoder=self._decoder)
        except torch.OutOfMemoryError:
            if len(prompts) == 1:
                raise
        else:
            return [sequence["text"] for sequence in made]
        self._decoder = Decoder(
            self._opened.model, self._opened.tokenizer.vocab_size
        )  # frees the buffers of the old one
        self._texts_per_batch = len(prompts) // 2
        self._free_memory(f"batches of {self._texts_per_batch} texts")
        return None

    def _free_memory(self, next_batches: str) -> None:
        """Return cached memory to the device, so that smaller batches fit."""
        if self._opened.device.type == "cuda":
            torch.cuda.empty_cache()
        log.warn(f"evaluate: out of device memory; continuing with {next_batches}")

    def _prompt(self, text: str, room: int) -> list[int]:
        ids = self._opened.with_bos(self._opened.tokenizer.encode(text)) or [self.prefix_id]
        self.n_truncated += len(ids) > room
        return ids[-room:]

    def _by_settings(self, requests: Sequence[Instance]) -> Iterator[tuple[GenerateConfig, list[int]]]:
        """Numbers of the requests with the same settings. Raises InputError for sampling: only greedy text is scored."""
        settings = []
        for request in requests:
            arguments: Any = request.args
            asked: Any = normalize_gen_kwargs(arguments[1], DEFAULT_NEW_TOKENS)
            if asked["do_sample"]:
                raise InputError("a task asks for sampled text; only greedy text is scored")
            settings.append((asked["max_gen_toks"], tuple(asked["until"])))
        for max_new_tokens, stop in dict.fromkeys(settings):
            config = GenerateConfig(max_new_tokens=max_new_tokens, stop=[s for s in stop if s], temperature=0.0)
            yield config, [n for n, found in enumerate(settings) if found == (max_new_tokens, stop)]


def _example_of(request: Instance) -> tuple[str | None, int | None, int]:
    """The same for requests of one example; requests without an example have each their own."""
    return request.task_name, request.doc_id, id(request) if request.doc_id is None else 0


def _texts(request: Instance) -> tuple[str, str]:
    arguments: Any = request.args
    return arguments[0], arguments[1]


def _by_number(rows: Sequence[Row], logprobs: Tensor, greedy: Tensor) -> dict[int, tuple[float, bool]]:
    found: dict[int, tuple[float, bool]] = {}
    all_logprobs, all_greedy, start = logprobs.double().cpu(), greedy.cpu(), 0
    for row in rows:
        for sequence in row.sequences:
            end = start + sequence.n_scored
            found[sequence.number] = (float(all_logprobs[start:end].sum()), bool(all_greedy[start:end].all()))
            start = end
    return found
