"""Packs on this machine's CPU, in CPU time: what forcing them on costs where products and not launches take the time.

python -m benchmarks.packs [--shape MiniLM-L6] [--slots 2 8] [--threads 1] [--batch 16] [--tokens 64]
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import torch

from benchmarks.gpu.check import markdown
from benchmarks.gpu.packs import PRECISIONS, figures
from benchmarks.gpu.scale import FULL, SHAPES


def main() -> None:
    """Prints one row per number of slots."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="MiniLM-L6")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32")
    parser.add_argument("--slots", type=int, nargs="+", default=[2, 8])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=FULL.batch_size)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--steps", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    scale = replace(FULL, batch_size=options.batch, tokens=options.tokens, timed_steps=options.steps)
    rows = [figures(options.shape, options.precision, replace(scale, rank=n), n) for n in options.slots]
    print(markdown(rows))


if __name__ == "__main__":
    main()
