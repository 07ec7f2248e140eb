"""The `verbatim` command: its list of commands and how errors reach the terminal. Each command is in `gateway.commands`."""

from __future__ import annotations

import errno
import importlib
from typing import Any, Final

import click

from gateway import __version__

__all__ = ["cli", "main"]

COMMANDS: Final = {
    "serve": ("serve", "Start the gateway, and the viewer beside it."),
    "run": ("run", "Run a command so that its LLM calls are recorded."),
    "view": ("serve", "Start only the viewer, on any folder of recordings."),
    "ls": ("look", "List recorded exchanges."),
    "show": ("look", "Show one exchange."),
    "tail": ("look", "Follow the recordings."),
    "search": ("search", "Find exchanges by what was said."),
    "index": ("index", "Bring the index for lists and searches up to date."),
    "verify": ("check", "Check that recordings are complete and as they were."),
    "seal": ("seal", "Seal the hours that are over, so that a change shows."),
    "keygen": ("seal", "Make a key that signs seals."),
    "prove": ("seal", "Make a proof that an exchange was recorded as it is."),
    "check-proof": ("seal", "Check such a proof, without the recordings."),
    "pack": ("pack", "Pack sealed hours to a fraction of their size."),
    "unpack": ("pack", "Make the gzip files of packed hours again."),
    "prune": ("keep", "Remove the oldest recordings, by the hour."),
    "forget": ("keep", "Remove exchanges from the recordings."),
    "cert": ("cert", "Make a certificate, to be reached by https and wss."),
    "doctor": ("check", "Look for what would keep Verbatim from working here."),
    "demo": ("serve", "Start a demo upstream that needs no key."),
}
"""Each command's module and its line in the list, so that `verbatim ls` does not import a server."""


class _Commands(click.Group):
    """Commands in the order of COMMANDS, imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"gateway.commands.{COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command. What the system refuses it, and nothing below has put into words, is a sentence, too, no traceback."""
        try:
            return super().invoke(ctx)
        except OSError as error:
            if error.errno == errno.EPIPE:  # who read our output has left: click ends without a word
                raise
            from gateway.commands.options import WrongInput, refused

            raise WrongInput(refused(error)) from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, "--version", prog_name="verbatim", message="%(prog)s %(version)s")
def cli() -> None:
    """Verbatim records every LLM call word for word.

    It stands between your programs and OpenAI, Anthropic, Gemini or any other HTTP API, passes every byte on unchanged, and writes
    what was said into hourly files that zcat and jq read. Keys are taken out before anything is written.

    \b
    New here? Look at it with made-up traffic, no key needed:
      verbatim serve --demo
    Then record a program of yours:
      verbatim run -- python app.py
    """


def main() -> None:
    """The console script. Exit codes: 0, 1 when something was found wrong, 2 when what was asked for cannot be done."""
    cli(prog_name="verbatim")


if __name__ == "__main__":
    main()
