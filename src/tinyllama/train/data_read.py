"""Which steps of a run read a document, and which documents a step reads: computed from the seed, nothing is logged for it.

No torch here: the newest checkpoint's state has all that the order of windows depends on.
"""

from pathlib import Path
from typing import Any

from tinyllama.checkpoint import checkpoint_format as form
from tinyllama.checkpoint.checkpoint_format import RunState
from tinyllama.errors import InputError
from tinyllama.seeds import derive_seed
from tinyllama.shards.quarantine import RunOrder, read_quarantine
from tinyllama.shards.shard_format import INDEX_FILE, find_document, read_index
from tinyllama.shards.window_documents import documents_of_windows, windows_of_places

SPLITS = ("train", "validation")
MAX_STEPS = 1000  # that are listed of one document


def document_reads(run_dir: Path, document_id: str) -> dict[str, Any]:
    """Where a document's tokens are, and when training read them; empty when the run has no shards or they lack it.

    `tokens`; `places`: file, offset and tokens of each part; of the training split, once there is a checkpoint: `steps`
    that read a part of it up to that checkpoint (counted from 1, the first 1,000), `epochs` it was read in,
    `quarantined_windows`: how many of its windows are left out now.
    """
    for name in SPLITS:
        split = run_dir / "shards" / name
        places = find_document(split, document_id) if (split / INDEX_FILE).is_file() else []
        if not places:
            continue
        found: dict[str, Any] = {
            "tokens": sum(place.tokens for place in places),
            "places": [{"file": str(p.file), "offset": p.offset, "tokens": p.tokens} for p in places],
        }
        state = _newest_state(run_dir)
        return found | (_reads(split, places, state) if state and name == "train" else {})
    return {}


def documents_of_step(run_dir: Path, step: int) -> dict[str, Any]:
    """`step`, its `epoch`, `windows` and the `documents` in them, in the order of the shards.

    Of a step that is still to come it is what the run will read, if nothing more is quarantined. Raises InputError when
    the run has no checkpoint yet.
    """
    state = _newest_state(run_dir)
    if state is None:
        raise InputError(f"{run_dir / 'checkpoints'}: no checkpoint yet, which says what the run reads; train first")
    if step < 1:
        raise InputError(f"--step {step}: steps are counted from 1")
    split = run_dir / "shards" / "train"
    order, seq_len, per_step = _order(split, state)
    samples = range((step - 1) * per_step, step * per_step)
    windows = [order.window(sample) for sample in samples]
    documents = documents_of_windows(split, windows, seq_len)
    return {
        "step": step, "epoch": order.epoch(samples[0]), "windows": windows, "documents": documents,
    }  # fmt: skip


def _reads(split: Path, places: list[Any], state: RunState) -> dict[str, Any]:
    order, seq_len, per_step = _order(split, state)
    windows = windows_of_places(split, places, seq_len)
    samples = sorted(sample for window in windows for sample in order.samples_of(window, state.step * per_step))
    return {
        "steps": sorted({sample // per_step + 1 for sample in samples})[:MAX_STEPS],
        "epochs": sorted({order.epoch(sample) for sample in samples}),
        "quarantined_windows": len(set(windows) & order.quarantined),
    }


def _order(split: Path, state: RunState) -> tuple[RunOrder, int, int]:
    """The order of the run's windows, tokens of a sequence, sequences of a step."""
    seq_len, per_step = state.train["seq_len"], state.train["tokens_per_step"] // state.train["seq_len"]
    n_windows = read_index(split).tokens // (seq_len + 1)
    seed = derive_seed(state.train["seed"], "window order")
    return RunOrder(n_windows, seed, per_step, read_quarantine(state.quarantine, split)), seq_len, per_step


def _newest_state(run_dir: Path) -> RunState | None:
    newest = next(iter(form.checkpoints(run_dir / "checkpoints")), None)
    return form.read_state(newest) if newest else None
