"""The running process: stores, links, driver, MQTT intake, HTTP API. Knows no PBFT rules and no market rules."""
