"""Feature taps: what chosen blocks of the UNet put out during one forward pass; the hooks are removed in any case."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from .family import diffusion_model


def unet_layers(network: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """ "input.0" ... "middle.0", "output.0" ... -> the last layer of the block, whose output is the block's.

    The host never calls the block itself, only its layers: hooks on the block would not fire.
    """
    layers = {f"input.{i}": block[-1] for i, block in enumerate(network.input_blocks)}
    layers["middle.0"] = network.middle_block[-1]
    layers.update({f"output.{i}": block[-1] for i, block in enumerate(network.output_blocks)})
    return layers


class Taps:
    """features(name) -> (B, C, h, w) of the one forward pass that was run inside `feature_taps`."""

    def __init__(self, names: Sequence[str]):
        self._seen: dict[str, list[Tensor]] = {name: [] for name in names}

    def _hook(self, name: str):
        def keep(_module, _args, output: Tensor) -> None:
            self._seen[name].append(output)

        return keep

    def clear(self) -> None:
        for seen in self._seen.values():
            seen.clear()

    def __getitem__(self, name: str) -> Tensor:
        seen = self._seen[name]
        if len(seen) != 1:
            raise ValueError(
                f"The features of block {name} were asked for after {len(seen)} calls of the network instead of one: "
                "use a conditioning with a single entry."
            )
        return seen[0]

    def items(self) -> Iterator[tuple[str, Tensor]]:
        return ((name, self[name]) for name in self._seen)


@contextmanager
def feature_taps(network: torch.nn.Module, names: Sequence[str]) -> Iterator[Taps]:
    """Records the outputs of the named blocks ("input.4", "middle.0", "output.7") of a UNet's forward passes."""
    layers = unet_layers(network)
    unknown = [name for name in names if name not in layers]
    if unknown:
        raise KeyError(f"The UNet has no block {unknown[0]!r}; it has {', '.join(layers)}.")
    taps = Taps(names)
    handles = []
    try:
        for name in names:
            handles.append(layers[name].register_forward_hook(taps._hook(name)))
        yield taps
    finally:
        for handle in handles:
            handle.remove()


def block_shapes(model) -> dict[str, type]:
    """The taps that a MODEL's UNet offers, by name, with the class of the layer that they stand on."""
    return {name: type(layer) for name, layer in unet_layers(diffusion_model(model)).items()}
