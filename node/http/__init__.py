"""The HTTP API of a node: route table, handlers, answers and errors. ``node.http_api`` serves it."""
