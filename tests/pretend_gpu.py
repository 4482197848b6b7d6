"""A pretended GPU: tensors that say they are on a GPU, refuse to meet tensors on the CPU, and count what waits for it.

The numbers are computed on the CPU, so the results can be compared with those of a run that pretends nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

GPU = torch.device("cuda", 0)
aten = torch.ops.aten
INDEXED = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._unsafe_index.Tensor)
"""Operations that take indices on the CPU too, but then wait for them to be copied."""
COPIES = (aten._to_copy.default, aten.copy_.default)
WAITING = (aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default)
"""Operations whose result, or its size, the CPU has to know before it continues."""


class OnGPU(torch.Tensor):
    """A tensor that says it is on a GPU. `numbers` holds them, on the CPU."""

    numbers: torch.Tensor

    @staticmethod
    def __new__(cls, real: torch.Tensor) -> OnGPU:
        # On the meta device for torch itself, which needs a driver for a GPU.
        made: OnGPU = torch.Tensor._make_wrapper_subclass(
            cls,
            real.size(),
            strides=real.stride(),
            storage_offset=real.storage_offset(),
            dtype=real.dtype,
            device=torch.device("meta"),
        )
        made.numbers = real
        return made

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"OnGPU({self.numbers!r})"

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func == torch.Tensor.device.__get__:
            return GPU
        # Not torch's own, which would turn what was copied to the CPU into this class again.
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        raise RuntimeError(f"{func} of a tensor on the pretended GPU, outside of `pretended_gpu`")


class Pretend(TorchDispatchMode):
    """Computes on the CPU what is asked of the GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        here = any(isinstance(tensor, OnGPU) for tensor in tensors)
        asked = kwargs.get("device")
        there = here if asked is None else torch.device(asked).type in ("cuda", "meta")
        if not here and not there:
            return func(*args, **kwargs)
        if here and func not in COPIES:
            # A number on the CPU may meet tensors on a GPU.
            strangers = [tensor for tensor in tensors if not isinstance(tensor, OnGPU) and tensor.dim()]
            if strangers and func not in INDEXED:
                raise RuntimeError(f"{func}: tensors on the GPU and on the CPU ({tuple(strangers[0].shape)})")
            if strangers:
                self.waits["indices on the CPU"] += 1
        self._count(func, args, kwargs, there)
        if asked is not None:
            kwargs["device"] = "cpu"
        kwargs.pop("pin_memory", None)
        if func is aten._fused_sdp_choice.default:
            return 0  # the kernels of the CPU's choice are not those of a GPU: only the plain one is both's
        real_args, real_kwargs = tree_map_only(OnGPU, lambda tensor: tensor.numbers, (args, kwargs))
        found = func(*real_args, **real_kwargs)
        if func is aten._to_copy.default and not there:
            return found
        # What an operation changes in place, it returns: as the same tensor.
        known: dict[int, torch.Tensor] = {id(tensor.numbers): tensor for tensor in tensors if isinstance(tensor, OnGPU)}
        known |= {id(tensor): tensor for tensor in tensors if not isinstance(tensor, OnGPU)}
        return tree_map_only(
            torch.Tensor, lambda tensor: known[id(tensor)] if id(tensor) in known else OnGPU(tensor), found
        )

    def _count(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], there: bool) -> None:
        if func in WAITING:
            self.waits[str(func)] += 1
        elif func is aten._to_copy.default and kwargs.get("device") is not None:
            moved = isinstance(args[0], OnGPU) != there
            if moved and not (there and kwargs.get("non_blocking")):
                self.waits["to the GPU" if there else "to the CPU"] += 1
        elif func is aten.copy_.default and isinstance(args[0], OnGPU) != isinstance(args[1], OnGPU):
            self.waits["copy_"] += 1
        elif func in INDEXED and any(one is not None and one.dtype == torch.bool for one in args[1]):
            self.waits["a mask as an index"] += 1


class Making(TorchFunctionMode):
    """Makes tensors from Python's numbers, which torch copies to a GPU below the level of operations."""

    def __init__(self, waits: Counter[str]) -> None:
        super().__init__()
        self.waits = waits

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        asked = kwargs.get("device")
        if func in (torch.tensor, torch.as_tensor) and asked is not None and torch.device(asked).type == "cuda":
            self.waits["made from numbers"] += 1
            return OnGPU(func(*args, **{**kwargs, "device": "cpu"}))
        if func is torch.Tensor.tolist and isinstance(args[0], OnGPU):
            self.waits["to the CPU"] += 1
            return args[0].numbers.tolist()
        return func(*args, **kwargs)


@contextmanager
def pretended_gpu() -> Iterator[Pretend]:
    """Inside the block, tensors can be moved to and made on the device `cuda`. Nothing can be compiled there."""
    with (
        patch("torch.cuda._lazy_init", lambda: None),
        patch.object(torch.Tensor, "pin_memory", lambda tensor, *_: tensor),
        patch("rl4vlm.models.decoding.COMPILED_ON", ()),
        patch("rl4vlm.models.decoding.lacking_compiler", lambda: None),
        Pretend() as mode,
        Making(mode.waits),
    ):
        yield mode


def to_gpu(module: nn.Module) -> None:
    """Move a module's parameters and buffers to the pretended GPU. Tied weights stay tied."""
    moved: dict[int, nn.Parameter] = {}
    for part in module.modules():
        for name, weight in part._parameters.items():
            if weight is not None and id(weight) not in moved:
                moved[id(weight)] = nn.Parameter(OnGPU(weight.detach()), weight.requires_grad)
            part._parameters[name] = None if weight is None else moved[id(weight)]
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = OnGPU(buffer)
