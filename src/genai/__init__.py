"""Train generative models and sample from them: `genai.train("gan", "data=digits")`, `genai.sample(run, count=16)`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["__version__", "evaluate", "resume", "sample", "train"]

if TYPE_CHECKING:
    from genai.api import evaluate, resume, sample, train


def __getattr__(name: str) -> Any:
    # Late, because the command line imports this package for every verb and torch costs two seconds.
    if name in __all__:
        import genai.api

        return getattr(genai.api, name)
    raise AttributeError(f"module 'genai' has no attribute {name!r}")
