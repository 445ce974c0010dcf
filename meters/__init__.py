"""The edge: real household data, simulated meters, the outbox and the agent that publishes signed readings."""
