"""The commands behind `verbatim`, one module for each group of them. What they do is in the rooms; here is how one asks for it."""
