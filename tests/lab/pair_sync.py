"""The lab of pair.py, with balancers that copy connections to each other by conntrackd."""

from __future__ import annotations

import pair
from layer import Layer

if __name__ == "__main__":
    pair.up(Layer("pair-sync", ("keepalived", "conntrackd")))
