"""`tinyllama bench` as the command line has it."""

import json
from typing import Annotated

import typer

from tinyllama.bench.bench_options import BenchOptions, Compile, Device, Precision, Recompute

LARGEST = 2**20  # of any count: the product of all is a number of bytes that can be refused


def bench(
    preset: Annotated[str | None, typer.Option(help="Network; default tinyllama-1.1b on a GPU, else tiny-2m.")] = None,
    precision: Annotated[
        Precision | None, typer.Option(help="Number format of matrix products; default bf16 on a GPU, else fp32.")
    ] = None,
    micro_batch_size: Annotated[
        int | None,
        typer.Option(
            help="Sequences computed at once; default 16 for tinyllama-1.1b on a GPU, else 8.", min=1, max=LARGEST
        ),
    ] = None,
    accumulate: Annotated[int, typer.Option(help="Micro-batches of one step.", min=1, max=LARGEST)] = 1,
    seq_len: Annotated[
        int | None, typer.Option(help="Tokens of a sequence; default the preset's.", min=2, max=LARGEST)
    ] = None,
    steps: Annotated[int, typer.Option(help="Timed steps, after 4 that warm up.", min=1, max=LARGEST)] = 10,
    recompute: Annotated[Recompute, typer.Option(help="What the backward pass computes again.")] = "none",
    device: Annotated[Device, typer.Option(help="auto: a GPU if there is one.")] = "auto",
    compile_layers: Annotated[Compile, typer.Option("--compile", help="torch.compile; auto: on a GPU.")] = "auto",
    decode: Annotated[bool, typer.Option(help="Time decoding too, one sequence.")] = True,
    profile: Annotated[bool, typer.Option(help="Say what a step's time goes to, by kind of kernel.")] = True,
    memory_limit_gb: Annotated[float | None, typer.Option(help="Cap of PyTorch's GPU memory, in 1e9 bytes.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else.")] = False,
) -> None:
    """Speed of training and decoding on this device, on random tokens, beside the device's own ceilings.

    Model FLOPs utilization is model FLOPs a second over the data sheet's peak for the precision (for a device without a
    known one: the best product measured). FLOPs a token: mfu_palm counts 6N + 12·L·D·T, mfu_causal 6N + 6·L·D·T. N:
    matmul parameters, the head included, the input embedding not; L layers, D width of attention, T sequence length.

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
