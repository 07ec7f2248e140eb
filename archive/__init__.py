"""The archive: what was said, one gzip member a record, in hourly files. Knows neither HTTP servers nor models."""
