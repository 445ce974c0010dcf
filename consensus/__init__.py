"""What every replica must compute byte for byte the same: codec, digests, blocks and the PBFT core. No I/O, no clock, no market."""
