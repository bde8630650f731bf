"""The checkpoint recipe: trains the net of digits_net.py and saves its state dict as digits.pt."""

from pathlib import Path

import torch
from digits_net import build

from snnrobust import data, training

splits = data.load("digits")
net = training.initialised(build, seed=0)
history = training.train(net, splits.train, steps=6, epochs=15)
torch.save(net.state_dict(), Path(__file__).with_name("digits.pt"))
print(f"training accuracy {history.accuracy[-1]:.3f}, {history.seconds:.0f} s; wrote digits.pt")
