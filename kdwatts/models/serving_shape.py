"""What in a model's configuration decides the joules of a token that it serves."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from kdwatts.config.pair import ModelSource
from kdwatts.models.load import local_dir, stated_configuration

BESIDE = (
    "_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype", "id2label",
    "label2id", "problem_type", "return_dict", "output_attentions", "output_hidden_states",
    "use_cache", "initializer_range", "attention_dropout", "bos_token_id", "eos_token_id",
    "pad_token_id",
)  # fmt: skip
"""Keys of a configuration that serving at fixed lengths does not read, or that the stage sets.

All other keys are taken to matter.
"""

ROUTING = ("expert", "moe", "router")
"""Words in the names of a configuration's keys by which a mixture of experts is known."""


def student_configuration(source: ModelSource) -> Any:
    """The configuration with which a student of this source is served.

    It does not depend on how the student was taught. A local model has it in its folder. For a
    model of a hub, which a plan does not ask, it is the shape that the pair's file states: loading
    refuses any other.
    """
    from transformers import AutoConfig

    directory = local_dir(source.path) if source.path else None
    if directory:
        with suppress(OSError, ValueError, KeyError):  # Told in a sentence by who loads it.
            return AutoConfig.from_pretrained(directory, trust_remote_code=False)
    return stated_configuration(source.architecture)


def serving_shape(configuration: Any) -> dict[str, Any]:
    """What decides a model's shape and kernels.

    Its name, its weights and its place are not in it.
    """
    kept = {key: v for key, v in configuration.to_dict().items() if key not in BESIDE}
    # None lets the library choose. Its version is in the key too.
    return {**kept, "attention": configuration._attn_implementation}


def depends_on_text(configuration: Any) -> bool:
    """Whether a token's joules depend on the text, and so on the weights.

    They do in a mixture of experts: its trained router decides how many experts a batch uses. Such
    a model is recognised by a key of its configuration, at any depth, that names experts or a
    router and is set (Mixtral's `num_local_experts`, Qwen2-MoE's `num_experts`, DBRX's
    `ffn_config.moe_num_experts`). A wrong yes is harmless: the model then has a key of its own.
    """
    return _routes(configuration.to_dict())


def _routes(settings: Mapping[str, Any]) -> bool:
    return any(
        _routes(value)
        if isinstance(value, Mapping)
        else bool(value) and any(word in str(key) for word in ROUTING)
        for key, value in settings.items()
    )
