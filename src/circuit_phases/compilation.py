"""Compiling a function of tensors, or running it as it is where nothing can be compiled."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.passes.dialect.common.cse_pass import CSEPass
from torch.utils._pytree import TreeSpec, tree_flatten, tree_leaves, tree_unflatten

logger = logging.getLogger(__name__)

OPTIONS: dict[str, Any] = {
    # The calls between kernels in C++ too: a step has a hundred of them.
    "cpp_wrapper": True,
    # Keep attention weights in memory: written into the sums that read them, they are divided again each time.
    "realize_opcount_threshold": 4,
}


def compiled_or_plain(compilable: Callable[..., Any], plain: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function at its first call; where that fails (no compiler), run the plain one and say so once."""
    working: Callable[..., Any] | None = None

    def call(*arguments: Any) -> Any:
        nonlocal working
        if working is None:
            try:
                working = _compiled(compilable, arguments)
                return working(*arguments)
            except (torch._dynamo.exc.TorchDynamoException, torch._inductor.exc.InductorError) as error:
                logger.warning("Not compiled, so slower: %s", str(error).strip().splitlines()[0])
                working = plain
        return working(*arguments)

    return call


def _compiled(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Callable[..., Any]:
    """A compiled form for arguments of these shapes alone, with nothing that checks them at each call."""
    flat, structure = tree_flatten(arguments)
    result: TreeSpec

    def on_leaves(*leaves: Any) -> list[Any]:
        nonlocal result
        values, result = tree_flatten(function(*tree_unflatten(leaves, structure)))
        return values

    examples = [value.clone() for value in flat]
    traced = make_fx(on_leaves)(*examples)
    common = CSEPass()(traced)
    traced = common.graph_module if common else traced
    for node in traced.graph.nodes:
        # Each traced value brought its own fake mode; the compiler makes one for all.
        node.meta.clear()
    inner = torch._inductor.compile(traced, examples, options=OPTIONS)
    return lambda *values: tree_unflatten(inner(*tree_leaves(values)), result)
