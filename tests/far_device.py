"""A device that is not there: its tensors lie on the CPU but say they do not, so that what would fail on a GPU fails
on any machine. Operations refuse tensors of both, and what only the CPU's memory has (numpy) refuses its tensors.

    python tests/far_device.py COMMANDS      a list of lists of arguments of genai in JSON, run one after the other

Prints how often a number was read off the device, after each command.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

FAR = "far"
# A GPU takes indices and sources that lie on the CPU; the CPU takes none of a GPU but copies.
TAKES_NEAR = {"index", "index_put", "index_put_", "_index_put_impl_", "copy_", "_foreach_copy_"}
# Of these the result is a number, or has a shape that a GPU must be asked for.
READS = {"_local_scalar_dense", "equal", "nonzero", "masked_select", "_unique2", "unique_dim", "repeat_interleave"}
reads = 0


class Far(Tensor):
    @staticmethod
    def __new__(cls, near: Tensor) -> Far:
        made = Tensor._make_wrapper_subclass(
            cls,
            near.size(),
            strides=near.stride(),
            storage_offset=near.storage_offset(),
            dtype=near.dtype,
            device=torch.device(FAR, 0),
        )
        made.near = near
        return made

    def tolist(self) -> Any:
        global reads
        reads += 1
        return self.near.tolist()

    def __getitem__(self, index: Any) -> Tensor:
        return super().__getitem__(_tensors(index))

    def __setitem__(self, index: Any, value: Any) -> None:
        super().__setitem__(_tensors(index), value)

    def numpy(self, **options: Any) -> Any:
        raise TypeError("numpy reads the memory of the CPU, the tensor is elsewhere")

    @classmethod
    def __torch_dispatch__(cls, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return dispatched(operation, *args, **(kwargs or {}))


def dispatched(operation: Any, *args: Any, **kwargs: Any) -> Any:
    global reads
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    far = [tensor for tensor in tensors if isinstance(tensor, Far)]
    name = operation._schema.name.removeprefix("aten::")
    near = [tuple(tensor.shape) for tensor in tensors if tensor.ndim and not isinstance(tensor, Far)]
    led_from_near = name not in ("copy_", "_foreach_copy_") and args and not isinstance(args[0], Far)
    if far and near and (name not in TAKES_NEAR or led_from_near):
        raise RuntimeError(f"{name} of tensors on two devices: {near} lie on the CPU")
    masks = [leaf for leaf in tree_leaves(args[1:]) if isinstance(leaf, Tensor) and leaf.dtype == torch.bool]
    reads += name in READS or (name.startswith("index") and bool(masks))
    goes_far = bool(far)
    if name == "copy_":
        goes_far = isinstance(args[0], Far)
        reads += bool(far) and not goes_far
    elif kwargs.get("device") is not None:
        goes_far = torch.device(kwargs["device"]).type == FAR
        reads += bool(far) and not goes_far
        if goes_far and kwargs.get("generator") is not None:
            raise RuntimeError(f"{name} on another device than its generator's")
        kwargs = {**kwargs, "device": "cpu", "pin_memory": False}
    inner = {id(tensor.near): tensor for tensor in far} | {id(t): t for t in tensors if not isinstance(t, Far)}
    near_args, near_kwargs = tree_map(_near, (args, kwargs))
    with _disable_current_modes():
        found = operation(*near_args, **near_kwargs)
    # What is changed in place stays the same object.
    return tree_map(lambda t: inner.get(id(t), Far(t) if goes_far else t) if isinstance(t, Tensor) else t, found)


def _tensors(index: Any) -> Any:
    """torch makes them of lists, unseen."""
    if isinstance(index, tuple):
        return tuple(map(_tensors, index))
    return torch.as_tensor(index) if isinstance(index, list) else index


def _near(value: Any) -> Any:
    return value.near if isinstance(value, Far) else value


class Backend(_DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


def install() -> None:
    """Makes it the device that genai chooses, unless device=cpu is asked for."""
    from genai import device

    _setup_privateuseone_for_python_backend(FAR, backend_module=Backend())
    library = torch.library.Library("_", "IMPL")
    library.fallback(dispatched, "PrivateUse1")
    install.library = library  # type: ignore[attr-defined]  # which undoes what it did when it goes
    made = torch.tensor

    def tensor(data: Any, *, device: Any = None, **options: Any) -> Tensor:
        return made(data, **options) if device is None else made(data, **options).to(device)

    torch.tensor = tensor  # type: ignore[assignment]  # torch's moves what it makes unseen
    torch.inference_mode = torch.no_grad  # type: ignore[misc]  # in which tensors of Python have no versions
    chosen = device._choose_device
    device._choose_device = lambda asked, rank: (
        chosen(asked, rank) if asked == "cpu" else (torch.device(FAR, 0), "of the tests")
    )


def main() -> None:
    from genai.__main__ import run

    install()
    for command in json.loads(sys.argv[1]):
        before = reads
        code = run(command)
        print(f"exit code {code}, {reads - before} reads: genai {' '.join(command)}", flush=True)
        if code:
            sys.exit(code)


if __name__ == "__main__":
    main()
