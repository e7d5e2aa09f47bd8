"""The command `bench`."""

import json
from typing import Annotated

import typer

from tinyllama.bench.bench_options import BenchOptions, Compile, Device, Precision, Recompute

LARGEST = 2**20  # of any count, so that a request too large fails with a message about memory


def bench(
    preset: Annotated[str | None, typer.Option(help="Model; default tinyllama-1.1b on a GPU, else tiny-2m.")] = None,
    precision: Annotated[
        Precision | None, typer.Option(help="Number format of matmuls; default bf16 on a GPU, else fp32.")
    ] = None,
    micro_batch_size: Annotated[
        int | None,
        typer.Option(
            help="Sequences per micro-batch; default 16 for tinyllama-1.1b on a GPU, else 8.", min=1, max=LARGEST
        ),
    ] = None,
    accumulate: Annotated[int, typer.Option(help="Micro-batches per step.", min=1, max=LARGEST)] = 1,
    seq_len: Annotated[
        int | None, typer.Option(help="Tokens per sequence; default the preset's.", min=2, max=LARGEST)
    ] = None,
    steps: Annotated[int, typer.Option(help="Timed steps, after 4 warm-up steps.", min=1, max=LARGEST)] = 10,
    recompute: Annotated[Recompute, typer.Option(help="What the backward pass recomputes.")] = "none",
    device: Annotated[Device, typer.Option(help="auto: a GPU if available.")] = "auto",
    compile_layers: Annotated[Compile, typer.Option("--compile", help="torch.compile; auto: on a GPU.")] = "auto",
    decode: Annotated[bool, typer.Option(help="Also time decoding of one sequence.")] = True,
    profile: Annotated[bool, typer.Option(help="Show the time of a step by kind of kernel.")] = True,
    memory_limit_gb: Annotated[float | None, typer.Option(help="Limit of PyTorch's GPU memory, in 1e9 bytes.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else.")] = False,
) -> None:
    """Measure the speed of training and decoding on random tokens, and the limits of the device.

    Model FLOPs utilization (MFU) is model FLOPs per second over the data sheet's peak for the precision, or, for an unknown
    device, over the fastest matmul measured. FLOPs per token: mfu_palm counts 6N + 12·L·D·T, mfu_causal 6N + 6·L·D·T. N:
    matmul parameters with the head, without the input embedding; L layers, D width of attention, T sequence length.

    Example: tinyllama bench --preset tinyllama-1.1b --micro-batch-size 8 --recompute selective
    """
    from tinyllama.bench.bench_table import render
    from tinyllama.bench.run_bench import run_bench

    result = run_bench(
        BenchOptions(
            preset, precision, micro_batch_size, accumulate, seq_len, steps, recompute, device, compile_layers, decode,
            profile, memory_limit_gb,
        )
    )  # fmt: skip
    typer.echo(json.dumps(result) if as_json else render(result))
