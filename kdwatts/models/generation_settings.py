"""How a saved model writes by its own settings: end tokens and penalties. No weights are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def generation_settings(model_dir: Path) -> Any:
    """transformers' GenerationConfig of a saved model, as a loaded model would have it."""
    from transformers import AutoConfig, GenerationConfig

    if (model_dir / "generation_config.json").is_file():
        return GenerationConfig.from_pretrained(str(model_dir))
    return GenerationConfig.from_model_config(AutoConfig.from_pretrained(str(model_dir)))


def repetition_penalty(settings: Any) -> float:
    """What logits of tokens that stand there already are divided by; 1 where none is set."""
    return float(settings.repetition_penalty or 1.0)
