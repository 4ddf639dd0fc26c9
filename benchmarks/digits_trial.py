"""A trial for benchmarks/sweep.py: a small convolutional network on scikit-learn's digits, in one thread. As a script it prints its
metrics, as a module it has `fit`; nothing else about it depends on who runs it."""

from __future__ import annotations

import argparse
import time

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional


def fit(lr: float, width: int, epochs: int = 6) -> dict[str, float]:
    """Trains from scratch; accuracy on the fifth that is held out, and the seconds that it took."""
    began = time.perf_counter()
    torch.manual_seed(0)
    found = load_digits()
    pixels = torch.tensor(found.images, dtype=torch.float32)[:, None] / 16
    labels = torch.tensor(found.target)
    order = torch.randperm(len(labels))
    held, rest = order[: len(order) // 5], order[len(order) // 5 :]
    network = nn.Sequential(
        *(nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 2 * width, 3, padding=1), nn.ReLU()),
        *(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32 * width, 10)),
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr)
    for _ in range(epochs):
        for batch in rest[torch.randperm(len(rest))].split(64):
            loss = functional.cross_entropy(network(pixels[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        right = (network(pixels[held]).argmax(1) == labels[held]).float().mean().item()
    return {"accuracy": right, "seconds": time.perf_counter() - began}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--lr", type=float, required=True)
    parser.add_argument("--width", type=int, required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    for name, value in fit(given.lr, given.width).items():
        print(f"{name}={value:.6f}")


if __name__ == "__main__":
    main()
