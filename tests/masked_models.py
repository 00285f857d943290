"""Full-size models in which some units are silent, and the architectures of the models that they are compared with."""

from __future__ import annotations

import copy

import torch

from nasopt.architecture.encoder import KeptUnits

FAMILIES = ["bert", "roberta", "electra", "distilbert", "mpnet", "deberta-v2", "modernbert"]
ALL_HEADS, ALL_NEURONS = (0, 1, 2, 3), tuple(range(128))
FULL = KeptUnits(ALL_HEADS, ALL_NEURONS)
SOME = KeptUnits((1, 3), tuple(range(0, 128, 2)))

TARGETS = {
    "layers": (FULL, None, FULL),
    "last layers": (FULL, None, None),
    "first layer": (None, SOME, FULL),
    "heads": (KeptUnits((0, 2), ALL_NEURONS), FULL, KeptUnits((3,), ALL_NEURONS)),
    "neurons": (KeptUnits(ALL_HEADS, tuple(range(64, 128))), FULL, KeptUnits(ALL_HEADS, tuple(range(1, 128, 2)))),
    "combined": (SOME, None, KeptUnits((0, 1, 2), tuple(range(64)))),
    "no attention": (FULL, KeptUnits((), ALL_NEURONS), SOME),
    "no ffn": (KeptUnits(ALL_HEADS, ()), FULL, SOME),
    "empty layers": (KeptUnits((), ()), SOME, KeptUnits((), ())),
    "all empty": (KeptUnits((), ()), None, None),
}

# (layers, output projection of the heads, second FFN matrix), written down apart from the code under test.
PATHS = {
    "distilbert": ("distilbert.transformer.layer", "attention.out_lin", "ffn.lin2"),
    "modernbert": ("model.layers", "attn.Wo", "mlp.Wo"),
    "deberta-v2": ("deberta.encoder.layer", "attention.output.dense", "output.dense"),
    "mpnet": ("mpnet.encoder.layer", "attention.attn.o", "output.dense"),
    **{name: (f"{name}.encoder.layer", "attention.output.dense", "output.dense") for name in FAMILIES[:3]},
}


def masked(model, family: str, layers) -> torch.nn.Module:
    """The full-size model with removed units silenced by hooks, and removed layers handing on their input."""
    model = copy.deepcopy(model)
    path, attention_output, down = PATHS[family]
    for layer, units in zip(model.get_submodule(path), layers, strict=True):
        if units is None:
            layer.register_forward_hook(
                lambda module, args, output: (args[0], *output[1:]) if isinstance(output, tuple) else args[0]
            )
            continue
        head_size = model.config.hidden_size // 4
        channels = [head * head_size + i for head in units.heads for i in range(head_size)]
        for name, kept in ((attention_output, channels), (down, list(units.neurons))):
            linear = layer.get_submodule(name)
            mask = torch.zeros(linear.in_features)
            mask[kept] = 1
            linear.register_forward_pre_hook(lambda module, args, mask=mask: (args[0] * mask,))
    return model
