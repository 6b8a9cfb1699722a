"""Makes the scorer that a configuration section describes."""

from __future__ import annotations

from importlib import import_module

import aiohttp

from fairgate.config import sampling as settings
from fairgate.errors import ConfigError
from fairgate.scoring.agreement import Agreement
from fairgate.scoring.base import Scorer
from fairgate.scoring.log_probability import LogProbability
from fairgate.scoring.self_consistency import SelfConsistency
from fairgate.scoring.verifier import RemoteModel, Reward, Verifier, Verify


def build_scorer(section: settings.Scorer, session: aiohttp.ClientSession) -> Scorer:
    """The scorer; ``session`` carries its requests, if it sends any.

    Raises ``ConfigError`` for a function that cannot be imported.
    """
    match section:
        case settings.LogProbability():
            return LogProbability()
        case settings.SelfConsistency():
            return SelfConsistency()
        case settings.Agreement():
            return Agreement()
        case settings.Verifier():
            return Verifier(_imported(section.function), section.timeout_s)
        case settings.HttpScorer():
            model = RemoteModel(session, section.url, section.api_key)
            return Reward(model, section.timeout_s)


def _imported(path: str) -> Verify:
    module, _, name = path.partition(":")
    try:
        function: Verify = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError([f"scorer.function: {path} cannot be imported: {error}"]) from error
    if not callable(function):
        raise ConfigError([f"scorer.function: expected a function, got {path}"])
    return function
