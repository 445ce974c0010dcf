"""The signal between `gridpact up` and its meters, apart so that the launcher need not load the meters."""

from __future__ import annotations

import signal

DRAIN_SIGNAL = signal.SIGUSR1
"""Tells the fleet to take no more readings and to publish those that it has."""
