"""Compiling a function of tensors, or running it as it is where nothing can be compiled."""

from __future__ import annotations

import hashlib
import logging
import re
import shlex
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.passes.dialect.common.cse_pass import CSEPass
from torch.utils._pytree import TreeSpec, tree_flatten, tree_leaves, tree_unflatten

from circuit_phases.files import replacing
from circuit_phases.interruption import StopRequest
from circuit_phases.memory import give_back_what_is_freed

logger = logging.getLogger(__name__)

OPTIONS: dict[str, Any] = {
    # Instructions that the processor has are not tried out first, a quarter of the compile time: a compiler that takes
    # torch's headers knows them.
    "cpp.vec_isa_ok": True,
    # The calls between kernels in C++ too: a step has a hundred of them.
    "cpp_wrapper": True,
    # Apart from the kernels and hardly optimised: in one piece they take most of the compiler's memory and time. With
    # many heads it takes 70 MB less where the compiler frees sooner what it does not need.
    "cpp_wrapper_build_separate": True,
    "aot_inductor.compile_wrapper_opt_level": "O1 --param=ggc-min-expand=30",
    # To compile torch's headers ahead takes longer, and more memory, than a step and its evaluation save by it.
    "cpp_cache_precompile_headers": False,
    "aot_inductor.enable_line_tables": False,
    # Keep attention weights in memory: written into the sums that read them, they are divided again each time.
    "realize_opcount_threshold": 4,
}
MIXED = "Numbers equal those of an undisturbed run within rounding, not to the byte."
ATTEMPTS = 2
"""One that is killed alone, for want of memory, is asked once more: uncompiled, the job would end with other bytes."""
WHOLE_OR_ABSENT = """\
#!/bin/sh
# {compiler}, but what it writes is whole or absent.
left=$# before= output=
while [ "$left" -gt 0 ]; do
    argument=$1
    [ "$before" = -o ] && output=$argument argument=$argument.$$
    before=$1
    shift
    set -- "$@" "$argument"
    left=$((left - 1))
done
[ "$output" ] || exec {compiler} "$@"
{compiler} "$@" && mv "$output.$$" "$output"
"""
"""Torch takes what a killed compiler left of a file for the file, now and in every later job."""
PRODUCTS = (torch.ops.aten.mm.default, torch.ops.aten.bmm.default)


class Compiler:
    """Compiles what a job runs until that fails, however it does; it is said once, and the rest runs as it is.

    A job that is told to stop meanwhile ends instead: what kills it by Ctrl-C kills its compiler too.
    """

    def __init__(self, works: bool = True, stop: StopRequest | None = None) -> None:
        self.works = works
        self._stop = stop or StopRequest()
        self._worked = False

    @property
    def form(self) -> Literal["compiled", "uncompiled", "mixed"]:
        """What has run so far."""
        if not self._worked:
            return "uncompiled"
        return "compiled" if self.works else "mixed"

    def compiled_or_plain(self, compilable: Callable[..., Any], plain: Callable[..., Any]) -> Callable[..., Any]:
        """A function that is compiled at its first call."""
        return self.compiled_in_stages(compilable, plain)()

    def compiled_in_stages(
        self, compilable: Callable[..., Any], plain: Callable[..., Any]
    ) -> Callable[..., Callable[..., Any]]:
        """The same for a function asked many times with the same first arguments.

        Called with those arguments, it gives the function of the others; matrix products of the first
        alone are computed once for all calls of that function.
        """
        working: Callable[..., Callable[..., Any]] | None = None

        def prepare(*first: Any) -> Callable[..., Any]:
            prepared: Callable[..., Any] | None = None

            def call(*others: Any) -> Any:
                nonlocal working, prepared
                if working is None:
                    working = self._compiled_at_last(compilable, first, others) or partial(partial, plain)
                if prepared is None:
                    prepared = working(*first)
                return prepared(*others)

            return call

        return prepare

    def _compiled_at_last(self, *function_and_arguments: Any) -> Callable[..., Callable[..., Any]] | None:
        """A compiled form; none where it fails however often it is tried, and from then on.

        Raises:
            Stopped: if it fails in a job that is told to stop.
        """
        why: list[str] = []
        for _ in range(ATTEMPTS if self.works else 0):
            try:
                compiled = _compiled(*function_and_arguments)
            except Exception as error:
                if self._stop.signal:
                    self._stop.obey(" before all was compiled; what was saved stays")
                why += str(error).strip().splitlines() or [type(error).__name__]
            else:
                self._worked = True
                return compiled
        self.works = False
        if why:
            logger.warning("Not compiled, so slower: %s%s", why[0], f". Other parts are. {MIXED}" * self._worked)
        return None


def _compiled(
    function: Callable[..., Any], first: tuple[Any, ...], others: tuple[Any, ...]
) -> Callable[..., Callable[..., Any]]:
    """A compiled form for arguments of these shapes alone, with nothing that checks them at each call."""
    # Imported here, since it takes longer than many a job that compiles nothing.
    import torch._inductor.config

    torch._inductor.config.compile_threads = torch.get_num_threads()
    flat, structure = tree_flatten((*first, *others))
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
    count = len(tree_leaves(first))
    products, rest = _parted(traced, count)
    # Run once an evaluation, the products of the first are not worth compiling.
    options = OPTIONS | {"cpp.cxx": (_careful_compiler(),)}
    give_back_what_is_freed()
    inner = torch._inductor.compile(rest, [*products(*examples[:count]), *examples], options=options)

    def prepare(*first: Any) -> Callable[..., Any]:
        leaves = tree_leaves(first)
        known = [*products(*leaves), *leaves]
        return lambda *values: tree_unflatten(inner(*known, *tree_leaves(values)), result)

    return prepare


def _careful_compiler() -> str:
    """The compiler that torch finds, made to write whole files; its script lies among what torch compiled."""
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    compiler, folder = get_cpp_compiler(), cache_dir()
    if re.search(r"[\s'\"\\]", folder):
        raise OSError(f"{folder} holds blanks or quotes. Set TORCHINDUCTOR_CACHE_DIR to a folder that does not.")
    # Torch tells the kind of a compiler by the names in its path.
    if re.search(r"clang|gcc|g\+\+|icx|icpx", folder):
        return compiler
    text = WHOLE_OR_ABSENT.format(compiler=shlex.quote(compiler))
    digest = hashlib.blake2b(text.encode(), digest_size=4).hexdigest()
    script = Path(folder, f"careful-{digest}-{Path(compiler).name}")
    if not script.exists():
        with replacing(script) as temporary:
            temporary.write_text(text)
            temporary.chmod(0o755)
    return str(script)


def _parted(traced: GraphModule, count: int) -> tuple[Callable[..., Sequence[Tensor]], GraphModule]:
    """The matrix products of the first `count` arguments alone, and the rest, which takes them before its arguments."""
    arguments = [node for node in traced.graph.nodes if node.op == "placeholder"]
    known = set(arguments[:count])
    for node in traced.graph.nodes:
        if node.op != "placeholder" and known.issuperset(node.all_input_nodes):
            known.add(node)
    products = [node for node in traced.graph.nodes if node in known and node.target in PRODUCTS]
    if not products:
        return lambda *_: (), traced
    results = cast("list[Node]", traced.graph.output_node().args[0])
    return _part(traced, arguments[:count], products), _part(traced, [*products, *arguments], results)


def _part(traced: GraphModule, given: Sequence[Node], wanted: Sequence[Node]) -> GraphModule:
    """What computes some values of a graph, given others."""
    part = Graph()
    copies = {node: part.placeholder(node.name) for node in given}
    for node in traced.graph.nodes:
        if (
            node.op not in ("placeholder", "output")
            and node not in copies
            and copies.keys() >= set(node.all_input_nodes)
        ):
            copies[node] = part.node_copy(node, copies.__getitem__)
    part.output([copies[node] for node in wanted])
    part.eliminate_dead_code()
    return GraphModule(traced, part)
