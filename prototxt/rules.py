"""Which layers of a net exist in a given phase, level and set of stages."""

from collections.abc import Iterable

from prototxt.caffe_pb2 import LayerParameter, NetState, NetStateRule
from prototxt.errors import InputError


def layer_included(layer: LayerParameter, state: NetState) -> bool:
    """Whether `layer` is part of the net in `state`.

    Raises:
        InputError: a layer with both include and exclude rules, as in Caffe.
    """
    if layer.include and layer.exclude:
        raise InputError("has include and exclude rules: keep one kind")
    if layer.include:
        return _any_met(layer.include, state)
    return not _any_met(layer.exclude, state)


def _any_met(rules: Iterable[NetStateRule], state: NetState) -> bool:
    return any(_met(rule, state) for rule in rules)


def _met(rule: NetStateRule, state: NetState) -> bool:
    return (
        (not rule.HasField("phase") or rule.phase == state.phase)
        and (not rule.HasField("min_level") or state.level >= rule.min_level)
        and (not rule.HasField("max_level") or state.level <= rule.max_level)
        and all(stage in state.stage for stage in rule.stage)
        and not any(stage in state.stage for stage in rule.not_stage)
    )
