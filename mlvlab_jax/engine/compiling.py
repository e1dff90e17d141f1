"""Programs compiled from shapes alone, in a thread, while the rest of a run gets ready."""

import threading
from collections.abc import Mapping
from concurrent import futures
from typing import Any

import jax

from mlvlab_jax.errors import ConfigError
from mlvlab_jax.types import Tree

CompileOptions = Mapping[str, bool | int | float | str]
#: How the names of the threads that compile begin.
_THREAD = "compile"


class AheadOfTime:
    """A jitted function that is traced and compiled once, from now on, in a thread; a call waits for it.

    What goes wrong in tracing or compiling is raised by the call. The thread is not a daemon: a process that ends in
    the middle of a compilation waits for it, as XLA cannot be interrupted.

    Args:
        function: What `jax.jit` gave.
        arguments: Shapes and types of its arguments, as `jax.ShapeDtypeStruct` leaves.
    """

    def __init__(self, function: Any, arguments: tuple[Tree, ...]) -> None:
        pool = futures.ThreadPoolExecutor(1, thread_name_prefix=_THREAD)
        self._compiled: futures.Future[Any] = pool.submit(lambda: function.lower(*arguments).compile())
        pool.shutdown(wait=False)

    def wait(self) -> None:
        """Returns when it is compiled, or could not be."""
        futures.wait([self._compiled])

    def __call__(self, *arguments: Tree) -> Any:
        """The function's result; arguments must lie on the devices as its shardings say."""
        return self._compiled.result()(*arguments)


def is_compiling() -> bool:
    """Whether some function is being compiled ahead of time."""
    return any(thread.name.startswith(_THREAD) for thread in threading.enumerate())


def describe_arrays(tree: Tree) -> Tree:
    """Shapes, types and shardings of a tree of arrays."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)


def check_compile_options(options: CompileOptions) -> None:
    """Compiles next to nothing with each option, so that a wrong one is known before a run has begun.

    Raises:
        ConfigError: The compiler of this machine's devices does not take an option or its value.
    """
    for name, value in options.items():
        try:
            jax.jit(lambda: 0, compiler_options={name: value}).lower().compile()
        except jax.errors.JaxRuntimeError as error:
            raise ConfigError(
                f"{name}: {value!r} is refused by the compiler for {jax.default_backend()}: "
                f"{str(error).splitlines()[0]}; expected an option of XLA's compiler and a value of its type, such as "
                "xla_embed_ir_in_executable: true; correct it or leave it out",
                path="compile_options",
            ) from None
