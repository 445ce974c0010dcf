"""The physical side of the microgrid: network, forecasts and schedules."""
