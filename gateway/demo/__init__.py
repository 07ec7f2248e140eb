"""A demo upstream that needs no key: OpenAI, Anthropic and Gemini played by a deterministic fake, and a little traffic to look at.

Part of the product (`verbatim demo`), so that the whole corridor can be walked on a machine without a network. It speaks the
providers' wire formats faithfully enough for their own SDKs, but knows only about Verbatim. Not a mock framework.
"""

from gateway.demo.api import app
from gateway.demo.server import running
from gateway.demo.traffic import seed

__all__ = ["app", "running", "seed"]
