"""Microseconds of each collective that layouts use, by size: what `tinyllama plan` rests its communication on.

torchrun --nproc-per-node 2 benchmarks/collectives.py [--mebibytes 1 16 64 128 512 2048]

bf16, the mean of ten after three to warm up; `send` goes from rank 0 to rank 1. Without GPUs over gloo, to be tried.
"""

import argparse
import time
from collections.abc import Callable

import torch
import torch.distributed as dist

WARM_UPS, TIMES = 3, 10


def microseconds(run: Callable[[], object], device: torch.device) -> float:
    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    for _ in range(WARM_UPS):
        run()
    wait()
    dist.barrier()
    wait()
    begun = time.perf_counter()
    for _ in range(TIMES):
        run()
    wait()
    return (time.perf_counter() - begun) / TIMES * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mebibytes", type=int, nargs="+", default=[1, 16, 64, 128, 512, 2048])
    options = parser.parse_args()
    on_gpu = torch.cuda.is_available()
    dist.init_process_group("nccl" if on_gpu else "gloo")
    rank, ranks = dist.get_rank(), dist.get_world_size()
    device = torch.device("cuda", rank) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    if rank == 0:
        print("| MiB | all-reduce | gather | scatter | send |\n|---:|---:|---:|---:|---:|", flush=True)
    for mebibytes in options.mebibytes:
        whole = torch.zeros(mebibytes * 2**19, dtype=torch.bfloat16, device=device)
        part = torch.zeros(len(whole) // ranks, dtype=torch.bfloat16, device=device)
        seen = [
            microseconds(run, device)
            for run in (
                lambda whole=whole: dist.all_reduce(whole),
                lambda whole=whole, part=part: dist.all_gather_into_tensor(whole, part),
                lambda whole=whole, part=part: dist.reduce_scatter_tensor(part, whole),
                lambda whole=whole: dist.send(whole, 1) if rank == 0 else dist.recv(whole, 0) if rank == 1 else None,
            )
        ]
        if rank == 0:
            print(f"| {mebibytes:,} | {' | '.join(f'{each:,.0f}' for each in seen)} |", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
