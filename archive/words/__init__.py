"""Words: what exchanges say, as texts, and in which exchange a word stands. Knows formats, no provider and no segment."""
