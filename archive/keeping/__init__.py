"""Keeping: what is done to hours that are over: packed, pruned, and records of them forgotten; told of in the archive before it is done."""
