"""Networks whose neurons can leave, each with an input of it."""

from __future__ import annotations

import torch
from models import LeNet5, LeNet300100
from torch import nn
from torch.nn import functional


class Reshapes(nn.Module):
    """Flattens by the size of the batch, and by the mean over positions."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.conv1 = nn.Conv2d(2, 6, 3)
        self.conv2 = nn.Conv2d(6, 8, 3)
        self.fc1 = nn.Linear(8 if how == "mean" else 32, 9)
        self.fc2 = nn.Linear(9, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.avg_pool2d(torch.tanh(self.conv2(self.conv1(x).relu())), 2)
        if self.how == "size":
            x = x.view(x.size(0), -1)
        elif self.how == "shape":
            x = torch.reshape(x, (x.shape[0], -1))
        elif self.how == "fixed":
            x = x.view(-1, 32)
        else:
            x = x.mean((2, 3))
        x = functional.dropout(functional.softplus(self.fc1(x)), training=self.training)
        return self.fc2(x)


def mlp(activation: nn.Module, norm: bool = False, size: int = 12) -> nn.Sequential:
    """Three linear layers."""
    between = [nn.BatchNorm1d(size)] if norm else []
    second = [nn.BatchNorm1d(size, affine=False)] if norm else []
    return nn.Sequential(
        *(nn.Linear(7, size), *between, activation, nn.Dropout(0.3)),
        *(nn.Linear(size, size), *second, activation),
        nn.Linear(size, 3),
    )


def convolutions(n: int, pool: type[nn.Module], padding: int = 0, **options) -> nn.Sequential:
    """Convolution, batch norm, pool, convolution, global pool, two linear layers."""
    conv, norm = getattr(nn, f"Conv{n}d"), getattr(nn, f"BatchNorm{n}d")
    return nn.Sequential(
        *(conv(2, 6, 3, padding=1), norm(6), nn.ReLU(), pool(2)),
        *(conv(6, 8, 3, padding=padding, **options), nn.GELU()),
        *(getattr(nn, f"AdaptiveAvgPool{n}d")(2), nn.Flatten(), nn.BatchNorm1d(8 * 2**n)),
        *(nn.Linear(8 * 2**n, 10), nn.ELU(), nn.Linear(10, 3)),
    )


NETWORKS = {
    "LeNet-5": (LeNet5, (1, 28, 28)),
    "LeNet-300-100": (LeNet300100, (1, 28, 28)),
    "relu": (lambda: mlp(nn.ReLU()), (7,)),
    "gelu": (lambda: mlp(nn.GELU()), (7,)),
    "elu": (lambda: mlp(nn.ELU(inplace=True)), (7,)),
    "sigmoid": (lambda: mlp(nn.Sigmoid()), (7,)),
    "prelu": (lambda: mlp(nn.PReLU()), (7,)),
    "batch norm": (lambda: mlp(nn.Tanh(), norm=True), (7,)),
    "tokens": (lambda: mlp(nn.SiLU()), (5, 7)),
    "conv1d": (lambda: convolutions(1, nn.AvgPool1d), (2, 14)),
    "conv2d": (lambda: convolutions(2, nn.MaxPool2d), (2, 14, 14)),
    "conv2d, avg": (lambda: convolutions(2, nn.AvgPool2d), (2, 14, 14)),
    "conv2d, padded": (lambda: convolutions(2, nn.AvgPool2d, padding=1), (2, 14, 14)),
    "conv2d, circular": (
        lambda: convolutions(2, nn.AvgPool2d, padding=1, padding_mode="circular"),
        (2, 14, 14),
    ),
    "conv3d": (lambda: convolutions(3, nn.MaxPool3d), (2, 10, 10, 10)),
    "view by size": (lambda: Reshapes("size"), (2, 8, 8)),
    "reshape by shape": (lambda: Reshapes("shape"), (2, 8, 8)),
    "mean": (lambda: Reshapes("mean"), (2, 8, 8)),
}


def layers(model: nn.Module) -> list[nn.Module]:
    """Linear and convolutions, in order."""
    return [m for m in model.modules() if isinstance(m, (nn.Linear, nn.modules.conv._ConvNd))]


def kill(model: nn.Module, share: float = 0.3) -> None:
    """Zero a share of the rows of each layer but the last, and of the columns of all but the first.

    Batch norms get statistics as after training.
    """
    found = layers(model)
    with torch.no_grad():
        for layer in found[:-1]:
            count = layer.weight.shape[0]
            layer.weight[torch.randperm(count)[: int(count * share)]] = 0
        for layer in found[1:]:
            count = layer.weight.shape[1]
            layer.weight[:, torch.randperm(count)[: int(count * share)]] = 0
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
                if module.affine:
                    module.weight.normal_()
                    module.bias.normal_()


def network(name: str, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, torch.Tensor]:
    """A network in evaluation, and four inputs."""
    make, shape = NETWORKS[name]
    return make().to(dtype).eval(), torch.randn(4, *shape, dtype=dtype)
