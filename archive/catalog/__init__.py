"""The catalog: what is known of all segments, derived from them by following; and where a record lies. May be deleted at any time."""
