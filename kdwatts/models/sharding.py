"""A model on one device, or in equal shards over the ranks of a launch or of a node, by FSDP2.

FSDP2 gathers a block's weights just before the block runs, drops them afterwards, and adds up the
ranks' gradients. The objective calls a model's body and computes the head itself. So body,
embedding and head are each sharded by themselves. A tied head is the shard of the embedding.

In bfloat16 arithmetic float32 weights are rounded before they are gathered. That is half the bytes,
and autocast would round most of them anyway. Gradients are added up in float32.
"""

# V vocabulary, D width.

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.autograd.function import once_differentiable
from torch.distributed.tensor import DTensor, Partial, distribute_tensor

from kdwatts.models.quantization import on_device
from kdwatts.models.sharing import Sharing


def place(model: nn.Module, device: torch.device, sharing: Sharing | None = None) -> nn.Module:
    """The model on `device`, which every rank has read: all of it, or this rank's shard."""
    if sharing is None or not sharing.cuts:
        return on_device(model, device)
    cut(model, device, sharing)
    return model


def cut(model: nn.Module, device: torch.device, sharing: Sharing) -> None:
    """Leave this rank its shard of a model, in place, on `device`. What is on `meta` stays there.

    All ranks must call it.
    """
    from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

    dtypes: dict[str, Any] = {}
    if sharing.precision == "bf16":
        # Inputs are not cast: autocast keeps the residual stream in float32.
        dtypes = {
            "param_dtype": torch.bfloat16,
            "reduce_dtype": torch.float32,
            "cast_forward_inputs": False,
        }
    settings: dict[str, Any] = {
        "mesh": sharing.mesh(device.type),
        "reshard_after_forward": True,
        "mp_policy": MixedPrecisionPolicy(**dtypes),
    }
    body, head = model.get_submodule("model"), model.get_submodule("lm_head")
    embedding = body.get_submodule("embed_tokens")
    tied = head.weight is embedding.weight
    for block in body.get_submodule("layers").children():
        fully_shard(block, **settings)
    # The residual stream begins here, in the dtype that it has without shards.
    stream = MixedPrecisionPolicy(**dtypes, output_dtype=next(embedding.parameters()).dtype)
    fully_shard(embedding, **{**settings, "mp_policy": stream})
    fully_shard(body, **settings)
    if tied:
        head.weight = embedding.weight
    else:
        fully_shard(head, **settings)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            # The loss is already divided by the count of all ranks. A mean would divide twice.
            module.set_gradient_divide_factor(1.0)
            # Otherwise a factor of 1 is multiplied inside the sum, which gloo cannot do.
            module.set_force_sum_reduction_for_comms(True)


def gathered(weight: Tensor) -> Tensor:
    """The whole of a sharded weight, or the weight itself.

    Every rank must call it. The ranks' gradients are added up and cut into shards again.
    """
    if not isinstance(weight, DTensor):
        return weight
    # By default torch takes the gradient for one that all ranks have alike: a rank's shard would
    # then learn from that rank's text alone.
    return weight.full_tensor(grad_placements=[Partial()] * weight.device_mesh.ndim)


def gathered_for_products(weight: Tensor) -> Tensor:
    """The whole of a sharded weight with the values that matrix products read, in its own dtype.

    Under autocast a float32 weight is rounded before it is sent. Its gradient is not rounded: the
    ranks' are added up in float32. Every rank must call it, as `gathered`.
    """
    device = weight.device.type
    if (
        isinstance(weight, DTensor)
        and weight.dtype == torch.float32
        and torch.is_autocast_enabled(device)
    ):
        return _Rounded.apply(weight, torch.get_autocast_dtype(device))  # pyright: ignore[reportReturnType]
    return gathered(weight)


class _Rounded(torch.autograd.Function):
    """A weight that travels rounded. A cast of torch's own would round its gradient too."""

    @staticmethod
    def forward(ctx: Any, weight: DTensor, dtype: torch.dtype) -> Tensor:
        ctx.mesh, ctx.placements = weight.device_mesh, weight.placements
        sent: Any = weight.to(dtype)
        return sent.full_tensor().to(weight.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        parts = [Partial()] * ctx.mesh.ndim
        whole = DTensor.from_local(grad_outputs[0], ctx.mesh, parts, run_check=False)
        return whole.redistribute(placements=ctx.placements), None


def is_sharded(tensor: Tensor) -> bool:
    """Whether a tensor is sharded over ranks."""
    return isinstance(tensor, DTensor)


def part_of(whole: Tensor, like: Tensor) -> Tensor:
    """This rank's part of `whole`, on the device of `like`, where `like` is sharded.

    Else all of it.
    """
    whole = whole.to(like.device)
    if not isinstance(like, DTensor):
        return whole
    # Every rank has the whole: nothing is sent.
    return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)


@torch.no_grad()
def whole_state(model: nn.Module) -> dict[str, Tensor]:
    """The state of a model by name, in whole tensors on the CPU, also when it is sharded.

    Every rank must call it. The first rank gets the state, all others get an empty one.
    """
    keeps = not distributed.is_initialized() or distributed.get_rank() == 0
    state: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        whole = gathered(tensor)
        if keeps:
            state[name] = whole.cpu()
    return state
