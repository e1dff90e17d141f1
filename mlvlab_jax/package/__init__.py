"""The unit of delivery: a folder, or its tar, with the weights of a model and everything needed to use and judge it.

Nothing in it is code: arrays are safetensors, documents are JSON, the network is StableHLO, and no name in it is ever
imported.
"""
