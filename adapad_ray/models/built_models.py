"""Models that are made once on this machine and then are folders like any other: converted, or built from a seed."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
import transformers

from adapad_ray.assets import made_once
from adapad_ray.errors import BadRequestError

TINY_VIT = "tiny-vit"
TINY_VIT_DESCRIPTION = "a vision transformer of 4 layers and random weights for grey pictures of 8 x 8, as digits are"
_GGUF = ".gguf"


def converted(folder: Path) -> Path:
    """The folder of a packaged model; one that comes as a single GGUF file is dequantised to fp32 the first time.

    Raises:
        BadRequestError: the package that reads such files is missing.
    """
    files = [path for path in folder.iterdir() if path.suffix == _GGUF]
    if not files:
        return folder
    (file,) = files

    def convert(target: Path, _: Path) -> None:
        # Newer versions of transformers would leave the weights packed where a kernel for that is installed.
        packed = getattr(transformers, "GgufConfig", None)
        options = {} if packed is None else {"quantization_config": packed(dequantize=True)}
        try:
            read = transformers.AutoModelForCausalLM.from_pretrained(
                folder, gguf_file=file.name, dtype=torch.float32, trust_remote_code=False, **options
            )
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=file.name, trust_remote_code=False)
        except ImportError as error:
            raise BadRequestError(f"model {folder.name} comes as GGUF: install gguf to read it") from error
        config = read.config
        if hasattr(config, "quantization_config"):  # the weights are plain by now, but would not be saved as such
            del config.quantization_config
        plain = type(read)(config)
        plain.load_state_dict(read.state_dict())
        plain.save_pretrained(target)
        tokenizer.save_pretrained(target)

    return made_once(f"models/{folder.name}", convert)


def tiny_vit() -> Path:
    """The folder of `tiny-vit`: ViT's own architecture (2010.11929), small. Sizes and seed are ours.

    Weights keep the size of what passes through them (deviation 1/√64), because frozen ones are random features.
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
