"""Proof: that an archive is whole and as it was. Seals are made here, and everything is checked against them; nothing is repaired."""
