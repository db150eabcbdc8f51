"""Times the cut of one LoRA update: thin QR and a small SVD (`adapad compress`) against PEFT's dense SVD.

    python benchmarks/truncation.py [--widths 768 4096] [--rank 16] [--keep 4] [--repeats 3]

PEFT's `_convert_module_to_lora` forms ΔW of a LoRA layer and computes its full SVD. Both cut to the same rank; the
difference of their results is printed relative to the update. Medians, one thread.
"""

from __future__ import annotations

import argparse
import statistics
import time

import peft
import torch
from peft.tuners.lora.conversion import _convert_module_to_lora
from torch import nn

from adapad_ray.adapters.truncation import spectrum, update_distance


def layer(width: int, rank: int) -> peft.tuners.lora.Linear:
    """A LoRA layer of PEFT with random factors and scale 1."""
    model = nn.ModuleDict({"linear": nn.Linear(width, width, bias=False)})
    config = peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=["linear"])
    adapted = peft.inject_adapter_in_model(config, model)["linear"]
    with torch.no_grad():
        adapted.lora_B["default"].weight.normal_()
    return adapted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=int, nargs="+", default=[768, 4096])
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--keep", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"{'module':>12} {'QR route':>10} {'dense SVD':>10} {'ratio':>8} {'difference':>10}")
    for width in options.widths:
        adapted = layer(width, options.rank)
        a, b = adapted.lora_A["default"].weight.detach(), adapted.lora_B["default"].weight.detach()
        ours, theirs = [], []
        spectrum(a, b)  # the first call loads LAPACK
        for _ in range(options.repeats):
            began = time.perf_counter()
            cut = spectrum(a, b).factors(options.keep)
            ours.append(time.perf_counter() - began)
            began = time.perf_counter()
            converted = _convert_module_to_lora(adapted, options.keep)
            theirs.append(time.perf_counter() - began)
        first, second = statistics.median(ours), statistics.median(theirs)
        apart = update_distance(cut, (converted[0], converted[1])) / update_distance(cut, (cut[0][:0], cut[1][:, :0]))
        shape = f"{width}x{width}"
        print(f"{shape:>12} {first:9.4f}s {second:9.2f}s {second / first:7.0f}x {apart:10.1e}")


if __name__ == "__main__":
    main()
