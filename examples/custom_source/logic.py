"""Reads a sensor."""


def measure(**params):
    return {"sensor": 1, "value": 0.5}
