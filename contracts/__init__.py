"""What committed transactions mean: accounts, metering, market and settlement, in integers. No I/O, no clock, no floats."""
