"""Deterministic simulation: the real core and the real contracts on a virtual network, clock and disk, driven from one seed."""
