"""Real models end to end over HTTP: Thoraq, its peers, and decoding and engine alone, taking turns.

The bars are for the peers as their documentation shows them, with Keras' `predict`: what a hospital would run instead.
Beside them they run with Thoraq's own engine, where only the system around the model differs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench.ceiling import Ceiling, ceiling
from bench.images import SIDE, make_images
from bench.lab import Lab, say
from bench.load import (
    ENGINE_TOLERANCE,
    TOLERANCE,
    Contestant,
    OneByOne,
    Round,
    System,
    check_agreement,
)
from bench.peers.systems import POLL_SECONDS, Setting, bentoml, litserve, ordinary_celery, sync_flask
from bench.report import Bar, Claim, Found, Spread, percentile, ratio, spread
from bench.thoraq import Bulk, Thoraq, thoraq

OURS = Bulk.name
#: What Thoraq's bulk path is claimed to be of each, in images/s.
BARS = {Ceiling.name: 0.85, "BentoML": 3.0, "LitServe": 3.0, "synchronous Flask": 5.0, "ordinary Celery": 8.0}


def run(lab: Lab) -> Found:
    """Every contestant classifies the same files in every round, and answers alike."""
    warm_up, *sent = make_images(lab.folder / "images", lab.sizes.images, lab.sizes.rounds + 1)
    with contestants(lab) as systems:
        _warm_up(systems, warm_up[: 2 * lab.sizes.clients])
        rounds: dict[str, list[Round]] = {system.name: [] for system in systems}
        for _, files in zip(lab.rounds(), sent, strict=True):
            for system in systems:
                figures = system.run(files).figures
                rounds[system.name].append(figures)
                say(f"    {system.name}: {figures.images_per_second:.1f} images/s")
    sizes = {"images": lab.sizes.images, "clients": lab.sizes.clients, "peer_poll_seconds": POLL_SECONDS}
    sizes |= {"side": SIDE, "mean_bytes": _mean_bytes(sent)}
    return Found(claims(rounds), {"sizes": sizes, "systems": figures_of(rounds), "ratios": ratios(rounds)})


@contextmanager
def contestants(lab: Lab) -> Iterator[list[Contestant]]:
    """All of them, up at the same time: an idle one takes memory only, and rounds can take turns."""
    folder, clients = lab.folder, lab.sizes.clients
    with ExitStack() as stack:
        say("  starting Thoraq")
        ours = stack.enter_context(thoraq(folder / "thoraq", model_dir=lab.bundle))
        say("  starting the peers")
        systems: list[System] = [ours]
        for our_engine in (False, True):
            setting = Setting(folder / ("ours" if our_engine else "keras"), lab.bundle, our_engine)
            setting.folder.mkdir()
            systems += [
                stack.enter_context(sync_flask(setting, clients)),
                stack.enter_context(ordinary_celery(setting, clients)),
                stack.enter_context(bentoml(setting)),
                stack.enter_context(litserve(setting)),
            ]
        bare = stack.enter_context(ceiling(lab.bundle))
        stack.callback(say, "  stopping everything")
        # In turn with the ceiling, to which it is compared most closely.
        yield [bare, Bulk(ours.tenant("archive").client), *(OneByOne(system, clients) for system in systems)]


def claims(rounds: Mapping[str, Sequence[Round]]) -> list[Claim]:
    """Return the bulk path beside each, round by round."""
    found = ratios(rounds)
    return [Claim(f"bulk, end to end, to {name}", found[name], Bar(bar)) for name, bar in BARS.items()]


def ratios(rounds: Mapping[str, Sequence[Round]]) -> dict[str, Spread]:
    """How many times the rate of each other contestant the bulk path has."""
    rates = {name: [one.images_per_second for one in measured] for name, measured in rounds.items()}
    return {name: ratio(rates[OURS], theirs) for name, theirs in rates.items() if name != OURS}


def figures_of(rounds: Mapping[str, Sequence[Round]]) -> dict[str, dict[str, Spread]]:
    """Rate in images/s of each contestant, and the latencies in seconds of those that send one by one."""
    return {name: _figures(measured) for name, measured in rounds.items()}


def _figures(measured: Sequence[Round]) -> dict[str, Spread]:
    found = {"images_per_second": spread([one.images_per_second for one in measured])}
    if all(one.latencies for one in measured):
        for percent in (50, 95):
            found[f"p{percent}_seconds"] = spread([percentile(one.latencies, percent) for one in measured])
    return found


def _warm_up(systems: Sequence[Contestant], files: Sequence[Path]) -> None:
    """Not counted. Also proves that all give the same answers, without which their speeds compare nothing."""
    say("  warming up, and comparing the answers")
    answers = {system.name: system.run(files).answers for system in systems}
    for name, found in answers.items():
        same = name in {Ceiling.name, OURS, Thoraq.name} or name.endswith("our engine")
        check_agreement(answers[Ceiling.name], found, name, TOLERANCE if same else ENGINE_TOLERANCE)


def _mean_bytes(sent: Sequence[Sequence[Path]]) -> int:
    sizes = [file.stat().st_size for files in sent for file in files]
    return sum(sizes) // len(sizes)
