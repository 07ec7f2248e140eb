"""An application that nobody changed: three environment variables, and what it says and hears is recorded."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rig import Started, archive_lines, gateway, wait_for

from gateway import demo

APPLICATION = """
import json, anthropic, google.genai, openai
asked = [{"role": "user", "content": "Where is it stored?"}]
with openai.OpenAI() as client:
    gpt = client.chat.completions.create(model="gpt-5", messages=asked).choices[0].message.content
with anthropic.Anthropic() as client:
    claude = client.messages.create(model="claude-journey", max_tokens=999, messages=asked).content[0].text
client = google.genai.Client()
gemini = client.models.generate_content(model="gemini-2.5-flash", contents="Where is it stored?").text
client.close()
print(json.dumps([gpt, claude, gemini]))
"""


@pytest.fixture(scope="module")
def demo_url() -> Iterator[str]:
    with demo.running(pace=0) as url:
        yield url


async def test_three_variables_are_all_that_an_application_needs(demo_url: str, tmp_path: Path) -> None:
    async with gateway(tmp_path, dict.fromkeys(("openai", "anthropic", "gemini"), demo_url)) as running:
        variables = {
            "OPENAI_BASE_URL": f"{running.url}/openai/v1",
            "ANTHROPIC_BASE_URL": f"{running.url}/anthropic",
            "GOOGLE_GEMINI_BASE_URL": f"{running.url}/gemini",
        }
        keys = dict.fromkeys(("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY"), "sk-journey-synthetic")
        env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), **variables, **keys}
        application = Started([sys.executable, "-P", "-c", APPLICATION], log=tmp_path / "application.log", cwd=tmp_path, env=env)
        try:
            await wait_for(lambda: not application.running, deadline=60.0)
        finally:
            application.kill()
    assert application.process.returncode == 0, application.output()
    gpt, claude, gemini = json.loads(application.output())
    assert gpt == claude == gemini
    assert "zcat data/archive/*.jsonl.gz" in gpt
    archived = archive_lines(running.archive)
    assert [(exchange.upstream, (exchange.response or {})["status"]) for exchange in archived] == [
        ("openai", 200),
        ("anthropic", 200),
        ("gemini", 200),
    ]
    assert all("zcat data/archive" in exchange.body("response").decode() for exchange in archived)
