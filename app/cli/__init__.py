"""The command line. Only the command that was asked for is imported: `moeplace --help` needs none of them."""

import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from typing import Annotated, Any

import typer

from app.cli.clean_output import keep_output_clean
from moeplace_agent.cli.terminal import show_everywhere


@dataclass(frozen=True, slots=True)
class Command:
    """A command: where its function is, what it does in a sentence, and examples that work."""

    name: str
    module: str
    function: str
    summary: str
    examples: tuple[str, ...]
    panel: str


_SERVICE = "The service"
_FLEET = "The fleet"
_FILES = "Problems and plans in files"

COMMANDS = (
    Command(
        "demo",
        "lab.demo.command",
        "demo_command",
        "Watch the service place the experts of a small model on four nodes that replay recorded routing.",
        ("moeplace demo", "moeplace demo --keep"),
        _SERVICE,
    ),
    Command(
        "fleet",
        "lab.fleet.command",
        "fleet_command",
        "Serve a real model from several processes, and measure the latency of each placement.",
        (
            "moeplace fleet",
            "moeplace fleet --picture fleet.svg --json fleet.json",
            "moeplace fleet -a uniform -a certified --seconds 10 --swap-seconds 0",
        ),
        _SERVICE,
    ),
    Command(
        "serve",
        "app.cli.serve",
        "serve_command",
        "Run the whole service: API, worker and, unless --redis-url is given, an embedded Valkey server.",
        (
            "moeplace serve",
            "moeplace serve --port 0 --data-dir ./moeplace-data",
            "moeplace serve --redis-url valkey://10.0.0.5:6379 --workers 4",
        ),
        _SERVICE,
    ),
    Command(
        "api",
        "app.cli.api",
        "api_command",
        "Run only API processes, on a Redis or Valkey shared with workers.",
        ("moeplace api --redis-url redis://10.0.0.5:6379 --port 8080",),
        _SERVICE,
    ),
    Command(
        "worker",
        "app.cli.worker",
        "worker_command",
        "Run only a worker, which folds telemetry, solves and plans for its share of the clusters.",
        ("moeplace worker --redis-url redis://10.0.0.5:6379 --metrics-port 9100",),
        _SERVICE,
    ),
    Command(
        "token",
        "app.cli.token",
        "token_command",
        "Issue, list and revoke access tokens.",
        (
            "moeplace token make > operator.token",
            "moeplace token issue --role node --cluster edge --node node-a > node-a.token",
            "moeplace token issue --role reader --expires-in 90d --note Prometheus",
            "moeplace token list --cluster edge",
            "moeplace token revoke 3f9c0a1b2c3d4e5f --cluster edge",
        ),
        _SERVICE,
    ),
    Command(
        "agent",
        "moeplace_agent.cli.agent",
        "agent_command",
        "Run a node: fetch, verify, keep and serve the experts that the service assigns to it.",
        ("moeplace agent --config node.yaml", "moeplace agent --config node.yaml --check"),
        _FLEET,
    ),
    Command(
        "origin",
        "moeplace_agent.cli.origin",
        "origin_command",
        "Serve the experts of a Hugging Face checkpoint to nodes, one file per expert.",
        (
            "moeplace origin --checkpoint ./OLMoE-1B-7B --show",
            "moeplace origin --checkpoint ./OLMoE-1B-7B --model-id olmoe --service http://10.0.0.2:8080",
        ),
        _FLEET,
    ),
    Command(
        "openapi",
        "app.cli.openapi",
        "openapi_command",
        "Print the OpenAPI description of the API.",
        ("moeplace openapi > openapi.json",),
        _SERVICE,
    ),
    Command(
        "metrics",
        "app.cli.metrics",
        "metrics_command",
        "List every metric of the service and of agents.",
        ("moeplace metrics", "moeplace metrics --output docs/metrics.md"),
        _SERVICE,
    ),
    Command(
        "solve",
        "app.cli.solve",
        "solve_command",
        "Compute a placement for a problem file.",
        (
            "moeplace solve instance.npz --algorithm sgd --coupling sum --time-limit 10 --out placement.npz",
            "moeplace solve instance.npz --equal-slots auto --out placement.npz",
        ),
        _FILES,
    ),
    Command(
        "evaluate",
        "app.cli.evaluate",
        "evaluate_command",
        "Print the cost of a placement as JSON.",
        ("moeplace evaluate instance.npz placement.npz",),
        _FILES,
    ),
    Command(
        "compare",
        "app.cli.compare",
        "compare_command",
        "Run all algorithms on a problem file and compare their costs and times.",
        (
            "moeplace compare instance.npz",
            "moeplace compare instance.npz --algorithm sgd --algorithm eplb --chart comparison.svg",
        ),
        _FILES,
    ),
    Command(
        "instance",
        "app.cli.instance",
        "instance_command",
        "Make a problem file from recorded routing and a description of the fleet.",
        ("moeplace instance traces.npz fleet.yaml --out instance.npz",),
        _FILES,
    ),
    Command(
        "import",
        "app.cli.import_",
        "import_command",
        "Read recordings or placements from the file formats of engines.",
        (
            "moeplace import sglang-stat recorded.pt --preset deepseek-v2-lite --out traces.npz",
            "moeplace import megatron traces/ --rank 0-3=east --rank 4-7=west --out traces.npz",
            "moeplace import eplb-weight weights.npy --model moe --seconds 600 "
            "--to http://127.0.0.1:8080/v1/clusters/edge/nodes/east",
            "moeplace import sglang location.json --instance instance.npz --moe-layers 1-26 --out now.npz",
        ),
        _FILES,
    ),
    Command(
        "export",
        "app.cli.export",
        "export_command",
        "Write a placement in the file format of an engine.",
        (
            "moeplace export sglang --instance instance.npz --placement placement.npz "
            "--preset deepseek-v2-lite --out location.json",
            "moeplace export omni --from http://127.0.0.1:8080/v1/clusters/edge --out pattern.npy",
        ),
        _FILES,
    ),
    Command(
        "plan",
        "app.cli.plan",
        "plan_command",
        "Plan the moves from a problem's current placement to a target.",
        ("moeplace plan instance.npz target.npz --out plan.json",),
        _FILES,
    ),
    Command(
        "verify",
        "app.cli.verify",
        "verify_command",
        "Check every move of a plan, independently of the planner.",
        ("moeplace verify instance.npz target.npz plan.json",),
        _FILES,
    ),
)

_HELP = """Place the experts of Mixture-of-Experts models over a fleet of GPU nodes.

Nodes post which experts their tokens activated. moeplace computes which experts each node should keep in
memory, and orders the moves.
"""
_EPILOG = (
    "Start with moeplace demo. Then run moeplace serve and open http://127.0.0.1:8080/docs in a browser. "
    "Every command has --help."
)


def command_line(arguments: Sequence[str]) -> typer.Typer:
    """The application that understands `arguments`; other commands than theirs are named but not loaded."""
    wanted = next((argument for argument in arguments if not argument.startswith("-")), None)
    root = typer.Typer(
        name="moeplace",
        help=_HELP,
        epilog=_EPILOG,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    root.callback()(_root)
    for command in COMMANDS:
        loaded = command.name == wanted
        root.command(
            command.name,
            help=None if loaded else command.summary,
            short_help=command.summary,
            epilog=_epilog(command),
            rich_help_panel=command.panel,
        )(_load(command) if loaded else _not_loaded)
    return root


def main() -> None:
    show_everywhere()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while modules load is no traceback
    root = command_line(sys.argv[1:])
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if any(command.name in sys.argv[1:] for command in COMMANDS if command.panel == _FILES):
        keep_output_clean()
    try:
        root()
    except UnicodeEncodeError as error:
        # Output cannot fail so any more: it is the name of a file.
        coding = sys.getfilesystemencoding().upper()
        typer.echo(f"moeplace: {error.object!r:.300}: cannot be named in this locale ({coding})", err=True)
        raise SystemExit(1) from None


def _load(command: Command) -> Callable[..., Any]:
    function: Callable[..., Any] = getattr(import_module(command.module), command.function)
    return function


def _not_loaded() -> None:
    raise AssertionError("only the command named on the command line runs")


def _epilog(command: Command) -> str:
    lines = "\n\n".join(f"  [cyan]{example}[/cyan]" for example in command.examples)
    return f"[bold]Examples[/bold]\n\n{lines}"


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"moeplace {version('moeplace')}")
        raise typer.Exit


def _root(
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass
