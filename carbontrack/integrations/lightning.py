"""Lightning, by either name: a callback for each fit, validate, test and predict of each rank."""

from __future__ import annotations

import sys
from importlib import import_module, util
from typing import Any

from carbontrack.errors import MissingExtra
from carbontrack.integrations.episode import guarded
from carbontrack.integrations.metrics import PREFIX
from carbontrack.integrations.training import EpisodeCallback

_HOMES = {"lightning": "lightning.pytorch", "pytorch_lightning": "pytorch_lightning"}
_USED = [n for n in _HOMES if sys.modules.get(n)] or [n for n in _HOMES if util.find_spec(n)][:1]
if not _USED:
    raise MissingExtra("lightning", "lightning", "CarbontrackCallback")
_BASES = [import_module(_HOMES[name]).Callback for name in _USED]
_ONE_RANK = {"rank_zero_only": True, "sync_dist": True, "batch_size": 1}  # no sync, and no warning


class CarbontrackCallback(EpisodeCallback, *_BASES):  # type: ignore[misc]
    """Measures each run of a `Trainer`; it takes the arguments of `track`, such as region="FR"."""

    _stage = ""
    record_ids: tuple[str, ...] = ()  # of this training: those that it goes on from, then its own

    @guarded
    def setup(self, trainer: Any, pl_module: Any, stage: Any) -> None:
        name, labels = getattr(stage, "value", stage), {"model": type(pl_module).__name__}
        if trainer.world_size > 1:
            labels |= {"rank": trainer.global_rank, "world_size": trainer.world_size}
        self._episode.begin(name, labels)
        self._stage, own = name, self._episode.record_id
        self.record_ids = (own,) if own and name == "fit" else self.record_ids

    def state_dict(self) -> dict[str, Any]:
        return {"record_ids": list(self.record_ids)} if self.record_ids else {}

    @guarded
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        earlier = [one for one in state_dict["record_ids"] if one not in self.record_ids]
        if earlier and self._stage == "fit":  # not where a checkpoint is merely tested
            self._episode.add_labels({"resumes": earlier[-1]})
            self.record_ids = (*earlier, *self.record_ids)

    @guarded
    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self._next("epoch")

    on_train_batch_start = EpisodeCallback._check

    @guarded
    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        if self._stage == "fit":
            self._next("sanity check" if trainer.sanity_checking else "validation")

    @guarded
    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        goes_on = not (trainer.sanity_checking or trainer.is_last_batch)
        self._next("epoch" if goes_on and self._stage == "fit" else None)

    @guarded
    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self._next(None)
        if trainer.is_global_zero:
            pl_module.log_dict(self._episode.metrics(), **_ONE_RANK)

    def teardown(self, trainer: Any, pl_module: Any, stage: Any) -> None:
        self.on_exception(trainer, pl_module, None)

    @guarded
    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException | None) -> None:
        self._episode.end_by(exception)
        stage, self._stage = self._stage, ""
        if stage and trainer.is_global_zero:
            found = self._episode.metrics(PREFIX if stage == "fit" else f"{PREFIX}{stage}/")
            for logger in trainer.loggers if found else ():
                logger.log_metrics(found, step=trainer.global_step)
