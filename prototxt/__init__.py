"""Caffe's language: schema, text, upgrades, rules and the execution plan of a net, as plain data."""

import prototxt.layers  # noqa: F401  (declares the layers)
from prototxt.errors import InputError
from prototxt.plan import LayerPlan, ParamPlan, Plan, plan_net
from prototxt.read import parse_net, read_net, read_solver

__all__ = [
    "InputError",
    "LayerPlan",
    "ParamPlan",
    "Plan",
    "parse_net",
    "plan_net",
    "read_net",
    "read_solver",
]
