"""The dashboard: shows what the archive holds. Reads only through `archive.reader`; never imports the gateway."""
