"""SimSiam on a timm backbone in PyTorch, with the heads named as ours, its loss, and the import of torchvision."""

import contextlib
from collections.abc import Sequence
from typing import Any

import torch  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]
from torch.nn import functional as F  # pyright: ignore[reportMissingImports]

from simsiam_jax.settings.schema import HeadConfig


class SimSiam(nn.Module):
    """SimSiam on a timm backbone, equations (1) to (3) of arXiv 2112.02297; the heads' layers are named as ours.

    Args:
      timm_code: Python code that assigns the backbone, built by timm, to `model`.
      head: Sizes and norms of the projector and the predictor.
    """

    def __init__(self, timm_code: str, head: HeadConfig):
        super().__init__()
        names: dict[str, Any] = {}
        import_torchvision()  # timm imports it too, but fails where the operators are missing
        exec(timm_code, names)
        self.backbone = names["model"]
        layers = []
        for layer in range(1, head.projector_layers + 1):
            last, width = layer == head.projector_layers, head.projector_dim
            norm = head.projector_output_norm if last else "affine"
            inputs = self.backbone.num_features if layer == 1 else width
            layers.append((f"fc{layer}", nn.Linear(inputs, width, bias=norm == "none")))
            if norm != "none":
                layers.append((f"bn{layer}", nn.BatchNorm1d(width, affine=norm == "affine")))
            if not last:
                layers.append((f"relu{layer}", nn.ReLU(inplace=True)))
        self.projector = _named(layers)
        self.predictor = _named(
            [
                ("fc1", nn.Linear(head.projector_dim, head.predictor_dim, bias=False)),
                ("bn1", nn.BatchNorm1d(head.predictor_dim)),
                ("relu1", nn.ReLU(inplace=True)),
                ("fc2", nn.Linear(head.predictor_dim, head.projector_dim)),
            ]
        )

    def forward(self, view: Any) -> tuple[Any, Any]:
        """The prediction p and the projection z of a view, both [batch, projector_dim]."""
        z = self.projector(self.backbone(view))
        return self.predictor(z), z

    def loss(self, view1: Any, view2: Any) -> Any:
        """Equation (3); each view has a pass of its own, so it is normalised by its own batch."""
        (p1, z1), (p2, z2) = self(view1), self(view2)
        return simsiam_loss(p1, p2, z1, z2)


def _named(layers: Sequence[tuple[str, Any]]) -> Any:
    network = nn.Sequential()
    for name, layer in layers:
        network.add_module(name, layer)
    return network


def simsiam_loss(p1: Any, p2: Any, z1: Any, z2: Any) -> Any:
    """Equation (3) of two views' predictions and projections [batch, features], as a float32 scalar in -1..1."""

    def similarity(p: Any, z: Any) -> Any:
        return F.cosine_similarity(p.float(), z.detach().float()).mean()

    return -0.5 * (similarity(p1, z2) + similarity(p2, z1))


_DECLARED: list[Any] = []


def import_torchvision() -> Any:
    """Imports torchvision, also where its compiled operators do not load beside this torch.

    torchvision then fails at two operators that it describes to torch's compiler. They are declared here without code,
    because transforms of PIL images never call them. torch forgets a declaration whose library is garbage collected.

    Returns:
      The module `torchvision`, with `torchvision.transforms` imported.
    """
    with contextlib.suppress(RuntimeError):
        import torchvision.transforms  # pyright: ignore[reportMissingImports]

        return torchvision
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _DECLARED.append(library)
    import torchvision.transforms  # pyright: ignore[reportMissingImports]

    return torchvision
