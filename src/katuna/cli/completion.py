"""`katuna completion`: words for the shell."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from katuna.cli.output import say


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print the code that completes katuna's verbs, options and runs in SHELL.

    \b
    bash:  eval "$(katuna completion bash)"          in ~/.bashrc
    zsh:   eval "$(katuna completion zsh)"           in ~/.zshrc
    fish:  katuna completion fish > ~/.config/fish/completions/katuna.fish
    """
    kind = get_completion_class(shell)
    assert kind is not None
    say(kind(ctx.find_root().command, {}, "katuna", "_KATUNA_COMPLETE").source(), newlines=True)
