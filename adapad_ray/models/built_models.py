"""Models that are made once on this machine and kept as folders: converted from GGUF, or built from a seed."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
import transformers

from adapad_ray.assets import made_once
from adapad_ray.errors import BadRequestError

TINY_VIT = "tiny-vit"
TINY_VIT_DESCRIPTION = "vision transformer of 4 layers with random weights, for grey images of 8 x 8 pixels"
_GGUF = ".gguf"


def converted(folder: Path) -> Path:
    """Return the folder of a packaged model; a single GGUF file is dequantised to fp32 the first time.

    Raises:
        BadRequestError: the gguf package is missing.
    """
    files = [path for path in folder.iterdir() if path.suffix == _GGUF]
    if not files:
        return folder
    (file,) = files

    def convert(target: Path, _: Path) -> None:
        # Newer versions of transformers keep the weights packed if a kernel for that is installed.
        packed = getattr(transformers, "GgufConfig", None)
        options = {} if packed is None else {"quantization_config": packed(dequantize=True)}
        try:
            read = transformers.AutoModelForCausalLM.from_pretrained(
                folder, gguf_file=file.name, dtype=torch.float32, trust_remote_code=False, **options
            )
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=file.name, trust_remote_code=False)
        except ImportError as error:
            raise BadRequestError(f"model {folder.name} is a GGUF file: install gguf to read it") from error
        config = read.config
        if hasattr(config, "quantization_config"):  # the weights are plain now, but would be saved as quantised
            del config.quantization_config
        plain = type(read)(config)
        plain.load_state_dict(read.state_dict())
        plain.save_pretrained(target)
        tokenizer.save_pretrained(target)

    return made_once(f"models/{folder.name}", convert)


def tiny_vit() -> Path:
    """Return the folder of `tiny-vit`: a small ViT (2010.11929). Sizes and seed are this project's choice.

    The weights are frozen random features. Their deviation of 1/√64 keeps the scale of activations.
    """
    config = transformers.ViTConfig(
        image_size=8,
        patch_size=2,
        num_channels=1,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        initializer_range=0.125,
    )
    content = hashlib.sha256(config.to_json_string().encode()).hexdigest()

    def build(target: Path, _: Path) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            transformers.ViTModel(config, add_pooling_layer=False).save_pretrained(target)

    return made_once(f"models/{TINY_VIT}-{content[:12]}", build)
