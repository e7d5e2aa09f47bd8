"""Batched decoding: one prefill pass over all prompts, then steps of one new token per sequence.

On a GPU a whole step, choice of the token included, is one CUDA graph, and the host reads a step's tokens while the
device computes the next ones. With 16-bit weights a step uses fused kernels (`fused_step`); otherwise, and on a CPU, it is
the network itself with a cache.
"""

import gc
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from tinyllama import log
from tinyllama.generate.generate_config import GenerateConfig
from tinyllama.generate.kv_cache import KVCache, OneTokenEach
from tinyllama.generate.sampling import choose
from tinyllama.model.llama import Llama

SLOTS_MULTIPLE = 256  # GPU caches are rounded up to a multiple, so that a graph serves prompts of several lengths
STEPS_AHEAD = 2  # steps that a GPU computes before the host reads the first one's tokens


class Decoder:
    """Generates token ids below `vocab_size` (default: all); keeps its latest buffers and CUDA graph for the next call.

    `fused` None: fused kernels if they can be used.
    """

    def __init__(self, model: Llama, vocab_size: int | None = None, fused: bool | None = None) -> None:
        self._model, self._vocab_size, self._fused = model, vocab_size or model.config.vocab_size, fused
        self._latest: tuple[object, DecodeBatch] | None = None

    @torch.inference_mode()
    def new_tokens(
        self, prompts: list[list[int]], config: GenerateConfig, seeds: list[int] | None = None
    ) -> Generator[list[int], None, None]:
        """Yield the new token of every sequence, step by step, until the last limit; -1 where logits are not finite.

        A sequence's limit is `config.max_new_tokens` or the end of the context; ignore its tokens after the limit or
        after EOS. `seeds`: default `config.seed` plus the sequence's number. Raises ValueError for an empty prompt or
        one that fills the context.
        """
        seq_len = self._model.config.seq_len
        if not all(0 < len(prompt) < seq_len for prompt in prompts):
            raise ValueError(f"every prompt needs 1 to {seq_len - 1} tokens")
        n_steps = max(min(config.max_new_tokens, seq_len - len(prompt)) for prompt in prompts)
        if n_steps == 0:
            return
        batch = self._batch(len(prompts), min(seq_len, max(map(len, prompts)) + n_steps), config)
        batch.start(prompts, [config.seed + n for n in range(len(prompts))] if seeds is None else seeds)
        yield from batch.steps(n_steps)

    def _batch(self, size: int, slots: int, config: GenerateConfig) -> "DecodeBatch":
        if self._model.embedding.weight.is_cuda:
            slots = min(self._model.config.seq_len, -(-slots // SLOTS_MULTIPLE) * SLOTS_MULTIPLE)
        choice = config.model_dump(include={"temperature", "top_k", "top_p", "min_p", "repetition_penalty"})
        key = (size, slots, tuple(choice.items()))
        if self._latest is None or self._latest[0] != key:
            self._latest = None  # frees its memory before the next is allocated
            self._latest = (key, DecodeBatch(self._model, size, slots, config, self._vocab_size, self._fused))
        return self._latest[1]


class DecodeBatch:
    """Buffers for `size` sequences of at most `slots` tokens, and the step that adds one token to each."""

    def __init__(
        self, model: Llama, size: int, slots: int, config: GenerateConfig, vocab_size: int, fused: bool | None
    ) -> None:
        weight = model.embedding.weight
        self._model, self._config, self._vocab_size, self._slots = model, config, vocab_size, slots
        self._cache = KVCache(model.config, size, slots, weight.device, weight.dtype)
        self._chosen = torch.zeros(size, dtype=torch.int64, device=weight.device)  # -1: logits not finite
        self._tokens = torch.zeros_like(self._chosen)  # input of the next step
        self._positions = torch.zeros_like(self._chosen)  # of these tokens
        self._seeds = torch.zeros_like(self._chosen)
        self._number = torch.zeros((), dtype=torch.int64, device=weight.device)  # index of the new token to choose
        self._seen: Tensor | None = None
        if config.repetition_penalty != 1:
            self._seen = torch.zeros((size, vocab_size), dtype=torch.bool, device=weight.device)
        # Slots that attention sees, and whether it needs a mask. A graph has one shape for all; otherwise see `start`.
        self._n_visible, self._is_ragged = slots, True
        self._fused_step: Callable[[Tensor, Tensor], Tensor] | None = None
        self._graph: torch.cuda.CUDAGraph | None = None
        if weight.is_cuda:
            self._fused_step = self._try_fused(size, fused)
            self._capture()

    def start(self, prompts: list[list[int]], seeds: list[int]) -> None:
        """Prefill the prompts and choose the first token of each. Padding follows a prompt and is never attended."""
        device, lengths = self._chosen.device, [len(prompt) for prompt in prompts]
        longest = max(lengths)
        rows = torch.tensor([prompt + [0] * (longest - len(prompt)) for prompt in prompts])  # (B, T)
        self._cache.clear()
        self._positions.copy_(torch.tensor(lengths))
        self._seeds.copy_(torch.tensor(seeds))
        self._number.zero_()
        if self._seen is not None:
            self._seen.zero_()
            for n, prompt in enumerate(prompts):
                self._seen[n, [i for i in set(prompt) if i < self._vocab_size]] = True
        if self._graph is None:
            self._n_visible, self._is_ragged = longest, min(lengths) < longest
        hidden = self._model.hidden(rows.to(device), cache=self._cache)  # (B, T, E)
        last = hidden[torch.arange(len(prompts), device=device), self._positions - 1]
        self._choose(self._model.logits(last))

    def steps(self, n_steps: int) -> Iterator[list[int]]:
        """Yield the tokens that `start` chose, then those of further steps."""
        ahead = STEPS_AHEAD if self._graph is not None else 0
        in_flight: deque[Callable[[], list[int]]] = deque()
        copies = [_HostCopy(self._chosen) for _ in range(ahead + 1)]
        for step in range(n_steps):
            if step > 0:
                self._advance()
            in_flight.append(copies[step % len(copies)].send(self._chosen))
            if len(in_flight) > ahead:
                yield in_flight.popleft()()
        while in_flight:
            yield in_flight.popleft()()

    def _advance(self) -> None:
        if self._graph is not None:
            self._graph.replay()
        else:
            self._n_visible = min(self._n_visible + 1, self._slots)
            self._step()

    def _step(self) -> None:
        logits = (self._fused_step or self._plain_step)(self._tokens, self._positions)
        self._positions.add_(1).clamp_(max=self._slots - 1)  # past its limit a sequence overwrites its last slot
        self._choose(logits)

    def _choose(self, logits: Tensor) -> None:  # (B, V)
        logits = logits[:, : self._vocab_size].float()
        self._chosen.copy_(choose(logits, self._config, self._seeds, self._number, self._seen))
        self._tokens.copy_(self._chosen.clamp(min=0))
        self._number.add_(1)
        if self._seen is not None:
            self._seen.scatter_(1, self._tokens[:, None], True)

    def _plain_step(self, tokens: Tensor, positions: Tensor) -> Tensor:
        mask = None
        if self._is_ragged:
            slots = torch.arange(self._n_visible, device=tokens.device)
            mask = (slots <= positions[:, None])[:, None, None]  # (B, 1, 1, S)
        cache = OneTokenEach(self._cache, positions, self._n_visible)
        return self._model.logits(self._model.hidden(tokens[:, None], positions[:, None], mask, cache)[:, 0])

    def _try_fused(self, size: int, fused: bool | None) -> Callable[[Tensor, Tensor], Tensor] | None:
        """The fused step, after a trial run; None if it cannot be used. `fused` True: raises the reason instead."""
        if fused is False:
            return None
        try:
            from tinyllama.generate.fused_step import FusedStep, can_fuse

            if not can_fuse(self._model, size):
                return None
            step = FusedStep(self._model, self._cache, size)
            step(self._tokens, self._positions)
            torch.cuda.synchronize()
        except Exception as error:  # no Triton, no C compiler, an unknown device: the plain step works everywhere
            if fused:
                raise
            log.info(f"generate: without fused kernels ({type(error).__name__}: {str(error).splitlines()[0:1]})")
            return None
        return step

    def _capture(self) -> None:
        """Capture one step as a CUDA graph. It only writes to buffers that `start` fills again."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self._step()
            self._step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with _gc_paused(), torch.cuda.graph(graph):
            self._step()
        self._graph = graph


@contextmanager
def _gc_paused() -> Iterator[None]:
    """Collect garbage before the block and not in it: freeing an older graph during a capture would break the capture."""
    gc.collect()
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class _HostCopy:
    """A copy of token ids (B,) to the host; on a GPU it runs beside the next steps."""

    def __init__(self, like: Tensor) -> None:
        self._row = torch.empty(like.shape, dtype=like.dtype, pin_memory=like.is_cuda)
        self._event = torch.cuda.Event() if like.is_cuda else None

    def send(self, values: Tensor) -> Callable[[], list[int]]:
        """Start the copy; returns a function that waits for it and returns the ids."""
        self._row.copy_(values, non_blocking=True)
        if self._event is not None:
            self._event.record()
        return self._wait

    def _wait(self) -> list[int]:
        if self._event is not None:
            self._event.synchronize()
        return self._row.tolist()
