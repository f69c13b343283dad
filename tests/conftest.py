"""What all tests share: JAX on the CPU unless JAX_PLATFORMS says otherwise, and a few fixtures."""

import os
import uuid

# Before any test file imports jax: a test is about what is computed, not about where.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Half the seconds of compiling, for programs too small to gain from what XLA could do for them.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import fsspec  # noqa: E402
import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

# The first example of a property may have to compile: no deadline for it.
settings.register_profile("gptjax", deadline=None)
settings.load_profile("gptjax")


@pytest.fixture(scope="session")
def published() -> bool:
    """Whether the texts of published figures, tinyshakespeare and names, are here.

    Without them a test takes a corpus of pip's, and counts by hand what it compares with.
    """
    return bool(os.environ.get("GPTJAX_DATA_DIR"))


@pytest.fixture
def memory_bucket():
    """The name of a bucket in fsspec's store in memory, of this test alone."""
    name, store = uuid.uuid4().hex, fsspec.filesystem("memory")
    yield name
    if store.exists(f"/{name}"):
        store.rm(f"/{name}", recursive=True)


@pytest.fixture(scope="module")
def optimized():
    """Programs as a user gets them: XLA's optimizations, in this process and those it starts."""
    name = "jax_disable_most_optimizations"
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(name.upper(), raising=False)
        before = jax.config.read(name)
        jax.config.update(name, False)
        yield
        jax.config.update(name, before)


@pytest.fixture(scope="session")
def random_params():
    """A function of a module and its inputs: parameters without compiling the module's init.

    All of them are random, so that a bias, a scale or an order that is lost does not stay unseen.
    """

    def make(module, *inputs, std=0.3, seed=0):
        shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]
        rng = np.random.default_rng(seed)
        return jax.tree.map(lambda s: rng.normal(0, std, s.shape).astype(np.float32), shapes)

    return make
