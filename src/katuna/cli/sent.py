"""What a run on a cluster would send, printed."""

from __future__ import annotations

from katuna.cli.output import say, yaml_text
from katuna.errors import CodeTooLarge
from katuna.runs.plan import Plan
from katuna.runs.rundir import runs_home


def print_sent(planned: Plan, count: int) -> None:
    """The objects of the first `count` trials as the API server would get them. Raises InputRefused, when all is printed, for what it
    would refuse."""
    from katuna.runs import conduct
    from katuna.runs.on_cluster import OnCluster
    from katuna.runs.snapshot import todays

    options = planned.options
    try:
        code = todays(options.local, runs_home(), options.secrets)
    except CodeTooLarge as error:
        say(f"# no code is sent: {error}")
        code = None
    jobs = [manifest for _, _, manifest in conduct.first_trials(planned, count)]
    for each in OnCluster(planned, code=code).sent(jobs):
        say("---")
        say(yaml_text(each), newlines=True, nl=False)
    conduct.preflight(planned)
