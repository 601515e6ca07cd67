"""Which process of how many this is, as our launcher tells it through the environment."""

from __future__ import annotations

import os
from dataclasses import dataclass

from genai.errors import ConfigError

_RENDEZVOUS = "GENAI_RENDEZVOUS"  # only our launcher sets it; RANK and WORLD_SIZE may be anybody's


@dataclass(frozen=True)
class Place:
    rank: int = 0
    world: int = 1
    rendezvous: str = ""  # a URL where the processes of the job meet

    def environment(self) -> dict[str, str]:
        """What tells a process its place. All processes of a job are on this machine."""
        rank, world = str(self.rank), str(self.world)
        return {_RENDEZVOUS: self.rendezvous, "RANK": rank, "WORLD_SIZE": world, "LOCAL_RANK": rank}


def place() -> Place:
    """Of this process. Raises ConfigError under another launcher: each of its processes would train its own run."""
    environment = os.environ
    if _RENDEZVOUS in environment:
        return Place(int(environment["RANK"]), int(environment["WORLD_SIZE"]), environment[_RENDEZVOUS])
    if "TORCHELASTIC_RUN_ID" in environment and environment.get("WORLD_SIZE", "1") != "1":
        fix = f"start genai once, with trainer.devices={environment['WORLD_SIZE']}"
        raise ConfigError("genai starts the processes of a run itself, this one comes from torchrun", fix=fix)
    return Place()
